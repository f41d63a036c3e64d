"""Bands made uncorrelated before the first layer, into which the matrix folds: no pass over the images is added.

Clouds move all bands as one and make nearly all of their variance; crops differ in what is left. A network that is
given both at their own size spends its first steps on clouds.
"""

import torch
from torch import Tensor


def whitening_matrix(covariance: Tensor, floor: float) -> Tensor:
    """Covariance of the normalised bands (c c) -> c c: symmetric, what makes them uncorrelated and of variance 1.

    floor: variance added in every direction, so that directions of noise alone are not blown up.
    """
    values, directions = torch.linalg.eigh(covariance.double())
    return (directions * (values + floor).rsqrt() @ directions.T).to(covariance.dtype)


def whitening_buffer(bands: int) -> Tensor:
    """What a network holds until it is told the matrix of its data (c c): no change."""
    return torch.eye(bands)
