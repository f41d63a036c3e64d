"""Batches of labelled and unlabelled windows: the labelled ones first, of every rank's share too."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cluemap.data.batches import Batch, batch_indexes
from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import TrainingError
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.segmenter_task import repeats
from cluemap.training.task import Data


@dataclass(frozen=True, kw_only=True)
class MixedData(Data):
    """`Data` whose batches hold unlabelled windows too; which ones depends on the step alone."""

    unlabelled: NDArray[np.int64]
    batch: int  # unlabelled windows a step, over all processes
    seed: int
    ranks: Ranks

    def batches(self, order: Iterable[tuple[int, NDArray[np.int64]]], device: torch.device) -> Iterator[Batch]:
        indexes = np.concatenate([self.indexes, self.unlabelled])
        everything = Data(self.windows, indexes, self.masks, self.probabilities)
        mixed = ((step, np.concatenate([labelled, self._unlabelled_of(step)])) for step, labelled in order)
        return everything.batches(mixed, device)

    def _unlabelled_of(self, step: int) -> NDArray[np.int64]:
        ranks = self.ranks
        places = batch_indexes(len(self.unlabelled), self.batch, step, self.seed, ranks.rank, ranks.world)
        return self.unlabelled[places]


def segmenter_data(
    windows: Windows, masks: NDArray[np.uint8], params: Params, ranks: Ranks,
    probabilities: NDArray[np.uint8] | None = None,
) -> Data:  # fmt: skip
    """What a segmenter is trained on: masks n h w and their probabilities n h w s, and the unlabelled windows if it
    learns from them; raises as `learns_from_unlabelled`.
    """
    times = repeats(masks, params.segmenter.balanced, params.windows.presence)
    labelled = np.repeat(windows.indexes("train"), times)  # every epoch then draws a window that often
    data = Data(windows, labelled, masks, probabilities)
    if not learns_from_unlabelled(windows, params):
        return data
    return _mixed(data, params.segmenter.batch, params, ranks)


def classifier_data(windows: Windows, params: Params, ranks: Ranks) -> Data:
    """What the classifier is trained on, as `segmenter_data` without masks."""
    labelled = Data(windows, windows.indexes("train"))
    if not classifier_is_taught(windows, params):
        return labelled
    return _mixed(labelled, params.classifier.batch, params, ranks)


def _mixed(labelled: Data, batch: int, params: Params, ranks: Ranks) -> MixedData:
    """`batch`: labelled windows a step, over all processes."""
    windows = labelled.windows
    return MixedData(
        windows, labelled.indexes, labelled.masks, labelled.probabilities,
        unlabelled=windows.indexes(UNLABELLED), batch=params.semisupervised.ratio * batch, seed=params.seed,
        ranks=ranks,
    )  # fmt: skip


def learns_from_unlabelled(windows: Windows, params: Params) -> bool:
    """Whether `semisupervised` applies to a segmenter of these windows. It does not where all of them have labels, as
    with `labelled.kind: masks` for the segmenter that learns from image labels.

    Raises:
        TrainingError: it is on, and nothing is hidden from any stage.
    """
    kind = params.semisupervised.kind
    if kind != "off" and params.labelled.all and not windows.part:
        raise TrainingError(
            f"semisupervised.kind is {kind}, but every training window has labels: set labelled.share, labelled.count "
            "or labelled.file (a region of your own: labels.keep_unlabelled in scene.yaml), or semisupervised.kind: off"
        )
    return kind != "off" and bool(windows.part)


def classifier_is_taught(windows: Windows, params: Params) -> bool:
    """As `learns_from_unlabelled`, of the classifier, and whether that is wanted; it never is where masks are few."""
    return learns_from_unlabelled(windows, params) and params.semisupervised.classifier
