"""Trees, a forest or a linear discriminant as a segmenter: each pixel's series at even days, then the learner.

The same numbers as `data/series_features` and the learners of `training/learners`, as tensors: so that what was trained
by scikit-learn is stored, mapped, exported and registered as networks are.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

YEAR = 365
NO_DATE = 1_000_000  # the day of padding: after all others
TREES = 32  # asked at once: bounds the memory
ABSENT = -100.0  # logit of a class that was not there to be learned


class EvenSeries(nn.Module):
    """Normalised images -> every pixel's raw values at even days, by linear interpolation over the dates with data."""

    mean: Tensor
    std: Tensor
    days: Tensor

    def __init__(self, mean: Tensor, std: Tensor, days: Tensor):
        super().__init__()
        for name, value in (("mean", mean), ("std", std), ("days", days)):
            self.register_buffer(name, value)

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w, day b t, valid b t -> (b h w) (g c); 0 for a pixel that was never seen.

        A band that is 0 has no data (`normalise`); a series more than half a year off the days is taken a year on.
        """
        dates = self.dates(day, valid)  # b t
        seen = (images != 0).all(dim=2) & rearrange(valid, "b t -> b t 1 1")
        raw = (images * rearrange(self.std, "c -> c 1 1") + rearrange(self.mean, "c -> c 1 1")).round()
        length = images.shape[1]
        place = torch.where(seen, rearrange(torch.arange(length, device=day.device), "t -> 1 t 1 1"), -1)
        last = place.cummax(dim=1).values  # b t h w: the newest date with data up to each
        coming = torch.where(seen, place, length).flip(1).cummin(dim=1).values.flip(1)
        last = torch.cat([torch.full_like(last[:, :1], -1), last], dim=1)
        coming = torch.cat([coming, torch.full_like(coming[:, :1], length)], dim=1)
        before = _at(last, (dates[:, None] <= self.days[:, None]).sum(dim=2))  # b g h w, -1 = none
        after = _at(coming, (dates[:, None] < self.days[:, None]).sum(dim=2))  # b g h w, t = none
        none = (before < 0) & (after >= length)
        before, after = torch.where(before < 0, after, before), torch.where(after >= length, before, after)
        before, after = before.clamp(0, length - 1), after.clamp(0, length - 1)
        whole = rearrange(dates, "b t -> b t 1 1").expand_as(seen)
        start, end = whole.gather(1, before), whole.gather(1, after)
        share = (rearrange(self.days, "g -> 1 g 1 1") - start).clamp(min=0) / (end - start).clamp(min=1)
        share = rearrange(share.clamp(0, 1), "b g h w -> b g 1 h w").float()
        values = (1 - share) * _values(raw, before) + share * _values(raw, after)  # b g c h w
        values = values.masked_fill(rearrange(none, "b g h w -> b g 1 h w"), 0.0)
        return rearrange(values, "b g c h w -> (b h w) (g c)")

    def dates(self, day: Tensor, valid: Tensor) -> Tensor:
        """Days of the year b t -> days b t counted on over the turn of the year, NO_DATE in the padding."""
        turns = ((day[:, 1:] < day[:, :-1]) & (day[:, 1:] > 0)).long().cumsum(dim=1)
        dates = day + YEAR * torch.cat([torch.zeros_like(day[:, :1]), turns], dim=1)
        first = torch.where(valid, dates, NO_DATE).amin(dim=1)
        middle = (first + torch.where(valid, dates, -NO_DATE).amax(dim=1)) / 2
        years = ((self.days[0] + self.days[-1]) / 2 - middle).div(YEAR).round().long()
        return torch.where(day > 0, dates + YEAR * years[:, None], NO_DATE)


def _at(places: Tensor, counts: Tensor) -> Tensor:
    """b t h w, b g -> b g h w: the rows `counts` of each window."""
    index = rearrange(counts, "b g -> b g 1 1").expand(-1, -1, places.shape[2], places.shape[3])
    return places.gather(1, index)


def _values(raw: Tensor, places: Tensor) -> Tensor:
    """b t c h w, b g h w -> b g c h w."""
    index = rearrange(places, "b g h w -> b g 1 h w").expand(-1, -1, raw.shape[2], -1, -1)
    return raw.gather(1, index)


class Numbers(nn.Module):
    """A module that is nothing but the tensors that it names."""

    def __init__(self, **tensors: Tensor):
        super().__init__()
        if different := sorted(set(tensors) ^ set(type(self).__annotations__)):
            raise TypeError(
                f"a {type(self).__name__} wants {sorted(type(self).__annotations__)}; differing {different}"
            )
        for name, value in tensors.items():
            self.register_buffer(name, value)


class Trees(Numbers):
    """An ensemble of trees. Axes: m tree, n node (0 is the root; a leaf leads to itself), k class.

    Logits are `base` and the sum of the leaves' values (boosted trees), or with `share` the logarithm of their mean (a
    forest, whose leaves hold probabilities).
    """

    feature: Tensor  # m n
    threshold: Tensor  # m n: to the left up to it
    left: Tensor  # m n
    right: Tensor  # m n
    value: Tensor  # m n k
    base: Tensor  # k
    steps: Tensor  # a number: the deepest leaf
    share: Tensor  # a bool

    def __init__(self, **tensors: Tensor):
        super().__init__(**tensors)
        self._steps, self._share = int(self.steps), bool(self.share)

    def forward(self, pixels: Tensor) -> Tensor:
        """p f -> p k."""
        count, nodes = self.feature.shape
        total = torch.zeros(pixels.shape[0], len(self.base), device=pixels.device)
        for start in range(0, count, TREES):
            tree = torch.arange(start, min(start + TREES, count), device=pixels.device) * nodes
            node = tree.expand(pixels.shape[0], -1)
            for _ in range(self._steps):
                held = pixels.gather(1, self.feature.flatten()[node])
                ahead = torch.where(
                    held <= self.threshold.flatten()[node], self.left.flatten()[node], self.right.flatten()[node]
                )
                node = ahead + tree
            total = total + self.value.flatten(0, 1)[node].sum(dim=1)
        if not self._share:
            return total + self.base
        mean = total / count
        return torch.where(mean > 0, mean.clamp(min=1e-30).log(), ABSENT)


class Linear(Numbers):
    """Linear discriminants on features that are standardised and cut off."""

    mean: Tensor  # f
    deviation: Tensor  # f
    directions: Tensor  # f k
    shift: Tensor  # k
    farthest: Tensor  # a number, standard deviations

    def forward(self, pixels: Tensor) -> Tensor:
        """p f -> p k."""
        standard = ((pixels - self.mean) / self.deviation).clamp(-self.farthest, self.farthest)
        return standard @ self.directions + self.shift


class PixelSegmenter(nn.Module):
    """One pixel at a time: its logits depend on no neighbour."""

    reach = 0  # pixels that a pixel's logits see to each side

    def __init__(self, series: EvenSeries, learner: Trees | Linear):
        super().__init__()
        self.series, self.learner = series, learner

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w (normalised), day b t (1..366, 0 = none), valid b t -> logits b k h w."""
        b, _, _, h, w = images.shape
        if torch.is_autocast_enabled(images.device.type):  # bands and thresholds are told apart to the last digit
            with torch.autocast(images.device.type, enabled=False):
                return self(images.float(), day, valid)
        logits = self.learner(self.series(images, day, valid))
        return rearrange(logits, "(b h w) k -> b k h w", b=b, h=h, w=w)


def pixel_segmenter(tensors: Mapping[str, Tensor]) -> PixelSegmenter:
    """The segmenter whose state dict this is."""
    series = {name.removeprefix("series."): value for name, value in tensors.items() if name.startswith("series.")}
    held = {name.removeprefix("learner."): value for name, value in tensors.items() if name.startswith("learner.")}
    learner = Trees(**held) if "threshold" in held else Linear(**held)
    return PixelSegmenter(EvenSeries(**series), learner)
