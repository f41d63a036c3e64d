"""Finished rounds of refine_masks on disk, so that a stopped try continues after the last one."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.files import atomic, read_json, write_json
from cluemap.stages.make_cams import SPLITS

Masks = dict[str, NDArray[np.uint8]]  # split -> n h w
KEPT = 2  # rounds whose probabilities stay: one of the last two is published


class FinishedRounds:
    """The rounds under `folder` that were made by the same params from the same masks (`identity`, plain JSON)."""

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity

    def read(self) -> list[tuple[Masks, dict[str, float]]]:
        """Masks and course of every round, in order; none where they are others'."""
        found: list[tuple[Masks, dict[str, float]]] = []
        while (card := self.folder / f"round_{len(found)}.json").exists():
            content = read_json(card)
            if content["identity"] != self.identity:
                break
            masks = {split: np.load(self._masks(len(found), split), allow_pickle=False) for split in SPLITS}
            found.append((masks, content["course"]))
        return found

    def keep(self, number: int, masks: Masks, course: dict[str, float]) -> None:
        """Put a round on disk, and remove what no later one needs."""
        for split, found in masks.items():
            with atomic(self._masks(number, split)) as temporary, temporary.open("wb") as handle:
                np.save(handle, found)
        write_json(self.folder / f"round_{number}.json", {"identity": self.identity, "course": course})
        self._probabilities(number - KEPT).unlink(missing_ok=True)

    def new_probabilities(self, number: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A file that the round's probabilities (n h w s) are written into."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(self._probabilities(number), mode="w+", dtype=np.uint8, shape=shape)

    def probabilities(self, number: int) -> NDArray[np.uint8]:
        """n h w s, memory-mapped; only of the last two rounds."""
        return np.load(self._probabilities(number), mmap_mode="r", allow_pickle=False)

    def network(self, number: int) -> Path:
        """The folder of a round's unfinished fit."""
        return self.folder / f"round_{number}_network"

    def _masks(self, number: int, split: str) -> Path:
        return self.folder / f"round_{number}_{split}.npy"

    def _probabilities(self, number: int) -> Path:
        return self.folder / f"round_{number}_probabilities.npy"
