"""A segmenter with one more position, for what is known of a window beside its images (METHOD section 16).

A teacher's position holds a learned vector and an embedding of the metadata; a student's the learned vector alone, the
stand-in, so that its maps depend on no metadata. Of `tsvit` the position is one more token at every grid position, seen
by the class tokens; of `ltae`, which has no tokens, a small layer at every pixel before the convolutions.
"""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.tsvit import TsvitSegmenter

METADATA = 3  # numbers that a teacher is told of a window: latitude, longitude, year
SPREAD = 0.02  # standard deviation at which the stand-in starts


class Seen(NamedTuple):
    """What a segmenter with such a position gives."""

    logits: Tensor  # b k h w
    position: Tensor  # b ... d, its output there, at every grid position or pixel


def embedding(metadata: int, width: int) -> nn.Module:
    """b m -> b d: what a teacher makes of the numbers it is told of a window."""
    return nn.Sequential(nn.Linear(metadata, width), nn.GELU(), nn.Linear(width, width))


class StandInSegmenter(nn.Module):
    """`metadata`: how many numbers of a window it is told; 0 = none, it has the stand-in alone."""

    def __init__(self, segmenter: TsvitSegmenter | LtaeSegmenter, metadata: int = 0):
        super().__init__()
        tokens = isinstance(segmenter, TsvitSegmenter)
        d = segmenter.positions.shape[1] if isinstance(segmenter, TsvitSegmenter) else segmenter.head.in_features
        self.segmenter = segmenter
        self.stand_in = nn.Parameter(SPREAD * torch.randn(d))
        self.mix = None if tokens else nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d), nn.GELU(), nn.Linear(d, d))
        self.embed = embedding(metadata, d) if metadata else None

    @property
    def reach(self) -> int | None:
        """Pixels that a pixel's logits see to each side, as the segmenter's own; None: the whole window."""
        return self.segmenter.reach if isinstance(self.segmenter, LtaeSegmenter) else None

    @property
    def told(self) -> bool:
        """Whether it wants metadata."""
        return self.embed is not None

    def forward(self, images: Tensor, day: Tensor, valid: Tensor, metadata: Tensor | None = None) -> Tensor:
        """images b t c h w (normalised), day b t, valid b t, metadata b m where it is told them -> logits b k h w."""
        return self.seen(images, day, valid, metadata).logits

    def seen(self, images: Tensor, day: Tensor, valid: Tensor, metadata: Tensor | None = None) -> Seen:
        """As forward, with the output of the position. Metadata are not looked at by a network that is not told them.

        Raises:
            ValueError: it is told metadata, and there are none.
        """
        token = self.stand_in.expand(images.shape[0], -1)
        if self.embed is not None:
            if metadata is None:
                raise ValueError("this network is told the metadata of every window: give them")
            token = token + self.embed(metadata)
        if isinstance(self.segmenter, TsvitSegmenter):
            found = self.segmenter.temporal(images, day, valid, rearrange(token, "b d -> b 1 d"))  # b n (k + 1) d
            return Seen(self._classified(found[:, :, :-1]), found[:, :, -1])
        pixels = self.segmenter.temporal(images, day, valid)  # b h w d
        position = self.mix(pixels + rearrange(token, "b d -> b 1 1 d"))  # type: ignore[misc]  # ltae has it
        return Seen(self._classified(pixels + position), position)

    def _classified(self, found: Tensor) -> Tensor:
        return self.segmenter.classify(self.segmenter.mixed(found))


class Answers(NamedTuple):
    """What teacher and student say in one step: each what its `seen` gives (`Seen` of segmenters)."""

    weak: Any  # the teacher's, on the weak views of the unlabelled windows; no gradient
    teacher: Any  # on the labelled windows and the strong views
    student: Any


class TeacherStudent(nn.Module):
    """Two networks of one kind, so that one call is one step of one optimiser. Of each `seen` is called."""

    teacher: Any
    student: Any

    def __init__(self, teacher: nn.Module, student: nn.Module):
        super().__init__()
        self.teacher, self.student = teacher, student

    def forward(
        self, images: Tensor, day: Tensor, valid: Tensor,
        weak_images: Tensor, weak_day: Tensor, weak_valid: Tensor, metadata: Tensor | None,
    ) -> Answers:  # fmt: skip
        """Labelled windows, then strong views of the unlabelled ones (b t c h w, b t, b t); weak views of the same
        unlabelled ones (u t c h w, u t, u t); metadata b m, or None.
        """
        with torch.no_grad():
            own = None if metadata is None else metadata[len(metadata) - len(weak_images) :]
            weak = self.teacher.seen(weak_images, weak_day, weak_valid, own)
        given = images, day, valid, metadata
        return Answers(weak, self.teacher.seen(*given), self.student.seen(*given))
