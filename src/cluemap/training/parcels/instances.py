"""Multiple-instance learning: a parcel network learns from the labels of windows, each a set of parcels (METHOD 17).

A class that a window's label holds is that of one of its parcels: by noisy-or, 1 - the product over the parcels of
(1 - q). q is a parcel's probability among the classes that the labels of all its windows leave to it. And what the
labels exclude is unlikely for every parcel that no edge cuts: -log of the probability of all that is left. Such cut
parcels may be void, which no label tells; they can still be why a class is there. No truth is read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.parcels.batches import Loading, ParcelBatch, PreparedParcels
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.windows import Windows
from cluemap.training.parcels.parcel_task import ParcelTask
from cluemap.training.parcels.voting import candidates, parts_of, windows_by_patch

NEVER = -1e30  # logit of a class that is excluded; finite, so that a parcel without any class gives numbers
TINY = 1e-6  # a probability is kept this far from 0 and 1 in logarithms


@dataclass
class WindowBatch(ParcelBatch):
    """The parcels of some windows, window after window; a parcel of two of the windows is there twice."""

    window: Tensor  # int64 b, 0..w-1: which of the batch's windows the parcel lies in
    may: Tensor  # bool b k, classes that the labels leave to the parcel
    whole: Tensor  # bool b, no edge cuts it
    present: Tensor  # bool w k, classes that the window's label holds
    # `index` is int64 w here, row in the table of windows


@dataclass(frozen=True, eq=False)
class WindowData(PreparedParcels[WindowBatch]):
    """The windows trained on."""

    loading: Loading
    windows: Windows
    held: dict[int, NDArray[np.int64]]  # window -> its parcels
    may: NDArray[np.bool_]  # N k
    pixels: int
    seed: int
    unit: str = "windows"

    @property
    def indexes(self) -> NDArray[np.int64]:
        return np.array(sorted(self.held), np.int64)

    def names(self, indexes: NDArray[np.int64]) -> list[str]:
        return list(self.windows.table["name"].iloc[indexes])

    def batch(self, indexes: NDArray[np.int64], step: int) -> WindowBatch:
        """The parcels of some windows with the pixels drawn for this step."""
        parts = [self.held[index] for index in indexes.tolist()]
        rows, card = np.concatenate(parts), self.loading.parcels.card
        background = np.zeros((len(indexes), int(card.background)), bool)  # no label tells of it
        made = self.loading.batch(rows, self.pixels, (self.seed, step))
        return WindowBatch(
            **{**vars(made), "index": torch.from_numpy(indexes.copy())},
            window=torch.from_numpy(np.repeat(np.arange(len(parts)), [len(part) for part in parts])),
            may=torch.from_numpy(self.may[rows]),
            whole=torch.from_numpy(~self.loading.parcels.table["cut"].to_numpy(bool)[rows]),
            present=torch.from_numpy(np.concatenate([background, self.windows.image_labels[indexes]], axis=1)),
        )


class WindowTask(ParcelTask):
    """See `cluemap.training.task.Task`."""

    def losses(self, forward: Callable[[ParcelBatch], Tensor], batch: ParcelBatch, step: int) -> dict[str, Tensor]:
        """ "present": of the classes in windows' labels, "excluded": of the classes the labels exclude, "total"."""
        assert isinstance(batch, WindowBatch)
        logits, total = forward(batch).float(), self.ranks.total
        present, asked = unexplained(logits, batch)
        left, some = outside(logits, batch.may), batch.whole & batch.may.any(dim=1)
        found = {
            "present": present[asked].sum() / total(asked.sum().float()).clamp_min(1),
            "excluded": left[some].sum() / total(some.sum().float()).clamp_min(1),
        }
        return {**found, "total": found["present"] + found["excluded"]}


def unexplained(logits: Tensor, batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """b k -> w k: -log of noisy-or, the probability that a parcel of the window has the class; and w k: whether the
    label holds the class and a parcel may have it (else the former means nothing).
    """
    among = logits.masked_fill(~batch.may, NEVER).softmax(dim=1)  # q
    none = torch.log1p(-among.clamp(max=1 - TINY)).masked_fill(~batch.may, 0.0)
    shape = batch.present.shape
    together = none.new_zeros(shape).index_add(0, batch.window, none)
    possible = none.new_zeros(shape).index_add(0, batch.window, batch.may.to(none.dtype)) > 0
    return -torch.log(TINY - torch.expm1(together)), batch.present & possible


def outside(logits: Tensor, may: Tensor) -> Tensor:
    """b k, b k -> b: -log of the probability of all classes that are left."""
    return logits.logsumexp(dim=1) - logits.masked_fill(~may, NEVER).logsumexp(dim=1)


def window_data(
    loading: Loading, train: NDArray[np.int64], windows: Windows, presence: float, pixels: int, seed: int
) -> WindowData:
    """The training windows that hold any of the parcels `train`. A window's parcels: those that cover more of it than
    `presence`, so that their class is in its label.
    """
    parcels = loading.parcels
    held = parcels_of_windows(parcels, train, windows, presence)
    return WindowData(loading, windows, held, candidates(parcels, train, windows, presence), pixels, seed)


def parcels_of_windows(
    parcels: Parcels, indexes: NDArray[np.int64], windows: Windows, presence: float
) -> dict[int, NDArray[np.int64]]:
    """Training window -> those of `indexes` that cover more of it than `presence`; none is empty."""
    places, patches = windows_by_patch(windows, "train"), parcels.table["patch"].to_numpy()
    least = presence * windows.card.size**2
    found: dict[int, list[int]] = {}
    for index in indexes.tolist():
        for window, local in parts_of(parcels.positions(index), places.get(patches[index], []), windows.card.size):
            if len(local) > least:
                found.setdefault(window, []).append(index)
    return {window: np.array(some, np.int64) for window, some in found.items()}
