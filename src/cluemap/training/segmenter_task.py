"""The segmenter as a training task, on pseudo masks or on true ones: the same code for both."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.model.method.losses import pixel_loss, soft_pixel_loss
from cluemap.model.networks.segmenter import Network, Segmenter, build_segmenter
from cluemap.model.storage.initial_weights import NONE, take_over
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.augmentation import augmented, generators
from cluemap.training.inference import maps, scan
from cluemap.training.input_whitening import whiten
from cluemap.training.map_scores import MapCounts, map_counts
from cluemap.training.metrics import VOID, Ids, Scores, scores
from cluemap.training.task import NetworkAlone

FEWEST_WINDOWS, FEWEST_PIXELS = 3, 1000  # of a validation fold that may choose the weights
PARTS = 10  # of a repeat: an epoch then holds the commonest windows ten times
logger = logging.getLogger(__name__)


def new_segmenter(windows: Windows, params: Params) -> Network:
    """A segmenter as it is before the first step; a function of the seed."""
    legend = windows.card.legend
    torch.manual_seed(params.seed)
    classes = len(legend.classes) + legend.background
    network = build_segmenter(len(legend.bands), classes, windows.card.size, params.segmenter, params.ltae)
    whiten(network, windows, params.segmenter.whitening)
    if params.segmenter.init != NONE:
        take_over(network, params.segmenter.init, legend.bands)
    return network


class SegmenterTask(NetworkAlone):
    """See `cluemap.training.task.Task`."""

    network: nn.Module

    def __init__(self, network: nn.Module, windows: Windows, params: Params, ranks: Ranks):
        self.network, self.windows, self.params, self.ranks = network, windows, params, ranks
        self.select = None if params.segmenter.select == "last" or too_small(windows) else params.segmenter.select
        self.background = windows.card.legend.background
        self.weights: Tensor | None = None  # k, of each class in the loss

    def weigh(self, masks: NDArray[np.uint8], probabilities: NDArray[np.uint8] | None = None) -> None:
        """Weigh classes by how rare they are, as `segmenter.class_weights` says: in these masks (n h w), or in the
        probabilities (n h w s) where these are learned in place of them.
        """
        power, size = self.params.segmenter.class_weights, len(self.windows.card.legend.classes) + self.background
        if power == 0:
            return
        if probabilities is None or self.params.segmenter.labels != "soft":
            weights = class_weights(masks, size, 1 - self.background, power)
        else:
            mass = sum(row.sum(axis=(0, 1), dtype=np.float64) for row in probabilities)
            weights = weights_of(np.asarray(mass)[1 - self.background :], power)
        self.weights = torch.from_numpy(weights).to(self.ranks.device)

    def losses(self, forward: Callable[[Batch], Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "total": cross-entropy, see `pixel_loss`."""
        batch, truth = drawn(batch, step, self.params, self.ranks)
        return {"total": self.pixel_loss(forward(batch), truth, batch.probabilities)}

    def pixel_loss(self, logits: Tensor, truth: Tensor, probabilities: Tensor | None) -> Tensor:
        """b k h w, b h w (ids as in the legend, 255 ignored), b s h w (of the ids 0..K; None: the masks are sure) ->
        scalar. As `segmenter.labels` says, a pixel's loss weighs by its confidence, or its probabilities are learned.
        """
        logits, total = logits.float(), self.ranks.total
        if not self.background:  # ids 1..K -> 0..K-1, 255 stays
            truth = torch.where(truth == 255, 255, truth - 1)
        if probabilities is None:
            return pixel_loss(logits, truth, total, self.weights)
        if self.params.segmenter.labels == "soft":
            return soft_pixel_loss(logits, probabilities[:, 1 - self.background :], total, self.weights)
        return pixel_loss(logits, truth, total, self.weights, probabilities.amax(dim=1))

    @property
    def published(self) -> Segmenter:
        """What is scored, and stays after the training."""
        return self.network  # type: ignore[return-value]

    def validate(self) -> dict[str, float]:
        """OA and mIoU on the validation fold."""
        found = score_on(self.published, self.windows, "validation", self.params, self.ranks)
        return {"miou": float(found.miou), "accuracy": float(found.overall_accuracy)}


