"""The segmenter as a training task, on pseudo masks or on true ones: the same code for both."""

from collections.abc import Callable

import torch
from torch import Tensor

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.model.method.losses import pixel_loss
from cluemap.model.networks.segmenter import Segmenter
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.inference import maps, scan
from cluemap.training.metrics import Ids, Scores, confusion, scores


def new_segmenter(windows: Windows, params: Params) -> Segmenter:
    """A segmenter as it is before the first step; a function of the seed."""
    legend = windows.card.legend
    torch.manual_seed(params.seed)
    classes = len(legend.classes) + legend.background
    return Segmenter(len(legend.bands), classes, windows.card.size, params.segmenter)


class SegmenterTask:
    """See `cluemap.training.task.Task`."""

    def __init__(self, network: Segmenter, windows: Windows, params: Params, ranks: Ranks):
        self.network, self.windows, self.params, self.ranks = network, windows, params, ranks
        self.select = None if params.segmenter.select == "last" else params.segmenter.select
        self.background = windows.card.legend.background

    def losses(self, forward: Callable[[Batch], Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "total": cross-entropy over the pixels that are not 255."""
        if batch.mask is None:
            raise ValueError("the segmenter trains on masks: give Data its masks")
        truth = batch.mask
        if not self.background:  # ids 1..K -> 0..K-1, 255 stays
            truth = torch.where(truth == 255, 255, truth - 1)
        return {"total": pixel_loss(forward(batch).float(), truth, self.ranks.total)}

    def points(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        pass

    def validate(self) -> dict[str, float]:
        """OA and mIoU on the validation fold."""
        found = score_on(self.network, self.windows, "validation", self.params, self.ranks)
        return {"miou": float(found.miou), "accuracy": float(found.overall_accuracy)}


def score_on(network: Segmenter, windows: Windows, split: str, params: Params, ranks: Ranks) -> Scores:
    """Scores of the segmenter's maps against the true masks of a split."""
    return scores(confusion_on(network, windows, split, params, ranks))


def confusion_on(network: Segmenter, windows: Windows, split: str, params: Params, ranks: Ranks):
    """Confusion of the segmenter's maps with the true masks of a split, over all ranks."""
    legend = windows.card.legend
    ids = Ids(len(legend.classes), legend.background)
    truth = windows.masks(split)
    network.eval()
    counts = torch.zeros(ids.size, ids.size + 1, dtype=torch.int64)
    for batch in scan(windows, windows.indexes(split), params.compute.inference_batch, ranks):
        found = maps(network, batch, params, legend.background).cpu().numpy()
        rows = truth[windows.mask_row[batch.index.cpu().numpy()]]
        counts += torch.from_numpy(confusion(rows, found, ids))
    return ranks.total(counts.to(ranks.device)).cpu().numpy()
