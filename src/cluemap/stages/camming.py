"""The work of stage make_cams: every source's CAM of every training and validation window. Opens no mask.

(The stage's picture of the year shows each crop's greenness beneath: that opens the validation fold's masks.)
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cluemap.data.windows import Windows
from cluemap.files import atomic_folder, write_json
from cluemap.model.affinity import temporal_weights
from cluemap.model.classifier import Classifier
from cluemap.model.clues import Clues
from cluemap.model.encoder import DAYS
from cluemap.params import Params
from cluemap.training.distributed import Ranks
from cluemap.training.inference import cams, gather_rows, in_order, scan

SPLITS = ("train", "validation")  # the test fold has no CAMs: nothing is ever chosen on it
WEIGHTS = "temporal_weights.json"


def sources_of(params: Params) -> list[str]:
    """The source that masks are made of first, then those to compare; each once."""
    return list(dict.fromkeys([params.cams.source, *params.cams.compare]))


def cam_file(folder: Path, source: str, split: str) -> Path:
    """float16 n k i j, rows as `windows.indexes(split)`; 0 for classes that are not in the image label."""
    return folder / f"{source}_{split}.npy"


def make_cams(network: Classifier, clues: Clues, windows: Windows, params: Params, ranks: Ranks, folder: Path) -> dict:
    """Write `<folder>/cams/` (rank 0) and give the stage's metrics."""
    clues = Clues(*(clue.to(ranks.device) for clue in clues))
    days = DayWeights(len(windows.card.legend.classes), ranks.device)
    made: dict[str, NDArray] = {}
    for split in SPLITS:
        rows = _cams(network, clues, windows, split, params, ranks, days if split == "train" else None)
        together = gather_rows(rows, ranks)
        if ranks.first:
            maps = in_order(together, windows.indexes(split))  # n source k i j
            made.update({f"{source}_{split}": maps[:, at] for at, source in enumerate(sources_of(params))})
    weights = days.together(ranks)
    if not ranks.first:
        return {}
    with atomic_folder(folder / "cams") as temporary:
        for name, maps in made.items():
            np.save(temporary / f"{name}.npy", maps)
        write_json(temporary / WEIGHTS, weights)
    counts = {split: len(windows.indexes(split)) for split in SPLITS}
    return {"windows": sum(counts.values()), "mean_score": _mean_scores(made, windows, params)}


def _cams(
    network: Classifier,
    clues: Clues,
    windows: Windows,
    split: str,
    params: Params,
    ranks: Ranks,
    days: "DayWeights | None",
) -> dict[int, NDArray[np.float16]]:
    """{window: source k i j} of this rank's share of a split; date weights go into `days`."""
    rows: dict[int, NDArray] = {}
    indexes, sources, kind = windows.indexes(split), sources_of(params), params.temporal_weighting
    bar = tqdm(total=len(indexes), disable=not ranks.first, unit="window", desc=f"CAMs {split}", mininterval=1.0)
    with bar:
        for batch in scan(windows, indexes, params.compute.inference_batch, ranks):
            found, watched = cams(network, clues, batch, sources, params)
            stacked = torch.stack([found[source] for source in sources], dim=1).to(torch.float16)
            rows.update(zip(batch.index.tolist(), stacked.cpu().numpy(), strict=True))
            if days is not None:
                weights = temporal_weights(watched.attention, batch.valid, kind.kind, kind.sharpness)
                days.add(weights, batch.day, batch.valid, batch.image_labels)
            bar.update(min(len(batch) * ranks.world, bar.total - bar.n))
    return rows


class DayWeights:
    """Which days of the year matter for which crop: weight of a date times the number of dates, 1 = an even share."""

    def __init__(self, classes: int, device: torch.device):
        self.sum = torch.zeros(classes, DAYS, dtype=torch.float64, device=device)
        self.count = torch.zeros(classes, DAYS, dtype=torch.float64, device=device)

    def add(self, weights: Tensor, day: Tensor, valid: Tensor, labels: Tensor) -> None:
        """b k t, b t, b t, b k: windows that hold the class count."""
        here = (labels[:, :, None] & valid[:, None]).double()  # b k t
        share = weights.double() * valid.sum(dim=1)[:, None, None] * here
        days = day[:, None].expand_as(here).transpose(0, 1).flatten(1)  # k (b t)
        self.sum.scatter_add_(1, days, share.transpose(0, 1).flatten(1))
        self.count.scatter_add_(1, days, here.transpose(0, 1).flatten(1))

    def together(self, ranks: Ranks) -> dict[str, list]:
        """ "sum" and "count", k 367 each, over all ranks: their ratio is a day's mean relative weight."""
        return {"sum": ranks.total(self.sum).tolist(), "count": ranks.total(self.count).tolist()}


def _mean_scores(made: dict[str, NDArray], windows: Windows, params: Params) -> dict[str, float]:
    """Mean CAM of present classes on the training windows, per source: a label-free sign of how much is lit."""
    labels = windows.image_labels[windows.indexes("train")]
    return {source: float(made[f"{source}_train"][labels].astype(np.float32).mean()) for source in sources_of(params)}
