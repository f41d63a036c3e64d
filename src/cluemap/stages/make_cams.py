"""The work of stage make_cams: every source's CAM of every training and validation window. Opens no mask.

(The stage's picture of the year shows each crop's greenness beneath: that opens the validation fold's masks.)
"""

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.files import DAMAGED_ARRAY, atomic, read_json, write_json
from cluemap.model.method.affinity import temporal_weights
from cluemap.model.method.clues import Clues
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.temporal_encoder import DAYS
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.inference import cams, in_step, shifted_cams

SPLITS = ("train", "validation")  # the test fold has no CAMs: nothing is ever chosen on it
WEIGHTS = "temporal_weights.json"
IDENTITY, PROGRESS = "identity.json", "progress.npz"  # of unfinished ones
SAVE_EVERY = 30.0  # seconds


def sources_of(params: Params) -> list[str]:
    """The source that masks are made of first, then those to compare; each once."""
    return list(dict.fromkeys([params.cams.source, *params.cams.compare]))


def cam_file(folder: Path, source: str, split: str) -> Path:
    """float16 n k i j, rows as `windows.indexes(split)`; 0 for classes that are not in the image label.

    i j: grid positions; pixels with `cams.shifted_grids`.
    """
    return folder / f"{source}_{split}.npy"


def make_cams(
    network: Classifier, clues: Clues, windows: Windows, params: Params, ranks: Ranks, folder: Path, state: Path
) -> dict:
    """Write `<folder>/cams/` and give the stage's metrics (rank 0; {} elsewhere).

    The ranks share the batches; the files have the same bits for any number of them. A try that was stopped is gone on
    with from what it left in `state`.
    """
    clues = Clues(*(clue.to(ranks.device) for clue in clues))
    unfinished = Unfinished(state / "cams", network, clues, windows, params) if ranks.first else None
    done = ranks.agree(unfinished.done if unfinished else None)
    for split in SPLITS:
        _write(network, clues, windows, split, params, ranks, done[split], unfinished)
    if unfinished is None:
        return {}
    days = {name: sums.tolist() for name, sums in unfinished.days.items()}
    write_json(unfinished.folder / WEIGHTS, days)
    lit = {source: _mean_score(unfinished.folder, source, windows) for source in sources_of(params)}
    unfinished.publish(folder / "cams")
    return {"windows": sum(len(windows.indexes(split)) for split in SPLITS), "mean_score": lit}


class Unfinished:
    """The files while they are made (rank 0): n k i j a source and split, sums of date weights, how far it is."""

    def __init__(self, folder: Path, network: Classifier, clues: Clues, windows: Windows, params: Params):
        self.folder, self.sources = folder, sources_of(params)
        crops, identity = len(windows.card.legend.classes), _identity(network, clues, windows, params)
        side = windows.card.size if params.cams.shifted_grids else network.side
        self.done = dict.fromkeys(SPLITS, 0)  # batches
        self.days = {"sum": np.zeros((crops, DAYS)), "count": np.zeros((crops, DAYS))}
        mode: Literal["r+", "w+"] = "r+" if self._resume(identity) else "w+"
        if mode == "w+":
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.files = {
            split: [
                np.lib.format.open_memmap(
                    cam_file(folder, source, split), mode=mode, dtype=np.float16,
                    shape=(len(windows.indexes(split)), crops, side, side),
                )
                for source in self.sources
            ]
            for split in SPLITS
        }  # fmt: skip
        if mode == "w+":
            write_json(folder / IDENTITY, identity)
        self.saved = time.monotonic()

    def add(self, split: str, rows: list[int], maps: NDArray[np.float16], days: tuple[NDArray, NDArray]) -> None:
        """One batch, in their order."""
        for file, part in zip(self.files[split], maps, strict=True):
            file[rows] = part
        for total, part in zip(self.days.values(), days, strict=True):
            if split == "train":
                total += part
        self.done[split] += 1
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        for file in (file for files in self.files.values() for file in files):
            file.flush()
        with atomic(self.folder / PROGRESS) as temporary, temporary.open("wb") as handle:
            np.savez(handle, done=np.array([self.done[split] for split in SPLITS]), **self.days)  # type: ignore[arg-type]
        self.saved = time.monotonic()

    def publish(self, folder: Path) -> None:
        """Give the files their final place."""
        for file in (file for files in self.files.values() for file in files):
            file.flush()
        for name in (IDENTITY, PROGRESS):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.folder, folder)

    def _resume(self, identity: dict[str, Any]) -> bool:
        """Take over what an earlier try of the same CAMs saved."""
        try:
            if read_json(self.folder / IDENTITY) != identity:
                return False
            with np.load(self.folder / PROGRESS, allow_pickle=False) as found:
                self.days = {name: found[name] for name in self.days}
                self.done = dict(zip(SPLITS, found["done"].tolist(), strict=True))
        except (DataError, BadZipFile, KeyError, *DAMAGED_ARRAY):
            return False
        return all(cam_file(self.folder, source, split).exists() for source in self.sources for split in SPLITS)