def class_weights(masks: NDArray[np.uint8], size: int, first: int, power: float) -> NDArray[np.float32]:
    """n h w (ids from `first` on, 255 ignored) -> k: share ** -power, so scaled that the mean over pixels is 1; 0 for a
    class without pixels, which no pixel asks for."""
    return weights_of(np.bincount(np.asarray(masks).ravel(), minlength=256)[first : first + size], power)


def weights_of(counts: NDArray, power: float) -> NDArray[np.float32]:
    """Pixels of each class k -> k, as `class_weights`."""
    counts = counts.astype(np.float64)
    total = max(counts.sum(), 1.0)
    raw = np.where(counts > 0, np.maximum(counts / total, 1e-12) ** -power, 0.0)
    mean = (raw * counts).sum() / total
    return (raw / (mean if mean > 0 else 1.0)).astype(np.float32)


def repeats(masks: NDArray[np.uint8], power: float, presence: float) -> NDArray[np.int64]:
    """n h w (255 ignored) -> n: how often each window is drawn in an epoch; 1 with `power` 0.

    As often as its rarest class asks for: (windows with the commonest class / windows with that one) ** power, in parts
    of a tenth. A class counts where it has more than the share `presence` of a window. The repeat factors of Gupta et
    al. 2019 (LVIS), with the commonest class in place of their threshold.
    """
    classes = [k for k in np.unique(masks).tolist() if k != VOID]
    if power == 0 or not classes:
        return np.ones(len(masks), np.int64)
    there = np.stack([(masks == k).mean(axis=(1, 2)) > presence for k in classes], axis=1)  # n k
    windows = there.sum(axis=0)
    factor = np.where(windows > 0, (windows.max() / np.maximum(windows, 1)) ** power, 0.0)
    return np.rint(PARTS * np.maximum((there * factor).max(axis=1), 1.0)).astype(np.int64)


def drawn(batch: Batch, step: int, params: Params, ranks: Ranks) -> tuple[Batch, Tensor]:
    """This rank's batch with this step's augmentation, and its masks (b h w)."""
    draws = generators(params.seed, step, ranks.rank, ranks.world, len(batch))
    batch = augmented(batch, params.augmentation, draws)
    if batch.mask is None:
        raise ValueError("the segmenter trains on masks: give Data its masks")
    return batch, batch.mask


def too_small(windows: Windows) -> bool:
    """Whether the validation fold cannot choose between checkpoints; a warning says why."""
    truth = np.asarray(windows.masks("validation"))
    count, labelled = len(truth), int((truth != VOID).sum())
    classes = len(np.unique(truth[truth != VOID]))
    if count >= FEWEST_WINDOWS and labelled >= FEWEST_PIXELS and classes > 1:
        return False
    reason = f"the validation fold holds {count} windows with {labelled} labelled pixels of {classes} classes"
    logger.warning("%s: too few to choose the weights by, so the last ones are taken (segmenter.select: last)", reason)
    return True


def score_on(network: Segmenter, windows: Windows, split: str, params: Params, ranks: Ranks) -> Scores:
    """Scores of the segmenter's maps against the true masks of a split."""
    return scores(counts_on(network, windows, split, params, ranks).confusion)


def counts_on(network: Segmenter, windows: Windows, split: str, params: Params, ranks: Ranks) -> MapCounts:
    """Counts of the segmenter's maps against the true masks of a split, over all ranks."""
    legend = windows.card.legend
    ids = Ids(len(legend.classes), legend.background)
    truth = windows.masks(split)
    network.eval()
    counts = MapCounts.none(ids)
    for batch in scan(windows, windows.indexes(split), params.compute.inference_batch, ranks):
        found = maps(network, batch, params, legend.background, windows).cpu().numpy().astype(np.uint8)
        counts += map_counts(truth[windows.mask_row[batch.index.cpu().numpy()]], found, ids)
    return MapCounts(*(ranks.total(torch.from_numpy(part).to(ranks.device)).cpu().numpy() for part in counts))
