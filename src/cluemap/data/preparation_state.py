"""Unfinished work of stage prepare: where it lies, how far it came, and whether it may be continued.

`state`/partial holds windows/ (the growing arrays), rows.npy (the table so far, JSON lines as bytes) and progress.json,
replaced as a whole after the others are on disk: so it is never ahead of them, and what follows its lengths is cut off.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from cluemap.data.appendable_arrays import Extent, GrowingArray
from cluemap.data.patches import Reader
from cluemap.data.window_writer import Writer, Written
from cluemap.errors import DataError
from cluemap.files import atomic_folder, read_json, write_json
from cluemap.params import Params

ARRAYS, ROWS, RECORD, LOCK = "windows", "rows.npy", "progress.json", ".lock"
SAVE_EVERY = 20.0  # seconds of work that a kill may cost (or one patch, if that takes longer)
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
log = logging.getLogger(__name__)


@contextmanager
def workplace(folder: Path, state: Path | None) -> Iterator[Path]:
    """The folder of the unfinished work, kept when that fails. Without a `state` it is one beside `folder` that goes.

    Raises:
        DataError: another process works there.
    """
    if state is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            yield Path(temporary)
        return
    place = state / "partial"
    place.mkdir(parents=True, exist_ok=True)
    with open(place / LOCK, "a") as lock:
        _hold(lock.fileno(), place)
        yield place
        shutil.rmtree(place, ignore_errors=True)


def publish(place: Path, folder: Path) -> None:
    """Let the finished arrays take the place of `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    try:
        os.replace(place / ARRAYS, folder)
    except OSError as error:
        if error.errno != errno.EXDEV:  # the state lies on another disk
            raise
        with atomic_folder(folder) as temporary:
            shutil.copytree(place / ARRAYS, temporary, dirs_exist_ok=True)


class Progress:
    """A writer, the patches that it holds all windows of, and the record of both."""

    def __init__(self, place: Path, identity: dict[str, Any], write: Callable[[Written | None], Writer]) -> None:
        self.place, self.identity, self.patches = place, identity, 0
        self._saved, self._time = 0, time.monotonic()
        if (place / RECORD).exists():
            try:
                self._go_on(_read(place / RECORD), write)
                return
            except DataError as reason:
                log.warning("prepare starts over, its unfinished work is of no use: %s", reason)
        _empty(place)
        (place / ARRAYS).mkdir()
        self._rows = GrowingArray(place / ROWS, np.uint8)
        self.writer = write(None)

    def done(self) -> None:
        """One more patch was written; saved now and then."""
        self.patches += 1
        if time.monotonic() - self._time >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """From here on a kill costs nothing of what was done."""
        written = self.writer.written()
        lines = "".join(json.dumps(row, default=_plain) + "\n" for row in written.rows[self._saved :])
        self._rows.append(np.frombuffer(lines.encode(), np.uint8))
        self._rows.sync()
        content = {
            "identity": self.identity,
            "patches": self.patches,
            "files": {name: asdict(extent) for name, extent in written.files.items()},
            "shard": written.shard,
            "moments": written.moments,
            "rows": asdict(self._rows.extent),
        }
        write_json(self.place / RECORD, {"content": content, "digest": _digest(content)})
        self._saved, self._time = len(written.rows), time.monotonic()

    def discard(self) -> None:
        self._rows.discard()
        self.writer.discard()

    def _go_on(self, record: dict[str, Any], write: Callable[[Written | None], Writer]) -> None:
        now, before = self.identity, record["identity"]
        differing = [name for name in {**now, **before} if now.get(name) != before.get(name)]
        if differing:
            raise DataError(f"changed since: {', '.join(differing)}")
        log.info("prepare continues: %d patches are done, they are checked", record["patches"])
        self._rows = GrowingArray.reopened(self.place / ROWS, _extent(record["rows"]))
        rows = [json.loads(line) for line in self._rows.content().splitlines()]
        files = {name: _extent(content) for name, content in record["files"].items()}
        self.writer = write(Written(files, record["shard"], record["moments"], rows))
        self.patches, self._saved = record["patches"], len(rows)


def identity_of(reader: Reader, params: Params) -> dict[str, Any]:
    """What must be the same for unfinished work to be gone on with, by the names that a message gives it.

    Raw files count by path, size and time of change: those under the data set's root, and those that `reader.files`
    names (a reader that reads others has it).
    """
    flat = {key: value for key, value in params.flat().items() if key.startswith(("windows.", "source."))}
    code = sorted(Path(__file__).parent.rglob("*.py"))
    return {
        "data set": params.dataset,
        **flat,
        "legend": _digest(reader.legend.to_json()),
        "list of patches": _digest([len(reader), ADDRESS.sub("", repr(reader))]),
        "raw files": _digest([_stamp(path) for path in [*_under(params.raw), *getattr(reader, "files", ())]]),
        "code": _digest([file.read_text(encoding="utf-8") for file in code]),
    }


def _under(folder: Path) -> Iterator[Path]:
    """All files, sorted; links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat() if path.exists() else path.lstat()
    return repr(path), found.st_size, found.st_mtime_ns


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except DataError:
        record = None
    if not isinstance(record, dict) or record.get("digest") != _digest(record.get("content")):
        raise DataError(f"{path} is damaged")
    return record["content"]


def _extent(content: dict[str, Any]) -> Extent:
    return Extent(**{**content, "row": tuple(content["row"])})


def _digest(content: Any) -> str:
    return blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _plain(number: np.generic) -> Any:
    return number.item()


def _empty(place: Path) -> None:
    for entry in place.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _hold(handle: int, place: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is preparing in {place}: wait for it, or end it, and start again") from None
    except OSError:
        pass  # a file system without locks
