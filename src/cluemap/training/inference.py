"""Passes without gradients over prepared windows: their CAMs, logits and maps, shared out over the ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.batches import Batch, bucketed, stream
from cluemap.data.windows import Windows
from cluemap.model.method.affinity import refine
from cluemap.model.method.cams import clue_cam, min_max, raw_cam
from cluemap.model.method.clues import Clues
from cluemap.model.method.pseudo_masks import upsample
from cluemap.model.networks.classifier import Classified, Classifier
from cluemap.model.networks.segmenter import Segmenter
from cluemap.model.networks.stand_in import StandInSegmenter
from cluemap.model.networks.temporal_encoder import Watched
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast
from cluemap.training.semisupervised.metadata import metadata_of


def scan(windows: Windows, indexes: NDArray, batch: int, ranks: Ranks) -> Iterator[Batch]:
    """This rank's share of the windows, each once over all ranks, series of similar length together."""
    return (found for found in in_step(windows, indexes, batch, ranks) if found is not None)


def in_step(windows: Windows, indexes: NDArray, batch: int, ranks: Ranks, done: int = 0) -> Iterator[Batch | None]:
    """`scan`, with as many turns on every rank: None in the last one where this rank has nothing left. The first `done`
    batches are left out.
    """
    batches = bucketed(windows.dates, indexes, batch)[done:]
    mine = stream(windows, batches[ranks.rank :: ranks.world], ranks.device)
    for _ in range(0, len(batches), ranks.world):
        yield next(mine, None)


def cams(
    network: Classifier, clues: Clues, batch: Batch, sources: Sequence[str], params: Params
) -> tuple[dict[str, Tensor], Watched]:
    """One batch -> {source: b k i j in 0..1, 0 for absent classes}, and what the temporal encoder saw.

    source: clue (propagated) | fused, spatial, temporal (raw) | refined (fused, propagated). The spatial encoder runs
    only for other sources than clue, and once for all of them.
    """
    raw: Callable[[str], Tensor]
    with torch.no_grad(), autocast(params.compute, batch.images.device):
        if any(source != "clue" for source in sources):
            out = network(batch.images, batch.day, batch.valid)
            watched = out.watched
            raw = lambda part: raw_cam(out.temporal.float(), out.spatial.float(), part)
        else:
            watched = network.watched(batch.images, batch.day, batch.valid)
    found = {}
    for source in sources:
        if source == "clue":
            found[source] = clue_cams(network, clues, batch, watched, params)
        elif source == "refined":
            found[source] = refined_cams(out, batch, params)
        else:
            found[source] = _finished(raw(source), batch)
    return found, watched


def shifted_cams(
    network: Classifier, clues: Clues, batch: Batch, sources: Sequence[str], params: Params
) -> tuple[dict[str, Tensor], Watched]:
    """`cams` at every place that the grid can have on the pixels, averaged there: {source: b k h w}, h w in pixels.

    A grid position sees patch x patch pixels; its borders fall anywhere on a field. With the window's pixels moved by
    0..patch-1 up and left (the last row and column repeated) they fall elsewhere. A pixel's mean is over the grids that
    saw it at its own place. What the temporal encoder saw is that of the grid that is not moved.
    """
    size = batch.images.shape[-1]
    moves = list(product(range(size // network.side), repeat=2))
    together: dict[str, Tensor] = {}
    seen = torch.zeros(size, size, device=batch.images.device)
    for down, right in moves:
        rows = torch.arange(size, device=seen.device).add(down).clamp(max=size - 1)
        columns = torch.arange(size, device=seen.device).add(right).clamp(max=size - 1)
        moved = replace(batch, images=batch.images[..., rows, :][..., columns])
        found, watched = cams(network, clues, moved, sources, params)
        if (down, right) == (0, 0):
            first = watched
        seen[down:, right:] += 1
        for source, cam in found.items():
            whole = together.setdefault(source, cam.new_zeros(*cam.shape[:2], size, size))
            whole[..., down:, right:] += upsample(cam, size)[..., : size - down, : size - right]
    return {source: _finished(whole / seen, batch) for source, whole in together.items()}, first


def clue_cams(network: Classifier, clues: Clues, batch: Batch, watched: Watched, params: Params) -> Tensor:
    """b k i j in 0..1, 0 for absent classes: the clue CAM (eq. 16) of what the temporal encoder saw, propagated."""
    found = clue_cam(watched.dense.float(), clues, batch.image_labels, network.side)
    return _finished(propagated(found, batch, watched, params), batch)


def refined_cams(out: Classified, batch: Batch, params: Params) -> Tensor:
    """b k i j in 0..1, 0 for absent classes: the raw fused CAM, propagated."""
    raw = raw_cam(out.temporal.float(), out.spatial.float())
    return _finished(propagated(raw, batch, out.watched, params), batch)


def propagated(cam: Tensor, batch: Batch, watched: Watched, params: Params) -> Tensor:
    """b k i j -> b k i j: refined with `cams.blend` (METHOD section 5)."""
    return refine(
        cam, watched.sequence, watched.attention, batch.valid, batch.image_labels,
        params.affinity, params.temporal_weighting, params.cams.blend,
    )  # fmt: skip


def _finished(cam: Tensor, batch: Batch) -> Tensor:
    return min_max(cam) * batch.image_labels[:, :, None, None]


def maps(network: Segmenter, batch: Batch, params: Params, background: bool, windows: Windows | None = None) -> Tensor:
    """One batch -> b h w, the segmenter's class of each pixel (0 = background, 1..K); `windows`: see `inputs_of`."""
    with torch.no_grad(), autocast(params.compute, batch.images.device):
        logits = network(*inputs_of(network, batch, windows))
    return logits.argmax(dim=1) + (not background)


def inputs_of(network: Segmenter, batch: Batch, windows: Windows | None) -> tuple[Tensor, ...]:
    """What a segmenter is called with on a batch of these windows: images and, for comparison alone, their place."""
    if isinstance(network, StandInSegmenter) and network.told and windows is not None:
        return *batch.inputs, metadata_of(windows)[batch.index.cpu()].to(batch.images.device)
    return batch.inputs


def gather_rows(rows: dict[int, NDArray], ranks: Ranks) -> dict[int, NDArray]:
    """Every rank's {window: row}, together on rank 0 (empty elsewhere)."""
    together: dict[int, NDArray] = {}
    for part in ranks.gather(rows):
        together.update(part)
    return together


def in_order(rows: dict[int, NDArray], indexes: NDArray) -> NDArray:
    """{window: row} -> n ..., one row per index, in that order."""
    return np.stack([rows[int(index)] for index in indexes])
