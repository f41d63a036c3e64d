"""A real segmenter with random weights, as a checkpoint: for the tests of maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import SIZES

from cluemap.data.patches import CropClass, Legend
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.model.storage import checkpoints
from cluemap.params import load_params

SIZE, BANDS = 14, ("B04", "B03", "B02")
LEGEND = Legend(BANDS, (0, 1, 2), tuple(CropClass(f"crop {k}", f"#0000{16 * k:02x}") for k in (1, 2, 3)), True)


def write_model(file: Path, bands: Sequence[str], size: int = SIZE, training: Any = None) -> Path:
    """A checkpoint of a TSViT for these bands."""
    params = load_params("demo").segmenter.model_copy(update={"kind": "tsvit", **SIZES})
    torch.manual_seed(0)
    network = TsvitSegmenter(len(bands), 4, size, params)
    for weights in network.parameters():  # away from the even start, so that pixels differ
        torch.nn.init.normal_(weights, std=0.8)
    legend = Legend(tuple(bands), (0, 1, 2), LEGEND.classes, True)
    about = {
        "kind": "segmenter", "dataset": "mine", "digest": "0", "legend": legend.to_json(), "size": size,
        "max_dates": 60, "mean": [1500.0] * len(bands), "std": [600.0] * len(bands),
        "network": params.model_dump(mode="json"), "training": training,
    }  # fmt: skip
    checkpoints.save(file, {f"network/{name}": value for name, value in network.state_dict().items()}, about)
    return file
