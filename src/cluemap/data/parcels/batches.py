"""Parcels as batches of tensors: pixels drawn anew at each step, padded, normalised."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.parcels.parcels import Parcels
from cluemap.data.patches import NODATA
from cluemap.data.prefetch import ahead
from cluemap.errors import DataError

ALL = 0  # pixels a parcel: every one
TOGETHER = 2**18  # pixels times dates of one batch without gradients, padding included


@dataclass
class ParcelBatch:
    """What parcel networks are given."""

    pixels: Tensor  # float32 b s t c, normalised per band, 0 where a pixel was not seen
    seen: Tensor  # bool b s t: false in the padding too
    day: Tensor  # int64 b t, from 1 = 1 January of the data set's first year, 0 = no date
    valid: Tensor  # bool b t: false for padding and where no pixel was seen
    geometry: Tensor  # float32 b g, standardised
    target: Tensor  # int64 b, class 0.., -1 = none
    index: Tensor  # int64 b, row in the table of parcels

    def to(self, device: torch.device | str) -> Self:
        held = {name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()}
        return replace(self, **held)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a network is called with."""
        return self.pixels, self.seen, self.day, self.valid, self.geometry


@dataclass(frozen=True, eq=False)
class Scaling:
    """Means and deviations of the training parcels: of bands (c) and geometric features (g)."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    geometry_mean: NDArray[np.float32]
    geometry_std: NDArray[np.float32]

    @classmethod
    def of(cls, parcels: Parcels, indexes: NDArray[np.int64]) -> "Scaling":
        features = parcels.geometry[indexes].astype(np.float64)
        deviation = features.std(axis=0)
        return cls(
            *parcels.statistics(indexes),
            features.mean(axis=0).astype(np.float32),
            np.where(deviation > 0, deviation, 1).astype(np.float32),
        )


@dataclass(frozen=True, eq=False)
class Loading:
    """How parcels become batches."""

    parcels: Parcels
    scaling: Scaling
    targets: NDArray[np.int64]  # N, class 0.., -1 = none
    masks: bool  # false: what was not seen counts as a pixel of mean reflectance (as published)

    def batch(self, indexes: NDArray[np.int64], pixels: int = ALL, draw: tuple[int, int] | None = None) -> ParcelBatch:
        """Some parcels as one batch, on the CPU. `pixels`: how many of each, drawn by the seed and step of `draw`."""
        parcels, series = self.parcels, [self.parcels.series(int(index)) for index in indexes]
        most = int(parcels.pixels[indexes].max())
        shape = (len(indexes), min(pixels, most) if pixels else most, int(parcels.dates[indexes].max()))
        values = np.full((*shape, len(parcels.card.legend.bands)), NODATA, np.int16)
        there, day = np.zeros(shape, bool), np.zeros((shape[0], shape[2]), np.int64)
        for row, (index, (held, days)) in enumerate(zip(indexes.tolist(), series, strict=True)):
            chosen = held if draw is None or len(held) <= shape[1] else held[drawn(len(held), shape[1], *draw, index)]
            values[row, : len(chosen), : len(days)] = chosen
            there[row, : len(chosen), : len(days)] = True
            day[row, : len(days)] = days
        known = (values != NODATA).all(axis=-1)
        images = (values - self.scaling.mean) / self.scaling.std
        images[~known] = 0.0
        seen = known if self.masks else there
        geometry = (parcels.geometry[indexes] - self.scaling.geometry_mean) / self.scaling.geometry_std
        return ParcelBatch(
            pixels=torch.from_numpy(images.astype(np.float32, copy=False)),
            seen=torch.from_numpy(seen),
            day=torch.from_numpy(day),
            valid=torch.from_numpy(seen.any(axis=1)),
            geometry=torch.from_numpy(geometry.astype(np.float32, copy=False)),
            target=torch.from_numpy(self.targets[indexes]),
            index=torch.from_numpy(np.asarray(indexes, np.int64).copy()),
        )

    def scan(self, indexes: NDArray[np.int64], rank: int = 0, world: int = 1) -> Iterator[ParcelBatch]:
        """All pixels of this rank's share of the parcels, each once over all ranks, those of one size together."""
        mine = alike(self.parcels, indexes)[rank::world]
        return ahead((self.batch(part) for part in mine), 2)


def drawn(count: int, pixels: int, seed: int, step: int, index: int) -> NDArray[np.int64]:
    """`pixels` of the numbers 0..count-1, each once, rising; a function of seed, step and parcel, of no rank."""
    return np.sort(np.random.default_rng([seed, step, index]).choice(count, pixels, replace=False))


def alike(parcels: Parcels, indexes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """`indexes` in batches of parcels of similar size, each within TOGETHER as far as a single parcel is."""
    order = np.asarray(indexes)[np.lexsort((parcels.dates[indexes], parcels.pixels[indexes]))]
    found, first = [], 0
    pixels, dates = parcels.pixels[order], parcels.dates[order]
    while first < len(order):
        last, longest = first + 1, int(dates[first])
        while last < len(order):
            longest = max(longest, int(dates[last]))
            if int(pixels[last]) * longest * (last + 1 - first) > TOGETHER:
                break
            last += 1
        found.append(order[first:last])
        first = last
    return found


def check_published(parcels: Parcels) -> None:
    """Raises DataError: the series differ in length, which the published form cannot take."""
    lengths = np.unique(parcels.dates)
    if len(lengths) > 1:
        raise DataError(
            f"parcels.published wants as many dates in all parcels, {parcels.folder} has {lengths[0]} to "
            f"{lengths[-1]}: set parcels.published to false"
        )


B = TypeVar("B", bound=ParcelBatch)


class PreparedParcels(Generic[B]):
    """What every `cluemap.training.task.TrainingData` of prepared parcels has: its source, and batches read ahead."""

    loading: Loading
    stage = "prepare_parcels"
    output = "parcels"

    @property
    def digest(self) -> str:
        return self.loading.parcels.card.digest

    def batches(self, order: Iterable[tuple[int, NDArray[np.int64]]], device: torch.device) -> Iterator[B]:
        for batch in ahead((self.batch(indexes, step) for step, indexes in order), 2):
            yield batch.to(device)

    def batch(self, indexes: NDArray[np.int64], step: int) -> B:
        """With the pixels drawn for this step."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ParcelData(PreparedParcels[ParcelBatch]):
    """The parcels trained on."""

    loading: Loading
    indexes: NDArray[np.int64]
    pixels: int
    seed: int
    unit: str = "parcels"

    def names(self, indexes: NDArray[np.int64]) -> list[str]:
        return list(self.loading.parcels.table["name"].iloc[indexes])

    def batch(self, indexes: NDArray[np.int64], step: int) -> ParcelBatch:
        return self.loading.batch(indexes, self.pixels, (self.seed, step))
