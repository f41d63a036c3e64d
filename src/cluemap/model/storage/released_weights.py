"""Reads released Exact checkpoints: their weights under this project's names (METHOD section 12)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cluemap.errors import CheckpointError
from cluemap.model.method.clues import Clues
from cluemap.model.networks.temporal_encoder import DAYS

# released name -> ours, tried in order
RENAMED = (
    (r"to_patch_embedding\.1\.(.*)", r"temporal.embed.\1"),
    (r"space_pos_embedding", "positions"),
    (r"space_token", "global_token"),
    (r"temporal_token", "temporal.class_tokens"),
    (r"mlp_head\.(.*)", r"@head.\1"),
    (r"patch_head\.(.*)", r"patch_head.\1"),
    (r"(temporal|space)_transformer\.norm\.(.*)", r"@\1.norm.\2"),
    (r"(temporal|space)_transformer\.layers\.(\d+)\.0\.norm\.(.*)", r"@\1.blocks.\2.attention_norm.\3"),
    (
        r"(temporal|space)_transformer\.layers\.(\d+)\.0\.fn\.to_qkv\.(.*)",
        r"@\1.blocks.\2.attention.to_query_key_value.\3",
    ),
    (r"(temporal|space)_transformer\.layers\.(\d+)\.0\.fn\.to_out\.0\.(.*)", r"@\1.blocks.\2.attention.to_out.\3"),
    (r"(temporal|space)_transformer\.layers\.(\d+)\.1\.norm\.(.*)", r"@\1.blocks.\2.feed_forward.0.\3"),
    (r"(temporal|space)_transformer\.layers\.(\d+)\.1\.fn\.net\.0\.(.*)", r"@\1.blocks.\2.feed_forward.1.\3"),
    (r"(temporal|space)_transformer\.layers\.(\d+)\.1\.fn\.net\.3\.(.*)", r"@\1.blocks.\2.feed_forward.4.\3"),
)
PREFIXES = {"@temporal.": "temporal.transformer.", "@space.": "spatial."}
NOT_WEIGHTS = ("fg_proto", "bg_proto", "taap_module.")
WRAPPERS = ("state_dict", "model_state_dict", "model")


def classifier_from_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Clues]:
    """A released classifier's state dict -> (state dict for our Classifier, its clues).

    Raises:
        CheckpointError: a key that no released classifier has, or clues missing.
    """
    state = _without_wrapper(state)
    try:
        clues = Clues(*(F.normalize(state[name].float(), dim=-1) for name in ("fg_proto", "bg_proto")))
    except KeyError as error:
        raise CheckpointError(f"no {error} in the released checkpoint: is it a segmenter's?") from None
    return _renamed(state, head="class_head."), clues


def segmenter_from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released segmenter's state dict -> state dict for our Segmenter (with `pixel_layout: flat`)."""
    return _renamed(_without_wrapper(state), head="head.")


def load_released(file: Path | str) -> dict[str, Any]:
    """Read a released .pth file's state dict, tensors only.

    Raises:
        CheckpointError: missing, or holding anything that is not tensors in plain containers.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as weights alone: {error}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            return content[wrapper]
    return content


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in state.items()}


def _renamed(state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    ours = {}
    for name, value in state.items():
        if name.startswith(NOT_WEIGHTS):
            continue
        if name == "to_temporal_embedding_input.weight":
            ours["temporal.dates.weight"] = _date_table(value)
        elif name == "to_temporal_embedding_input.bias":
            ours["temporal.date_bias"] = value
        else:
            new = _rename(name).replace("@head.", head)
            ours[new] = value.flatten() if new == "global_token" else _without_batch(new, value)
    return ours


def _rename(name: str) -> str:
    for pattern, ours in RENAMED:
        if re.fullmatch(pattern, name):
            new = re.sub(pattern, ours, name)
            for short, full in PREFIXES.items():
                new = new.replace(short, full)
            return new
    raise CheckpointError(f"the checkpoint holds {name!r}, which no released Exact network has")


def _without_batch(name: str, value: Tensor) -> Tensor:
    return value[0] if name in ("positions", "temporal.class_tokens") else value


def _date_table(linear: Tensor) -> Tensor:
    """Linear over one-hot days (d, days): its column `day` is that day's vector."""
    table = linear.new_zeros(DAYS, len(linear))
    days = min(linear.shape[1], DAYS)
    table[:days] = linear.T[:days]
    return table
