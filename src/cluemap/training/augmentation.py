"""Random changes of a training batch that keep its labels true: pure functions, batch in, new batch out.

Each window has a random generator of its own, made from (seed, step, place in the whole batch): the draws are the same
for any number of processes, and a resumed training makes them again. All draws are on the CPU, so they do not depend on
the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from torch import Generator, Tensor

from cluemap.data.batches import Batch
from cluemap.params import AugmentationParams

LAST_DAY = 366


def generators(seed: int, step: int, rank: int, world: int, count: int) -> list[Generator]:
    """One generator for each of a rank's `count` windows, which are every `world`-th of the whole batch."""
    places = range(rank, rank + world * count, world)
    states = [np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0] >> 1 for place in places]
    return [Generator().manual_seed(int(state)) for state in states]


def augmented(batch: Batch, params: AugmentationParams, draws: Sequence[Generator]) -> Batch:
    """The batch with all changes that `params` asks for; masks go with their images."""
    if params.flips:
        batch = flipped(batch, draws)
    if params.dropped_dates > 0:
        batch = without_dates(batch, params.dropped_dates, draws)
    if params.shifted_days > 0:
        batch = shifted(batch, params.shifted_days, draws)
    if params.band_gain > 0 or params.band_offset > 0 or params.light > 0:
        batch = jittered(batch, params, draws)
    return batch


def flipped(batch: Batch, draws: Sequence[Generator]) -> Batch:
    """images b t c h w, mask b h w and probabilities b s h w, each window turned and mirrored as one.

    Raises:
        ValueError: windows that are not square.
    """
    if batch.images.shape[-1] != batch.images.shape[-2]:
        raise ValueError(f"only square windows can be turned, these are {tuple(batch.images.shape[-2:])} pixels")
    which = [int(torch.randint(0, 8, (), generator=draw)) for draw in draws]
    turned = {}
    for name in ("images", "mask", "probabilities"):
        part = getattr(batch, name)
        if part is not None:
            turned[name] = torch.stack([symmetry(window, one) for window, one in zip(part, which, strict=True)])
    return replace(batch, **turned)


def symmetry(x: Tensor, which: int) -> Tensor:
    """... h w -> ... h w: one of the 8 symmetries of a square; 0 changes nothing."""
    turned = torch.rot90(x, which % 4, dims=(-2, -1))
    return turned.flip(-1) if which >= 4 else turned


def without_dates(batch: Batch, most: float, draws: Sequence[Generator]) -> Batch:
    """valid b t: each window loses every date with a chance of its own, drawn from 0 to `most`; one date stays at
    least.
    """
    chance = most * drawn(draws, lambda draw: torch.rand(1, generator=draw))
    lots = drawn(draws, lambda draw: torch.rand(batch.valid.shape[1], generator=draw)).to(batch.valid.device)
    stays = batch.valid & (lots >= chance.to(lots.device))
    return replace(batch, valid=torch.where(stays.any(dim=1, keepdim=True), stays, batch.valid))


def shifted(batch: Batch, most: int, draws: Sequence[Generator]) -> Batch:
    """day b t: a window's dates move by one number of days in -most..most, round the turn of the year; 0 stays 0."""
    shift = drawn(draws, lambda draw: torch.randint(-most, most + 1, (1,), generator=draw)).to(batch.day.device)
    moved = (batch.day - 1 + shift) % LAST_DAY + 1
    return replace(batch, day=torch.where(batch.day > 0, moved, batch.day))


def jittered(batch: Batch, params: AugmentationParams, draws: Sequence[Generator]) -> Batch:
    """images b t c h w: value * gain + offset, drawn for each window and band (normalised units); 0 (no data) stays."""
    bands = batch.images.shape[2]
    lots = drawn(draws, lambda draw: torch.randn(2 * bands + 1, generator=draw)).to(batch.images.device)
    gain = (1 + params.light * lots[:, :1]) * (1 + params.band_gain * lots[:, 1 : bands + 1])
    offset = params.band_offset * lots[:, bands + 1 :]
    gain, offset = rearrange(gain, "b c -> b 1 c 1 1"), rearrange(offset, "b c -> b 1 c 1 1")
    return replace(batch, images=(batch.images * gain + offset).masked_fill(batch.images == 0, 0.0))


def masked(batch: Batch, most: float, draws: Sequence[Generator]) -> Batch:
    """images b t c h w: each window loses every pixel on all dates with a chance of its own, drawn from 0 to `most`."""
    if most == 0:
        return batch
    size = batch.images.shape[-2:]
    chance = most * drawn(draws, lambda draw: torch.rand(1, 1, generator=draw))
    lots = drawn(draws, lambda draw: torch.rand(size, generator=draw))
    lost = rearrange((lots < chance).to(batch.images.device), "b h w -> b 1 1 h w")
    return replace(batch, images=batch.images.masked_fill(lost, 0.0))


def drawn(draws: Sequence[Generator], draw: Callable[[Generator], Tensor]) -> Tensor:
    """b n: what each window draws."""
    return torch.stack([draw(one) for one in draws])
