"""How sure a segmenter may be: one temperature from the validation fold, and how well that does elsewhere."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cluemap.data.patches import VOID
from cluemap.data.windows import Windows
from cluemap.model.networks.segmenter import Segmenter
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast
from cluemap.statistics.calibration import Reliability, calibrated, fit_temperature, reliability
from cluemap.training.inference import inputs_of, scan

WINDOWS = 400  # looked at, evenly spread: pixels enough for one number


class Calibration(NamedTuple):
    """What a split says of a model's confidence: as trained, and with its temperature."""

    temperature: float
    before: Reliability
    after: Reliability


def labelled_logits(
    network: Segmenter, windows: Windows, split: str, params: Params, ranks: Ranks
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits p k and classes p (0..k-1) of the labelled pixels of up to WINDOWS windows; on rank 0 (others: none)."""
    indexes = windows.indexes(split)
    chosen = indexes[np.unique(np.linspace(0, len(indexes) - 1, min(WINDOWS, len(indexes))).round().astype(int))]
    first, masks = 0 if windows.card.legend.background else 1, windows.masks(split)
    size = len(windows.card.legend.classes) + 1 - first
    parts: dict[int, tuple[NDArray, NDArray]] = {}
    network.eval()
    for batch in scan(windows, chosen, params.compute.inference_batch, ranks):
        with torch.no_grad(), autocast(params.compute, batch.images.device):
            logits = network(*inputs_of(network, batch, windows))
        found = logits.float().permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)
        for index, answers in zip(batch.index.tolist(), found, strict=True):
            truth = np.asarray(masks[windows.mask_row[index]])
            parts[index] = answers[truth != VOID], truth[truth != VOID].astype(np.int64) - first
    every: dict[int, tuple[NDArray, NDArray]] = {}
    for part in ranks.gather(parts):
        every.update(part)
    ordered = [every[index] for index in sorted(every)]
    none = np.zeros((0, size)), np.zeros(0, np.int64)
    logits, labels = (np.concatenate(side) for side in zip(none, *ordered, strict=True))
    return logits, labels


def temperature_of(network: Segmenter, windows: Windows, params: Params, ranks: Ranks) -> float:
    """The temperature that makes the validation fold's true classes likeliest; 1 where it has no labelled pixel.

    The same on every rank; rounded, so that it does not hang on the order of sums.
    """
    logits, labels = labelled_logits(network, windows, "validation", params, ranks)
    return float(ranks.agree(round(fit_temperature(logits, labels), 3) if len(labels) else 1.0))


def calibration_on(
    network: Segmenter, temperature: float, windows: Windows, split: str, params: Params, ranks: Ranks
) -> Calibration:
    """How often a split's pixels are right at each confidence, on rank 0."""
    logits, labels = labelled_logits(network, windows, split, params, ranks)
    before, after = (reliability(calibrated(logits, one), labels) for one in (1.0, temperature))
    return Calibration(temperature, before, after)
