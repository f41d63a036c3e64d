"""A run's journal: JSON lines on disk that hold everything a run said, and the source of truth for what a store gets.

Each record is written and flushed before anything else happens to it. The sender marks in the same file which run of
the store it belongs to and how far it was delivered, so a killed process, or another one, continues where it stopped.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluemap.errors import TrackingError
from cluemap.files import atomic

MARKS = ("run", "sent", "seen")  # written by the sender about the journal itself, not for the store


@dataclass
class History:
    """What the records so far add up to."""

    start: dict[str, Any] | None = None  # experiment, name, key, params, tags, time
    run_id: str | None = None
    store: str | None = None  # the store that has `run_id`, without credentials
    sent: int = 0  # bytes of the journal that the store has
    said: int = 0  # end of the last record meant for the store
    step: int = 0
    status: str | None = None
    reopened: int = 0
    worked: int = 0  # ms between the records of each try, the time between two tries left out
    until: int = 0  # ms since 1970: the last record that counts
    last: dict[str, tuple[int, float]] = field(default_factory=dict)  # metric -> its last step and value
    seen: dict[str, int] = field(default_factory=dict)  # metric -> last step that the store had before this journal

    @property
    def key(self) -> str:
        return self.start["key"] if self.start else ""

    @property
    def ended(self) -> bool:
        return self.status not in (None, "RUNNING")

    def add(self, record: dict[str, Any], end: int) -> None:
        """Add one record whose line ends at byte `end`."""
        kind = record["kind"]
        if kind not in MARKS:
            self.said = end
            self.worked += 0 if kind in ("start", "status") else max(0, record["time"] - self.until)
            self.until = record["time"]
        if kind == "start":
            self.start = record
        elif kind == "points":
            self.step = max(self.step, record["step"])
            self.last.update({name: (record["step"], value) for name, value in record["values"].items()})
        elif kind == "status":
            self.status = record["status"]
            self.reopened += self.status == "RUNNING"
        elif kind == "run":
            self.run_id, self.store = record["id"], record["store"]
        elif kind == "sent":
            self.sent = record["to"]
        elif kind == "seen":
            self.seen = {name: step for name, (step, _) in record["last"].items()}
            self.last = {**{name: (step, value) for name, (step, value) in record["last"].items()}, **self.last}


class Journal:
    """An open journal, locked against other processes. It reads through its own handle, so it outlives its path."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path.with_name(f".{self.path.name}.lock"), self.path)
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self.history = History()
        self._end = 0
        for record, end in self.records(0):
            self.history.add(record, end)
            self._end = end
        os.ftruncate(self._file.fileno(), self._end)  # a line cut short by a kill was never said

    @property
    def has_pending(self) -> bool:
        return self.history.said > self.history.sent

    def write(self, kind: str, **content: Any) -> None:
        """Append one record. A full disk loses the record, never the journal: the cut line is taken back."""
        record = {"kind": kind, "time": int(time.time() * 1000), **content}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            written = self._file.write(line)
        except OSError:
            written = 0
        if written != len(line):
            os.ftruncate(self._file.fileno(), self._end)
            raise TrackingError(f"{self.path} cannot be written: is the disk full? A record of the run is lost")
        self._end += len(line)
        self.history.add(record, self._end)

    def records(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Give each whole record behind byte `start`, with the byte where it ends."""
        rest = b""
        while block := os.pread(self._file.fileno(), 1 << 20, start + len(rest)):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for line in lines:
                start += len(line) + 1
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # damaged by something else than us: the records behind it are still good
                yield record, start

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def copy(self, path: Path) -> None:
        """Write the whole journal as the file `path`."""
        with atomic(path) as temporary, open(temporary, "wb") as copy:
            offset = 0
            while block := os.pread(self._file.fileno(), 1 << 20, offset):
                copy.write(block)
                offset += len(block)

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self.path.with_name(f".{self.path.name}.lock").unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
        self._lock.close()


def _lock(lock: Path, journal: Path) -> Any:
    """Hold `lock` until it is closed. POSIX locks are not handed on to forked workers, so they end with the process."""
    handle = open(lock, "a")  # noqa: SIM115 (held open as long as the lock)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        handle.close()
        raise TrackingError(
            f"another process is writing {journal}: the same stage runs twice; wait for it, or end it, and start again"
        ) from None
    except OSError:
        pass  # a file system without locks
    return handle
