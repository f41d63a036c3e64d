"""What teacher and student are shown in one step: labelled windows, weak and strong views of unlabelled ones."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cluemap.data.batches import Batch
from cluemap.params import AugmentationParams, SemisupervisedParams
from cluemap.runtime.distributed import Ranks
from cluemap.training.augmentation import augmented, flipped, generators, masked


@dataclass(frozen=True)
class Views:
    """What the networks are called with in one step."""

    shown: Batch  # labelled windows, then strong views of the unlabelled ones
    weak: Batch  # weak views of the same unlabelled ones
    metadata: Tensor | None  # b m, as `shown`

    @property
    def labelled(self) -> int:
        """How many of `shown` have labels."""
        return len(self.shown) - len(self.weak)

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return *self.shown.inputs, *self.weak.inputs, self.metadata


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of a step; every window's draws are its own, so they are the same for any number of processes."""

    told: SemisupervisedParams
    seed: int
    batch: int  # labelled windows a step, over all processes
    labelled: AugmentationParams | None  # what is done to them; None: nothing
    metadata: Tensor | None  # N m, of all windows
    ranks: Ranks

    def views(self, batch: Batch, step: int) -> Views:
        """This rank's batch (its labelled windows first) -> the views of the step."""
        rank, world = self.ranks.rank, self.ranks.world
        count = len(range(rank, self.batch, world))  # labelled windows of this rank
        labelled, unlabelled = rows(batch, slice(0, count)), rows(batch, slice(count, None))
        if self.labelled is not None:
            labelled = augmented(labelled, self.labelled, generators(self.seed, step, rank, world, count))
        draws = generators(self.seed, step, self.batch + rank, world, len(unlabelled))
        weak = flipped(unlabelled, draws)
        strong = masked(augmented(weak, strong_views(self.told), draws), self.told.masked_pixels, draws)
        shown = together(labelled, strong)
        return Views(shown, weak, None if self.metadata is None else self.metadata[shown.index])


def strong_views(told: SemisupervisedParams) -> AugmentationParams:
    """What is done to an unlabelled window beside the flips of its weak view and masked pixels."""
    return AugmentationParams(
        flips=False, dropped_dates=told.dropped_dates, shifted_days=told.shifted_days, band_gain=told.band_gain,
        band_offset=told.band_offset, light=told.light,
    )  # fmt: skip


def rows(batch: Batch, which: slice) -> Batch:
    """Some windows of a batch."""
    return Batch(*(None if part is None else part[which] for part in _parts(batch)))  # type: ignore[arg-type]


def together(one: Batch, other: Batch) -> Batch:
    """The windows of both, which are padded to one length."""
    pairs = zip(_parts(one), _parts(other), strict=True)
    return Batch(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))  # type: ignore[arg-type]


def _parts(batch: Batch) -> list[Tensor | None]:
    return [getattr(batch, field.name) for field in fields(batch)]
