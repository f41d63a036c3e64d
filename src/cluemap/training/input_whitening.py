"""A new network is told how the bands of its training windows vary together."""

from cluemap.data.batches import covariance
from cluemap.data.windows import Windows
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.segmenter import Network
from cluemap.model.networks.whitening import whitening_matrix


def whiten(network: Classifier | Network, windows: Windows, floor: float) -> None:
    """Fill the network's whitening matrix; nothing where `floor` is 0 and it has none."""
    if network.temporal.whitening is not None:
        network.temporal.whitening.copy_(whitening_matrix(covariance(windows), floor))
