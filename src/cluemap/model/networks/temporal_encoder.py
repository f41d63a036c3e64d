"""The temporal encoder: a window's series -> class tokens and date tokens at every grid position (METHOD section 2)."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from cluemap.errors import ParamsError
from cluemap.model.networks.transformer import Transformer
from cluemap.model.networks.whitening import whitening_buffer
from cluemap.params import NetworkParams

DAYS = 367  # rows of the date table: day of year 1..366; row 0 is never used


class Watched(NamedTuple):
    """What the clue method needs of the temporal encoder."""

    dense: Tensor  # b n k d, class tokens (D)
    sequence: Tensor  # b n t d, date tokens (S)
    attention: Tensor  # b k t, class tokens' attention to dates, mean over layers, heads, positions; no gradient (A)
    more: Tensor | None = None  # b n e d, the tokens of each window, where it was given any


class TemporalEncoder(nn.Module):
    """`classes` learned class tokens, then the date tokens, through a transformer at every grid position."""

    whitening: Tensor | None

    def __init__(self, bands: int, classes: int, params: NetworkParams):
        super().__init__()
        width = params.width
        self.patch, self.mask_padding = params.patch, params.mask_padding
        self.embed = nn.Linear(bands * params.patch**2, width)
        self.register_buffer("whitening", whitening_buffer(bands) if params.whitening > 0 else None)
        self.dates = nn.Embedding(DAYS, width)
        self.date_bias = nn.Parameter(torch.zeros(width))
        self.class_tokens = nn.Parameter(params.token_spread * torch.randn(classes, width))
        self.transformer = build_transformer(params.temporal_depth, params)
        bound = DAYS**-0.5  # as a Linear over one-hot days would start
        nn.init.uniform_(self.dates.weight, -bound, bound)

    def forward(self, images: Tensor, day: Tensor, valid: Tensor, more: Tensor | None = None) -> Tensor:
        """images b t c h w, day b t, valid b t -> b n k d, the class tokens; with `more` b e d, tokens of each window
        that stand at every grid position, b n (k + e) d.
        """
        tokens, seen = self._tokens(images, day, valid, more)
        asked = len(self.class_tokens) + (0 if more is None else more.shape[1])
        out = self.transformer(tokens, seen, asked=asked)
        return rearrange(out, "(b n) k d -> b n k d", b=images.shape[0])

    def watched(self, images: Tensor, day: Tensor, valid: Tensor, more: Tensor | None = None) -> Watched:
        """images b t c h w, day b t, valid b t, more b e d (see `forward`) -> class tokens, date tokens and the
        attention between them.
        """
        tokens, seen = self._tokens(images, day, valid, more)
        classes, b = len(self.class_tokens), images.shape[0]
        first = classes + (0 if more is None else more.shape[1])
        out, attention = self.transformer.watched(tokens, seen, first)
        return Watched(
            dense=rearrange(out[:, :classes], "(b n) k d -> b n k d", b=b),
            sequence=rearrange(out[:, first:], "(b n) t d -> b n t d", b=b),
            attention=rearrange(attention[:, :classes], "(b n) k t -> b n k t", b=b).mean(dim=1),
            more=None if more is None else rearrange(out[:, classes:first], "(b n) e d -> b n e d", b=b),
        )

    def _tokens(
        self, images: Tensor, day: Tensor, valid: Tensor, more: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        p = self.patch
        patches = rearrange(images, "b t c (i p) (j q) -> b (i j) t (p q c)", p=p, q=p)
        dates = rearrange(self.dates(day) + self.date_bias, "b t d -> b 1 t d")
        tokens = rearrange(F.linear(patches, self._embedding(), self.embed.bias) + dates, "b n t d -> (b n) t d")
        classes = repeat(self.class_tokens, "k d -> s k d", s=tokens.shape[0]).to(tokens.dtype)
        if more is not None:
            more = repeat(more, "b e d -> (b n) e d", n=patches.shape[1]).to(tokens.dtype)
            classes = torch.cat([classes, more], dim=1)
        seen = None
        if self.mask_padding:
            always = valid.new_ones(valid.shape[0], classes.shape[1])
            seen = repeat(torch.cat([always, valid], dim=1), "b l -> (b n) l", n=patches.shape[1])
        return torch.cat([classes, tokens], dim=1), seen

    def _embedding(self) -> Tensor:
        """d (p q c): the weights of `embed`, with the whitening of the bands folded in."""
        if self.whitening is None:
            return self.embed.weight
        pixels = rearrange(self.embed.weight, "d (r c) -> d r c", c=len(self.whitening))
        return rearrange(pixels @ self.whitening, "d r c -> d (r c)")


def build_transformer(depth: int, params: NetworkParams) -> Transformer:
    """A stack of `depth` blocks of the network's sizes."""
    return Transformer(
        depth, params.width, params.heads, params.head_width, params.feed_forward, params.dropout, params.residual
    )


def grid_side(window: int, patch: int) -> int:
    """Grid positions a side of a window of `window` pixels.

    Raises:
        ParamsError: the window does not divide into patches.
    """
    if window % patch:
        raise ParamsError(f"windows.size {window} is no multiple of the network's patch {patch}: change one of them")
    return window // patch
