"""A classifier with one more token at every grid position, for what is known of a window beside its images.

As `stand_in` has it for segmenters (METHOD section 16): a teacher's token is a learned vector and an embedding of the
metadata, a student's the learned vector alone, so that its class maps depend on no metadata.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.model.networks.classifier import Classified, Classifier
from cluemap.model.networks.stand_in import SPREAD, embedding
from cluemap.model.networks.temporal_encoder import Watched
from cluemap.params import NetworkParams


class StandInClassifier(Classifier):
    """`metadata`: how many numbers of a window it is told; 0 = none, it has the stand-in alone."""

    def __init__(self, bands: int, classes: int, window: int, params: NetworkParams, metadata: int = 0):
        super().__init__(bands, classes, window, params)
        self.stand_in = nn.Parameter(SPREAD * torch.randn(params.width))
        self.embed = embedding(metadata, params.width) if metadata else None

    def seen(self, images: Tensor, day: Tensor, valid: Tensor, metadata: Tensor | None = None) -> Classified:
        """images b t c h w (normalised), day b t, valid b t, metadata b m where it is told them -> Classified, whose
        `watched.more` is the output at the token. Raises as `watched`.
        """
        return self.classified(self.watched(images, day, valid, metadata))

    def watched(self, images: Tensor, day: Tensor, valid: Tensor, metadata: Tensor | None = None) -> Watched:
        """Metadata are not looked at by a network that is not told them.

        Raises:
            ValueError: it is told metadata, and there are none.
        """
        token = self.stand_in.expand(len(images), -1)
        if self.embed is not None:
            if metadata is None:
                raise ValueError("this network is told the metadata of every window: give them")
            token = token + self.embed(metadata)
        return self.temporal.watched(images, day, valid, rearrange(token, "b d -> b 1 d"))
