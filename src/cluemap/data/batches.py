"""Windows as batches of tensors: read and padded in the background, normalised on the device."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.patches import NODATA, VOID
from cluemap.data.prefetch import ahead
from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import DataError

SAMPLED = 64  # windows that the covariance of the bands is taken from
Self = TypeVar("Self", "RawBatch", "Batch")


@dataclass
class RawBatch:
    """A batch as it lies on disk, padded to its longest series. Half the bytes of a normalised one."""

    images: Tensor  # int16 b t c h w, NODATA where there is no data and in the padding
    day: Tensor  # int16 b t, 0 in the padding
    valid: Tensor  # bool b t
    image_labels: Tensor  # bool b k
    index: Tensor  # int64 b
    mask: Tensor | None = None  # uint8 b h w
    known: Tensor | None = None  # bool b k, of which classes the image label says anything; None: of all
    probabilities: Tensor | None = None  # uint8 b h w s, of every id 0..K of a pixel, in 255ths; all 0: nothing known

    def to(self, device: torch.device | str) -> "RawBatch":
        return _moved(self, device)


@dataclass
class Batch:
    """What networks and losses are given."""

    images: Tensor  # float32 b t c h w, normalised per band, 0 where there is no data
    day: Tensor  # int64 b t, day of year, 0 = no date
    valid: Tensor  # bool b t: false for padding and for dates without any data
    image_labels: Tensor  # bool b k
    index: Tensor  # int64 b, row in the table of windows
    mask: Tensor | None = None  # int64 b h w
    known: Tensor | None = None  # bool b k
    probabilities: Tensor | None = None  # float32 b s h w

    def to(self, device: torch.device | str) -> "Batch":
        return _moved(self, device)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a network is called with."""
        return self.images, self.day, self.valid


def load_raw(
    windows: Windows, indexes: NDArray, masks: NDArray | None = None, pinned: bool = False,
    probabilities: NDArray | None = None,
) -> RawBatch:  # fmt: skip
    """Copy some windows into one batch. `masks` (n h w) and `probabilities` (n h w s) have one row per window of the
    split, as `windows.masks` has.

    Raises:
        DataError: they have another number of windows than the split.
    """
    indexes = np.asarray(indexes, np.int64)
    size = (len(indexes), int(windows.dates[indexes].max(initial=1)))  # a rank's share of a small batch can be empty
    row = (len(windows.card.legend.bands), windows.card.size, windows.card.size)
    images = torch.empty((*size, *row), dtype=torch.int16, pin_memory=pinned)  # b t c h w
    day = torch.zeros(size, dtype=torch.int16, pin_memory=pinned)
    valid = torch.zeros(size, dtype=torch.bool, pin_memory=pinned)
    for index, image_row, day_row, valid_row in zip(indexes, images.numpy(), day.numpy(), valid.numpy(), strict=True):
        series, days, seen = windows.series(index)
        image_row[: len(days)] = series
        image_row[len(days) :] = NODATA
        day_row[: len(days)] = days
        valid_row[: len(days)] = seen
    return RawBatch(
        images=images,
        day=day,
        valid=valid,
        image_labels=torch.from_numpy(windows.image_labels[indexes]),
        index=torch.from_numpy(indexes.copy()),
        mask=None if masks is None else torch.from_numpy(mask_rows(windows, indexes, masks)),
        known=None if windows.known is None else torch.from_numpy(windows.known[indexes]),
        probabilities=None
        if probabilities is None
        else torch.from_numpy(mask_rows(windows, indexes, probabilities, hidden=0)),
    )


def normalise(raw: RawBatch, mean: Tensor, std: Tensor) -> Batch:
    """b t c h w -> b t c h w: (value - mean) / std per band (both c) in float32, 0 where NODATA; on raw's device."""
    images = torch.empty(raw.images.shape, dtype=torch.float32, device=raw.images.device)
    mean, std = rearrange(mean, "c -> c 1 1"), rearrange(std, "c -> c 1 1")
    windows = 1 if images.device.type == "cpu" else max(1, len(images))  # one window at a time stays in the CPU's cache
    for out, given in zip(images.split(windows), raw.images.split(windows), strict=True):
        out.copy_(given).sub_(mean).div_(std).masked_fill_(given == NODATA, 0.0)
    mask = None if raw.mask is None else raw.mask.long()
    shares = None if raw.probabilities is None else rearrange(raw.probabilities, "b h w s -> b s h w") / 255
    return Batch(images, raw.day.long(), raw.valid, raw.image_labels, raw.index, mask, raw.known, shares)