def _identity(network: Classifier, clues: Clues, windows: Windows, params: Params) -> dict[str, Any]:
    """What must be the same for unfinished CAMs to be gone on with."""
    tensors = [*network.state_dict().values(), *clues]
    digest = hashlib.blake2b(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors), digest_size=16)
    blocks = ("cams.", "affinity.", "temporal_weighting.", "compute.precision", "compute.inference_batch")
    told = {key: value for key, value in params.flat().items() if key.startswith(blocks)}
    return {"classifier": digest.hexdigest(), "windows": windows.card.digest, **told}


def _write(
    network: Classifier,
    clues: Clues,
    windows: Windows,
    split: str,
    params: Params,
    ranks: Ranks,
    done: int,
    unfinished: Unfinished | None,
) -> None:
    """This rank's share of a split from batch `done` on; rank 0 keeps all ranks' batches in their order."""
    indexes, sources, kind = windows.indexes(split), sources_of(params), params.temporal_weighting
    row = {int(index): at for at, index in enumerate(indexes)}
    make = shifted_cams if params.cams.shifted_grids else cams
    bar = tqdm(total=len(indexes), disable=not ranks.first, unit="window", desc=f"CAMs {split}", mininterval=1.0)
    with bar:
        for batch in in_step(windows, indexes, params.compute.inference_batch, ranks, done):
            mine = None
            if batch is not None:
                found, watched = make(network, clues, batch, sources, params)
                stacked = torch.stack([found[source] for source in sources]).to(torch.float16).cpu().numpy()
                weights = temporal_weights(watched.attention, batch.valid, kind.kind, kind.sharpness)
                days = day_sums(weights.cpu(), batch.day.cpu(), batch.valid.cpu(), batch.image_labels.cpu())
                mine = [row[index] for index in batch.index.tolist()], stacked, days
            for rows, maps, sums in filter(None, ranks.gather(mine)):
                if unfinished:
                    unfinished.add(split, rows, maps, sums)
                bar.update(len(rows))


def day_sums(weights: Tensor, day: Tensor, valid: Tensor, labels: Tensor) -> tuple[NDArray, NDArray]:
    """b k t, b t, b t, b k -> k 367, k 367: which days of the year matter for which crop, over the windows that hold
    it. The sums of a date's weight times the number of dates (1 = an even share), and how many: their ratio is a day's
    mean relative weight.
    """
    here = (labels[:, :, None] & valid[:, None]).double()  # b k t
    share = weights.double() * valid.sum(dim=1)[:, None, None] * here
    days = day[:, None].expand_as(here).transpose(0, 1).flatten(1)  # k (b t)
    empty = torch.zeros(labels.shape[1], DAYS, dtype=torch.float64)
    sums = (empty.scatter_add(1, days, part.transpose(0, 1).flatten(1)).numpy() for part in (share, here))
    return next(sums), next(sums)


def _mean_score(folder: Path, source: str, windows: Windows) -> float:
    """Mean CAM of present classes on the training windows: a label-free sign of how much is lit."""
    labels = windows.image_labels[windows.indexes("train")]
    maps = np.load(cam_file(folder, source, "train"), mmap_mode="r")
    return float(maps[labels].astype(np.float32).mean())
