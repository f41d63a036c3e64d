"""What CSCL adds to a segmenter: a head that compares every pixel with its context (METHOD section 15).

The head is for training alone and is dropped after it, unless its similarities join the features of the class head.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.model.method.cscl import similarities
from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.params import CsclParams

POSITION_SPREAD = 0.1  # standard deviation at which relative positions start: what a pixel holds decides at first
CLASS_CHANNELS = 8  # that a class's token gives to each of its grid position's pixels (tsvit)


class Seen(NamedTuple):
    """What a segmenter with a context head gives."""

    logits: Tensor  # b k h w
    similarities: Tensor  # b j h' w'


class TokenPixels(nn.Module):
    """The tokens of a TSViT as one vector a pixel: every class's token gives a few channels to each of its pixels."""

    def __init__(self, segmenter: TsvitSegmenter):
        super().__init__()
        width, pixels = segmenter.positions.shape[1], segmenter.patch**2
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, pixels * CLASS_CHANNELS)
        self.place = segmenter.pixels

    def forward(self, tokens: Tensor) -> Tensor:
        """b k n d -> b (k e) h w."""
        channels = rearrange(self.expand(self.norm(tokens)), "b k n (r e) -> b (k e) n r", e=CLASS_CHANNELS)
        return self.place(channels)


class ContextHead(nn.Module):
    """Query and key of every pixel, compared within its context."""

    def __init__(self, width: int, params: CsclParams):
        super().__init__()
        self.params = params
        self.query = nn.Conv2d(width, width, 1, bias=False)
        self.key = nn.Conv2d(width, width, 1, bias=False)
        self.rows = nn.Parameter(POSITION_SPREAD * torch.randn(params.window, width // 2))
        self.columns = nn.Parameter(POSITION_SPREAD * torch.randn(params.window, width - width // 2))

    def forward(self, embedding: Tensor) -> Tensor:
        """b d h w -> similarities b j h' w'."""
        return similarities(self.query(embedding), self.key(embedding), self.rows, self.columns, self.params)


class ContextSegmenter(nn.Module):
    """A segmenter and its context head. `joined`: the similarities join what the class head is given; that head is
    linear, so their part is a sum of its own.
    """

    def __init__(self, segmenter: TsvitSegmenter | LtaeSegmenter, classes: int, params: CsclParams):
        super().__init__()
        self.segmenter = segmenter
        if isinstance(segmenter, LtaeSegmenter):
            self.embed: nn.Module = nn.Identity()
            width = segmenter.head.in_features
        else:
            self.embed = TokenPixels(segmenter)
            width = classes * CLASS_CHANNELS
        self.context = ContextHead(width, params)
        self.join = nn.Conv2d(params.window**2, classes, 1, bias=False) if params.joined else None

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Seen:
        """images b t c h w (normalised), day b t, valid b t."""
        features = self.segmenter.features(images, day, valid)
        logits, similar = self.segmenter.classify(features), self.compare(features)
        return Seen(logits if self.join is None else logits + self.join(similar), similar)

    def compare(self, features: Tensor) -> Tensor:
        """The segmenter's features -> similarities b j h' w', in full precision."""
        with torch.autocast(features.device.type, enabled=False):
            return self.context(self.embed(features.to(self.context.rows.dtype)))

    def published(self) -> "TsvitSegmenter | LtaeSegmenter | JoinedSegmenter":
        """The segmenter that stays after the training, of the same weights: one logit per class and pixel."""
        return self.segmenter if self.join is None else JoinedSegmenter(self)

    def class_head(self) -> nn.ModuleList:
        """What similarities do not depend on."""
        return nn.ModuleList([self.segmenter.head, *([] if self.join is None else [self.join])])


class ContextComparer(nn.Module):
    """Of a segmenter with a context head the part that gives similarities."""

    def __init__(self, network: ContextSegmenter):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w (normalised), day b t, valid b t -> similarities b j h' w'."""
        return self.network.compare(self.network.segmenter.features(images, day, valid))


class JoinedSegmenter(nn.Module):
    """A segmenter whose class head is given the similarities too."""

    def __init__(self, network: ContextSegmenter):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w (normalised), day b t, valid b t -> logits b k h w."""
        return self.network(images, day, valid).logits