def statistics(windows: Windows, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The mean and standard deviation per band (float32 c) that `normalise` takes."""
    return torch.from_numpy(windows.card.mean).to(device), torch.from_numpy(windows.card.std).to(device)


def covariance(windows: Windows, split: str = "train") -> Tensor:
    """c c: covariance of the normalised bands over the pixels with data of up to SAMPLED windows, evenly spread."""
    indexes = windows.indexes(split)
    chosen = indexes[np.unique(np.linspace(0, len(indexes) - 1, min(SAMPLED, len(indexes))).round().astype(np.int64))]
    mean, std = statistics(windows)
    bands = len(mean)
    count, total, squares = 0, torch.zeros(bands, dtype=torch.float64), torch.zeros(bands, bands, dtype=torch.float64)
    for index in chosen:
        raw = load_raw(windows, np.array([index]))
        pixels = rearrange(normalise(raw, mean, std).images, "1 t c h w -> (t h w) c")
        pixels = pixels[rearrange(raw.images != NODATA, "1 t c h w -> (t h w) c").all(dim=1)].double()
        count, total, squares = count + len(pixels), total + pixels.sum(dim=0), squares + pixels.T @ pixels
    average = total / max(count, 1)
    return (squares / max(count, 1) - torch.outer(average, average)).float()


def load(windows: Windows, indexes: NDArray, masks: NDArray | None = None) -> Batch:
    """Some windows as one normalised batch, here and now, on the CPU."""
    return normalise(load_raw(windows, indexes, masks), *statistics(windows))


def stream(
    windows: Windows,
    order: Iterable[NDArray],
    device: torch.device | str = "cpu",
    masks: NDArray | None = None,
    prefetch: int = 2,
    probabilities: NDArray | None = None,
) -> Iterator[Batch]:
    """One batch per index array of `order` (which may be endless), on `device`; a thread reads `prefetch` ahead.

    The thread ends when `order` does, when reading fails (the error is raised here), or when the caller stops early.
    """
    device = torch.device(device)
    mean, std = statistics(windows, device)
    pinned = device.type == "cuda"
    raws = (load_raw(windows, indexes, masks, pinned, probabilities) for indexes in order)
    for raw in ahead(raws, prefetch):
        yield normalise(raw.to(device), mean, std)


def batch_indexes(count: int, batch: int, step: int, seed: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]:
    """Positions 0..count-1 of this rank's windows in global batch `step`; depends on nothing but its arguments.

    Shuffled epochs lie end to end in one endless row; batch s takes places s*batch .. (s+1)*batch - 1 of it, and rank
    r every world-th of those from the r-th on. So a resumed run continues where it stopped, and the ranks' shares are
    together the batch of a single process.
    """
    places = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)[rank::world]
    epochs, offsets = np.divmod(places, count)
    positions = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        positions[here] = _epoch(count, seed, int(epoch))[offsets[here]]
    return positions


def bucketed(dates: NDArray, indexes: NDArray, batch: int) -> list[NDArray]:
    """Split `indexes` into batches of series of similar length, longest first; each index once, for inference."""
    indexes = np.asarray(indexes)
    ordered = indexes[np.argsort(-dates[indexes], kind="stable")]
    return [ordered[start : start + batch] for start in range(0, len(ordered), batch)]


@lru_cache(maxsize=4)  # a batch can reach over the end of an epoch
def _epoch(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def mask_rows(windows: Windows, indexes: NDArray, masks: NDArray, hidden: int = VOID) -> NDArray[np.uint8]:
    """masks n .. -> b ..: the rows of these windows, `hidden` for those whose labels are hidden."""
    for split in set(windows.split_of(indexes)) - {UNLABELLED}:
        if windows.card.counts[split] != len(masks):
            wanted = f"the {windows.card.counts[split]} {split} windows of {windows.folder}"
            raise DataError(f"there are masks for {len(masks)} windows, not for {wanted}: run `dvc repro` again")
    rows = windows.mask_row[indexes]
    found = np.ascontiguousarray(masks[rows])
    found[rows < 0] = hidden  # nothing is known of an unlabelled window
    return found


def _moved(batch: Self, device: torch.device | str) -> Self:
    held = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {
        name: None if tensor is None else tensor.to(device, non_blocking=True) for name, tensor in held.items()
    }
    return replace(batch, **moved)
