"""Checkpoints: one safetensors file each, tensors and a JSON description, written atomically (no pickle anywhere)."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cluemap.errors import CheckpointError
from cluemap.files import atomic

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    tensors: dict[str, Tensor]
    about: dict[str, Any]  # plain JSON: kind, params, data digest, step, ...


def save(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write one file atomically: a kill or a full disk leaves what was there before.

    Raises:
        CheckpointError: the disk does not take it.
    """
    plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    try:
        with atomic(file) as temporary:
            save_file(plain, temporary, metadata={"about": json.dumps(about, sort_keys=True)})
    except (SafetensorError, OSError) as error:
        mend = "make room and type the same command again, it continues from the state before"
        raise CheckpointError(f"{file} cannot be written ({error}): {mend}") from None


def load(file: Path) -> Checkpoint:
    """Read one file, tensors on the CPU.

    Raises:
        CheckpointError: missing, truncated or damaged.
    """
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return Checkpoint(tensors, json.loads((content.metadata() or {})["about"]))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: run the stage that writes it (`dvc repro` runs all)") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged ({error}): delete it and run its stage again") from None


def save_last(folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `last`, keeping the one before as `previous`: at no moment is there no whole file."""
    last, previous = folder / LAST, folder / PREVIOUS
    if _is_whole(last):  # a damaged one must not take the place of a good `previous`
        with atomic(previous) as temporary:
            _link(last, temporary)
    save(last, tensors, about)


def _is_whole(file: Path) -> bool:
    """Whether the file's header and length agree; its tensors are not read."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _link(file: Path, other: Path) -> None:
    try:
        os.link(file, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, other)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of `folder`: `last`, or `previous` with a warning; None where there is neither."""
    for name in (LAST, PREVIOUS):
        if (folder / name).exists():
            try:
                return load(folder / name)
            except CheckpointError as error:
                log.warning("%s; going on from the one before", error)
    return None


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], file: Path | str, mend: str) -> None:
    """Compare two flat descriptions.

    Raises:
        CheckpointError: they differ; names the first differing key, both values and the mend.
    """
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise CheckpointError(f"{file}: {key} is {found.get(key)!r} there and {wanted.get(key)!r} now: {mend}")


def split(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments as named tensors: "optimiser/<parameter number>/<name>"."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser/{number}/{name}": value for number, kept in state.items() for name, value in kept.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the moments of `optimiser_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in split(tensors, "optimiser/").items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
