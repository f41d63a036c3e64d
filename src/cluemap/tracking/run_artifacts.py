"""How a journal names files, so that they are found again after a rename, a move of the project, or days later."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

from cluemap.tracking.journal import Journal
from cluemap.tracking.store import store_location

COPIED = 64 * 2**20  # bytes: the artifacts of a pending run are kept as copies up to this size


def name_of(path: Path | str) -> str:
    """A path as journals hold it: from the project's root if it is there, else absolute."""
    path, root = Path(path).absolute(), store_location.main_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def describe_artifact(file: Path) -> dict[str, Any]:
    """A file's name and digest; the digest shows later whether it is still the same file."""
    return {"path": name_of(file), "digest": _digest(file)}


def find_path(name: str) -> Path | None:
    """The file that a journal names: a stage's outputs are written in a temporary folder (`files.atomic_folder`)
    and have their final name by the time they are sent later. None if it is nowhere.
    """
    path = store_location.main_root() / name
    settled = Path(*(re.sub(r"^\.(.+)\.\d+\.tmp$", r"\1", part) for part in path.parts))
    return next((place for place in (path, settled) if place.is_file()), None)


def find_artifact(record: dict[str, Any], journal: Path) -> Path | None:
    """The file of an artifact's record, or its copy beside a journal put away; None if it is gone or was changed."""
    copy = journal.with_suffix("") / record["digest"] / Path(record["path"]).name
    places = [find_path(record["path"]), copy]
    return next((file for file in places if file and file.is_file() and _digest(file) == record["digest"]), None)


def copy_artifacts(journal: Journal, target: Path) -> None:
    """Copy the artifacts that the store lacks to a folder beside `target`, since later runs overwrite outputs."""
    for record, _ in journal.records(journal.history.sent):
        file = find_artifact(record, journal.path) if record["kind"] == "artifact" else None
        if file and file.stat().st_size <= COPIED:
            folder = target.with_suffix("") / record["digest"]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / Path(record["path"]).name)


def _digest(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
