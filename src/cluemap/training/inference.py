"""Passes without gradients over prepared windows: their CAMs, logits and maps, shared out over the ranks."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.batches import Batch, bucketed, stream
from cluemap.data.windows import Windows
from cluemap.model.affinity import refine
from cluemap.model.cams import clue_cam, min_max, raw_cam
from cluemap.model.classifier import Classifier
from cluemap.model.clues import Clues
from cluemap.model.encoder import Watched
from cluemap.model.segmenter import Segmenter
from cluemap.params import Params
from cluemap.training.distributed import Ranks
from cluemap.training.loop import autocast


def scan(windows: Windows, indexes: NDArray, batch: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's share of the windows, each once over all ranks, series of similar length together."""
    return stream(windows, bucketed(windows.dates, indexes, batch)[ranks.rank :: ranks.world], ranks.device)


def cam(network: Classifier, clues: Clues, batch: Batch, source: str, params: Params) -> tuple[Tensor, Watched]:
    """One batch -> b k i j in 0..1 (0 for absent classes), and what the temporal encoder saw.

    source: clue (temporal encoder alone, propagated) | fused, spatial, temporal (raw) | refined (fused, propagated).
    """
    with torch.no_grad(), autocast(params.compute, batch.images.device):
        if source == "clue":
            watched = network.temporal.watched(batch.images, batch.day, batch.valid)
        else:
            out = network(batch.images, batch.day, batch.valid)
            watched = out.watched
    if source == "clue":
        found = clue_cam(watched.dense.float(), clues, batch.image_labels, network.side)
    else:
        found = raw_cam(out.temporal.float(), out.spatial.float(), "fused" if source == "refined" else source)
    if source in ("clue", "refined"):
        found = refine(
            found, watched.sequence, watched.attention, batch.valid, batch.image_labels,
            params.affinity, params.temporal_weighting, params.cams.blend,
        )  # fmt: skip
    return min_max(found) * batch.image_labels[:, :, None, None], watched


def maps(network: Segmenter, batch: Batch, params: Params, background: bool) -> Tensor:
    """One batch -> b h w, the segmenter's class of each pixel (0 = background, 1..K)."""
    with torch.no_grad(), autocast(params.compute, batch.images.device):
        logits = network(batch.images, batch.day, batch.valid)
    return logits.argmax(dim=1) + (not background)


def gather_rows(rows: dict[int, NDArray], ranks: Ranks) -> dict[int, NDArray]:
    """Every rank's {window: row}, together on rank 0 (empty elsewhere)."""
    together: dict[int, NDArray] = {}
    for part in ranks.gather(rows):
        together.update(part)
    return together


def in_order(rows: dict[int, NDArray], indexes: NDArray) -> NDArray:
    """{window: row} -> n ..., one row per index, in that order."""
    return np.stack([rows[int(index)] for index in indexes])
