"""A trained segmenter as one file that needs nothing of this project: raw windows in, crop maps out (torch.export)."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from cluemap.data.patches import NODATA
from cluemap.model.networks.segmenter import Segmenter
from cluemap.model.storage.trained_models import Card, load_segmenter

EXAMPLE = (2, 3)  # windows and dates of the example that the network is traced with; both may then be any number


class FromRaw(nn.Module):
    """The segmenter with its normalisation in front and the choice of a class behind it."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Segmenter, card: Card):
        super().__init__()
        self.network, self.first = network, 0 if card.legend.background else 1
        self.register_buffer("mean", rearrange(torch.from_numpy(card.mean), "c -> c 1 1"))
        self.register_buffer("std", rearrange(torch.from_numpy(card.std), "c -> c 1 1"))

    def forward(self, images: Tensor, days: Tensor) -> Tensor:
        """images n t c h w int16 as published (NODATA = no data), days n t int16 (0 = padding) -> n h w uint8.

        Gives 0 = background (where the data set has one), 1..K; the same as `normalise` and `maps` in the pipeline.
        """
        empty = images == NODATA
        valid = ~empty.flatten(2).all(dim=2) & (days > 0)
        normalised = ((images.float() - self.mean) / self.std).masked_fill(empty, 0.0)
        logits = self.network(normalised, days.long(), valid)
        return (logits.argmax(dim=1) + self.first).to(torch.uint8)


def example(card: Card) -> tuple[Tensor, Tensor]:
    """Raw windows as a registered model wants them: images n t c h w and days n t, both int16."""
    windows, dates = EXAMPLE
    shape = (windows, dates, len(card.legend.bands), card.size, card.size)
    middle = torch.from_numpy(card.mean).round().to(torch.int16)
    images = rearrange(middle, "c -> 1 1 c 1 1").expand(shape).contiguous()
    days = torch.linspace(100, 200, dates).to(torch.int16).repeat(windows, 1)
    return images, days


def export_segmenter(file: Path, target: Path) -> Card:
    """Write the segmenter in `file` as the torch.export archive `target`; gives its card.

    Raises:
        CheckpointError: `file` is missing, damaged, or no segmenter.
    """
    network, card = load_segmenter(file)
    free = {name: {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for name in ("images", "days")}
    module = FromRaw(network, card).eval()
    with torch.no_grad():
        program = torch.export.export(module, example(card), dynamic_shapes=free)
    torch.export.save(program, target)
    return card
