"""How unlike what a model was taught is a pixel's series, in percent of held-out pixels that are less so.

Two distances, as in the control of processes (Jackson and Mudholkar 1979): in the directions that tell the taught
classes apart, to the nearest class; in all other directions, to the middle. Both are Mahalanobis distances with the
covariance within classes, shrunk. Each becomes the share of held-out pixels that are as far, and the two shares one
number (Fisher 1932): neither a crop that lies between known ones nor a series of another kind can hide.

Axes: n pixel taught, m pixel held out, p pixel asked about, f feature (a band at an even day), k class.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from cluemap.errors import DataError

FARTHEST = 3.0  # standard deviations: a cloud that was missed counts no more than that at its date
LEAST = 1.0  # standard deviation, in 1/10000 of reflectance: of a band that is the same everywhere


@dataclass(frozen=True, eq=False)
class Unlikeness:
    """What pixels are held against."""

    mean: Tensor  # f
    deviation: Tensor  # f
    axes: Tensor  # f f: squared lengths of `standard @ axes` are distances; the first k - 1 columns tell classes apart
    centres: Tensor  # k f, the classes' means as `axes` see them; alike beyond column k - 1
    held: Tensor  # 2 m, the held-out pixels' distances, rising
    shared: Tensor  # m, what Fisher's method makes of both, rising

    @classmethod
    def of(cls, taught: NDArray, classes: NDArray, held: NDArray) -> "Unlikeness":
        """n f, n, m f -> what is needed to ask about pixels.

        Raises:
            DataError: nothing taught or held out.
        """
        if not len(taught) or not len(held):
            raise DataError(f"{len(taught)} series taught and {len(held)} held out: one of each is needed at least")
        taught = np.asarray(taught, np.float64)
        mean, deviation = taught.mean(axis=0), np.maximum(taught.std(axis=0), LEAST)
        standard = np.clip((taught - mean) / deviation, -FARTHEST, FARTHEST)
        names, which = np.unique(classes, return_inverse=True)
        centres = np.stack([standard[which == k].mean(axis=0) for k in range(len(names))])
        within = _whitener(standard - centres[which])
        axes = within @ _telling_first((centres - centres.mean(axis=0)) @ within)
        numbers = [_floats(number) for number in (mean, deviation, axes, centres @ axes)]
        one = cls(numbers[0], numbers[1], numbers[2], numbers[3], torch.zeros(2, 0), torch.zeros(0))
        found = one.distances(_floats(held))
        one = replace(one, held=found.sort(dim=1).values)
        return replace(one, shared=one.together(found).sort().values)

    def to(self, device: torch.device) -> "Unlikeness":
        return Unlikeness(**{name: value.to(device) for name, value in vars(self).items()})

    def distances(self, pixels: Tensor) -> Tensor:
        """p f -> 2 p: to the nearest class in the directions that tell classes apart; to the middle in the others."""
        standard = ((pixels - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        seen, telling = standard @ self.axes, len(self.centres) - 1
        near = [(seen[:, :telling] - centre[:telling]).square().sum(dim=1) for centre in self.centres]
        rest = (seen[:, telling:] - self.centres[:, telling:].mean(dim=0)).square().sum(dim=1)
        return torch.stack([torch.stack(near).amin(dim=0), rest])

    def together(self, distances: Tensor) -> Tensor:
        """2 p -> p: less the sum of the logarithms of the shares of held-out pixels that are as far."""
        count = self.held.shape[1]
        below = torch.searchsorted(self.held, distances.contiguous())
        return -((1 + count - below).float() / (count + 1)).log().sum(dim=0)

    def percent(self, pixels: Tensor) -> Tensor:
        """p f -> p uint8: of the held-out pixels, those that are less unlike; 100 = all of them."""
        below = torch.searchsorted(self.shared, self.together(self.distances(pixels)).contiguous())
        return (100 * below // len(self.shared)).to(torch.uint8)


def _whitener(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """n f -> f f: W with W W' the inverse of the covariance, shrunk as Ledoit and Wolf (2004) do."""
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    covariance = covariance + 1e-6 * np.eye(len(covariance))  # a single pixel a class has none
    return np.asarray(np.linalg.cholesky(np.linalg.inv(covariance)))


def _telling_first(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """k f, their mean 0 -> f f: a rotation whose first k - 1 columns span them."""
    return np.linalg.svd(centres, full_matrices=True)[2].T


def _floats(numbers: NDArray) -> Tensor:
    return torch.from_numpy(np.asarray(numbers, np.float32))
