"""The classifier: image-level logits, and per-position scores from which class activation maps come (METHOD 2)."""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from cluemap.model.networks.temporal_encoder import TemporalEncoder, Watched, build_transformer, grid_side
from cluemap.params import NetworkParams


class Classified(NamedTuple):
    """Everything one forward pass of the classifier gives; i j are the grid's rows and columns."""

    logits: Tensor  # b k
    temporal: Tensor  # b k i j, patch scores of the temporal tokens (a_T)
    spatial: Tensor  # b k i j, patch scores of the spatial tokens (a_S)
    watched: Watched


class Classifier(nn.Module):
    """Temporal encoder, then a spatial encoder per class with one global token."""

    def __init__(self, bands: int, classes: int, window: int, params: NetworkParams):
        super().__init__()
        self.side = grid_side(window, params.patch)
        self.temporal = TemporalEncoder(bands, classes, params)
        self.global_token = nn.Parameter(params.token_spread * torch.randn(params.width))
        self.positions = nn.Parameter(params.token_spread * torch.randn(self.side**2, params.width))
        self.spatial = build_transformer(params.spatial_depth, params)
        self.class_head = nn.Sequential(nn.LayerNorm(params.width), nn.Linear(params.width, 1))
        self.patch_head = nn.Conv2d(params.width, 1, kernel_size=3, padding=1)

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Classified:
        """images b t c h w (normalised), day b t (1..366, 0 = none), valid b t -> Classified."""
        return self.classified(self.watched(images, day, valid))

    def watched(self, images: Tensor, day: Tensor, valid: Tensor) -> Watched:
        """What the temporal encoder alone gives, for maps that need no more."""
        return self.temporal.watched(images, day, valid)

    def classified(self, watched: Watched) -> Classified:
        """The rest of the network on it."""
        b = len(watched.dense)
        tokens = rearrange(watched.dense, "b n k d -> (b k) n d") + self.positions
        first = repeat(self.global_token, "d -> s 1 d", s=len(tokens)).to(tokens.dtype)
        out = self.spatial(torch.cat([first, tokens], dim=1))
        return Classified(
            logits=rearrange(self.class_head(out[:, 0]), "(b k) 1 -> b k", b=b),
            temporal=self._patch_scores(rearrange(watched.dense, "b n k d -> (b k) n d"), b),
            spatial=self._patch_scores(out[:, 1:], b),
            watched=watched,
        )

    def _patch_scores(self, tokens: Tensor, b: int) -> Tensor:
        maps = rearrange(tokens, "s (i j) d -> s d i j", i=self.side)
        return rearrange(self.patch_head(maps), "(b k) 1 i j -> b k i j", b=b)
