"""Files that DVC does not see. Raw ones: scene.yaml, which it is told to ignore, what lies behind links to folders, and
what scene.yaml names outside the data set's folder; their record is a dependency of stage prepare. And files that
params name: DVC sees the name alone, so the record of the content is a dependency of the stages that read them.
"""

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from cluemap.data.scenes.scene_file import NAME
from cluemap.files import parsed_yaml

Stamp = list[int]  # size in bytes, time of change in nanoseconds


def record(folder: Path) -> dict[str, Any]:
    """The hash of scene.yaml, and size and time of every file behind a link to a folder or outside `folder`."""
    scene = folder / NAME
    content = scene.read_bytes() if scene.is_file() else b""
    places = [*linked_folders(folder), *named_outside(folder, content)]
    files = {os.path.relpath(file, folder): _stamp(file) for place in places for file in _files(place)}
    return {NAME: _md5(content) if content else None, "files": files}


def content_of(file: Path | None) -> dict[str, str | None]:
    """The hash of a file that params name; None where they name none, or it is not there (its stage says so)."""
    return {"md5": _md5(file.read_bytes()) if file is not None and file.is_file() else None}


def linked_folders(folder: Path) -> Iterator[Path]:
    """Links to folders below `folder`: DVC records such a link as if it were not there."""
    for place, folders, _ in os.walk(folder):
        yield from (Path(place, name) for name in sorted(folders) if Path(place, name).is_symlink())


def named_outside(folder: Path, scene: bytes) -> Iterator[Path]:
    """What a text of scene.yaml names (a path or a pattern) that does not lie in `folder`."""
    try:
        tree = parsed_yaml(scene.decode("utf-8", errors="replace"))
    except YAMLError:
        return  # `prepare` says what is wrong with it
    home = folder.absolute()
    for text in _texts(tree):
        for found in sorted(glob.glob(str(home / text))):
            if not Path(os.path.normpath(found)).is_relative_to(home):
                yield Path(found)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(inner)


def _files(place: Path) -> Iterator[Path]:
    """The files at or below `place`, links followed, each folder once."""
    if place.is_file():
        yield place
    seen: set[str] = set()
    for where, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(folders)
        if real not in seen:
            yield from (Path(where, name) for name in sorted(names))
        seen.add(real)


def _stamp(file: Path) -> Stamp:
    found = file.stat() if file.exists() else file.lstat()
    return [found.st_size, found.st_mtime_ns]
