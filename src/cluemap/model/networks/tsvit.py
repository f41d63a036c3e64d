"""The segmenter `tsvit`: TSViT with a dense head, K crops and the background (METHOD section 8)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.model.networks.temporal_encoder import TemporalEncoder, build_transformer, grid_side
from cluemap.params import SegmenterParams


class TsvitSegmenter(nn.Module):
    """One logit per class and pixel. `classes` counts the background where the data set has one."""

    def __init__(self, bands: int, classes: int, window: int, params: SegmenterParams):
        super().__init__()
        self.side, self.patch, self.layout = grid_side(window, params.patch), params.patch, params.pixel_layout
        self.temporal = TemporalEncoder(bands, classes, params)
        self.positions = nn.Parameter(params.token_spread * torch.randn(self.side**2, params.width))
        self.spatial = build_transformer(params.spatial_depth, params)
        self.head = nn.Sequential(nn.LayerNorm(params.width), nn.Linear(params.width, params.patch**2))

    def forward(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w (normalised), day b t, valid b t -> logits b k h w."""
        return self.classify(self.features(images, day, valid))

    def features(self, images: Tensor, day: Tensor, valid: Tensor) -> Tensor:
        """images b t c h w, day b t, valid b t -> b k n d: what the head is given of each class and grid position."""
        return self.mixed(self.temporal(images, day, valid))

    def mixed(self, dense: Tensor) -> Tensor:
        """b n k d -> b k n d: every class's tokens through the spatial encoder."""
        tokens = rearrange(dense, "b n k d -> (b k) n d")
        return rearrange(self.spatial(tokens + self.positions), "(b k) n d -> b k n d", b=dense.shape[0])

    def classify(self, features: Tensor) -> Tensor:
        """What `features` gave, b k n d -> logits b k h w."""
        with torch.autocast(features.device.type, enabled=False):  # what all classes share must cancel in the gradient
            return self.pixels(self.head(features.to(self.positions.dtype)))

    def pixels(self, places: Tensor) -> Tensor:
        """b k n r (r = the pixels of a grid position) -> b k h w: each where it lies."""
        if self.layout == "flat":  # reads released weights only: a position's pixels land elsewhere
            return rearrange(places, "b k n r -> b k (n r)").unflatten(2, (self.side * self.patch, -1))
        return rearrange(places, "b k (i j) (p q) -> b k (i p) (j q)", i=self.side, p=self.patch)
