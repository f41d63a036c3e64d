"""The work of stage make_cams: every source's CAM of every training and validation window. Opens no mask.

(The stage's picture of the year shows each crop's greenness beneath: that opens the validation fold's masks.)
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cluemap.data.windows import Windows
from cluemap.files import atomic_folder, write_json
from cluemap.model.method.affinity import temporal_weights
from cluemap.model.method.clues import Clues
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.temporal_encoder import DAYS
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.inference import cams, in_step, shifted_cams

SPLITS = ("train", "validation")  # the test fold has no CAMs: nothing is ever chosen on it
WEIGHTS = "temporal_weights.json"


def sources_of(params: Params) -> list[str]:
    """The source that masks are made of first, then those to compare; each once."""
    return list(dict.fromkeys([params.cams.source, *params.cams.compare]))


def cam_file(folder: Path, source: str, split: str) -> Path:
    """float16 n k i j, rows as `windows.indexes(split)`; 0 for classes that are not in the image label.

    i j: grid positions; pixels with `cams.shifted_grids`.
    """
    return folder / f"{source}_{split}.npy"


def make_cams(network: Classifier, clues: Clues, windows: Windows, params: Params, ranks: Ranks, folder: Path) -> dict:
    """Write `<folder>/cams/` and give the stage's metrics (rank 0; {} elsewhere)."""
    clues = Clues(*(clue.to(ranks.device) for clue in clues))
    days = DayWeights(len(windows.card.legend.classes), ranks.device)
    with atomic_folder(folder / "cams") if ranks.first else nullcontext() as temporary:
        for split in SPLITS:
            files = _files(temporary, network, windows, split, params) if temporary else []
            _write(network, clues, windows, split, params, ranks, files, days if split == "train" else None)
        weights = days.together(ranks)
        if temporary is None:
            return {}
        write_json(temporary / WEIGHTS, weights)
        lit = {source: _mean_score(temporary, source, windows) for source in sources_of(params)}
    return {"windows": sum(len(windows.indexes(split)) for split in SPLITS), "mean_score": lit}


def _files(folder: Path, network: Classifier, windows: Windows, split: str, params: Params) -> list[np.memmap]:
    """A file per source, on disk and open: n k i j."""
    side = windows.card.size if params.cams.shifted_grids else network.side
    shape = (len(windows.indexes(split)), len(windows.card.legend.classes), side, side)
    return [
        np.lib.format.open_memmap(cam_file(folder, source, split), mode="w+", dtype=np.float16, shape=shape)
        for source in sources_of(params)
    ]


def _write(
    network: Classifier,
    clues: Clues,
    windows: Windows,
    split: str,
    params: Params,
    ranks: Ranks,
    files: list[np.memmap],
    days: "DayWeights | None",
) -> None:
    """This rank's share of a split, batch by batch into rank 0's files; date weights go into `days`."""
    indexes, sources, kind = windows.indexes(split), sources_of(params), params.temporal_weighting
    row = {int(index): at for at, index in enumerate(indexes)}
    make = shifted_cams if params.cams.shifted_grids else cams
    bar = tqdm(total=len(indexes), disable=not ranks.first, unit="window", desc=f"CAMs {split}", mininterval=1.0)
    with bar:
        for batch in in_step(windows, indexes, params.compute.inference_batch, ranks):
            mine = None
            if batch is not None:
                found, watched = make(network, clues, batch, sources, params)
                stacked = torch.stack([found[source] for source in sources]).to(torch.float16).cpu().numpy()
                mine = [row[index] for index in batch.index.tolist()], stacked
                if days is not None:
                    weights = temporal_weights(watched.attention, batch.valid, kind.kind, kind.sharpness)
                    days.add(weights, batch.day, batch.valid, batch.image_labels)
            for rows, maps in filter(None, ranks.gather(mine)):
                for file, part in zip(files, maps, strict=True):
                    file[rows] = part
                bar.update(len(rows))
    for file in files:
        file.flush()


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


def _mean_score(folder: Path, source: str, windows: Windows) -> float:
    """Mean CAM of present classes on the training windows: a label-free sign of how much is lit."""
    labels = windows.image_labels[windows.indexes("train")]
    maps = np.load(cam_file(folder, source, "train"), mmap_mode="r")
    return float(maps[labels].astype(np.float32).mean())
