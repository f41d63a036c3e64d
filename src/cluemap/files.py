"""Writing so that no half-written file or folder is ever taken for a whole one, and reading that notices damage."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray
from ruamel.yaml import YAML

from cluemap.errors import DataError

# What NumPy raises for a .npy file that is cut short or damaged: its header is parsed as Python source.
DAMAGED_ARRAY = (OSError, ValueError, EOFError, SyntaxError, TokenError, OverflowError, MemoryError)


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Give a temporary file beside `path`; on success it is synced and renamed over `path`, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path | str) -> Iterator[Path]:
    """Give an empty temporary folder beside `folder`; on success it takes the place of `folder`."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        if left == temporary or not _alive(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path | str, content: str) -> None:
    """Write `content` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, atomically. NaN is written as null, which every reader understands."""
    write_text(path, json.dumps(_without_nan(content), indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run the stage that writes it (`dvc repro` runs all)") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): delete it and run its stage again") from None


def parsed_yaml(text: str) -> Any:
    """YAML 1.2 (the parser DVC uses) -> plain values, new ones at each call.

    The parser is in Python and slow, and one process reads its params.yaml and dvc.lock again and again.
    """
    return deepcopy(_parsed_yaml(text))


@lru_cache(maxsize=8)
def _parsed_yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _alive(process: str) -> bool:
    return process.isdigit() and psutil.pid_exists(int(process))


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_array(path: Path, dtype: DTypeLike, shape: tuple[int | None, ...], mend: str) -> NDArray:
    """An array file, memory-mapped; None in `shape` = any length.

    Raises:
        DataError: missing, damaged, or of another type or shape; the message ends with `mend`.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {mend}") from None
    except DAMAGED_ARRAY as error:
        raise DataError(f"{path} is damaged ({error}): {mend}") from None
    wanted = tuple(mine if length is None else length for length, mine in zip(shape, array.shape, strict=False))
    if array.dtype != dtype or array.ndim != len(shape) or array.shape != wanted:
        asked = f"{np.dtype(dtype)} {shape}".replace("None", "any")
        raise DataError(f"{path} holds {array.dtype} {array.shape}, the windows want {asked}: {mend}")
    return np.asarray(array)  # a plain view: slices of it are cheaper than slices of a memmap
