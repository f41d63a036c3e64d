"""The golden arrays of released Exact networks, where the checkout has them."""

import numpy as np
import pytest
import torch
from locations import SHARED

from cluemap.params import ClassifierParams, SegmenterParams

FILE = SHARED / "golden" / "released_small.npz"

COURSE = {
    "batch": 3, "steps": 1, "learning_rate": 1e-3, "final_learning_rate": 5e-6, "warmup": 0.1, "weight_decay": 0.0,
    "validate_every": 1, "select": "last", "token_spread": 1.0, "weight_averaging": 0.0, "whitening": 0.0,
}  # fmt: skip


def arrays() -> dict[str, torch.Tensor]:
    if not FILE.exists():
        pytest.skip(f"no golden arrays at {FILE}")
    with np.load(FILE, allow_pickle=False) as content:
        return {name: torch.from_numpy(np.asarray(content[name])) for name in content.files}


def under(golden: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def sizes(golden: dict[str, torch.Tensor]) -> dict[str, int | float | bool]:
    number = {name: int(value) for name, value in under(golden, "config/").items()}
    return {
        "patch": number["patch"], "width": number["dim"], "temporal_depth": number["temporal_depth"],
        "spatial_depth": number["spatial_depth"], "heads": number["heads"], "head_width": number["dim_head"],
        "feed_forward": number["mlp_ratio"], "dropout": 0.0, "mask_padding": True, **COURSE,
    }  # fmt: skip


def classifier_params(golden: dict[str, torch.Tensor]) -> ClassifierParams:
    return ClassifierParams.model_validate({**sizes(golden), "residual": "normed"})


def segmenter_params(golden: dict[str, torch.Tensor]) -> SegmenterParams:
    return SegmenterParams.model_validate(
        {**sizes(golden), "residual": "both", "kind": "tsvit", "pixel_layout": "flat"}
    )
