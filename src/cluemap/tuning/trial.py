"""One trial's processes: the stage scripts one after another, watched without waiting, never outliving us."""

import contextlib
import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from cluemap.experiments.pipelines import Pipeline
from cluemap.paths import state_folder
from cluemap.runtime.distributed import dying_with_parent

TOKEN = "CLUEMAP_TRIAL"  # in the environment of every process of a trial, so that none is ever lost sight of
GRACE = 180.0  # seconds that a training has to save its state
TAIL = 40  # lines of the log that are kept of a failure
MEMORY = ("CUDA out of memory", "OutOfMemoryError", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory",
          "Cannot allocate memory", "MemoryError", "Unable to allocate")  # fmt: skip


class Running:
    """A trial under way; call `poll` now and then."""

    def __init__(self, pipeline: Pipeline, stages: tuple[str, ...], watched: str, token: str, share: Mapping[str, str]):
        """`watched` is the training whose points are read as it writes them; `share` its part of the machine."""
        self.pipeline, self.token, self.watched = pipeline, token, watched
        self.status: int | None = None  # of the stage that failed; None as long as none did
        self.stage = ""
        self.done = False
        self._left = deque(stage for stage in stages if not pipeline.done(stage))
        self._share = dict(share)
        self._child: subprocess.Popen[bytes] | None = None
        self._kill_at, self._started = 0.0, time.monotonic()
        self._points = Tail(state_folder(pipeline.dataset, watched, pipeline.folder) / "journal.jsonl")
        end(leftovers(token))  # of an earlier try whose parent was killed: two must never write one folder

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def poll(self) -> list[dict[str, Any]]:
        """Go on with what is due; gives the points that the watched training wrote since: {"step", "values"} each."""
        points = self._points.read() if self.stage == self.watched else []
        if self._child is not None and self._child.poll() is None:
            if self._kill_at and time.monotonic() > self._kill_at:
                end(leftovers(self.token), 0.0)
            return points
        if self._child is not None:
            points += self._points.read() if self.stage == self.watched else []
            self._ended(self._child.returncode)
        elif not self.done:
            self._next()
        return points

    def stop(self, grace: float = GRACE) -> None:
        """Have it save and end; `poll` says when it has. What is left after `grace` seconds is killed."""
        self._left.clear()
        self._kill_at = time.monotonic() + grace
        if self._child is None:
            self.done = True
        elif self._child.poll() is None:
            self._child.terminate()

    def kill(self) -> None:
        end(leftovers(self.token), 0.0)

    def tail(self) -> str:
        """The end of the log."""
        log = self.pipeline.folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return "\n".join(text.replace("\r", "\n").splitlines()[-TAIL:])

    def _next(self) -> None:
        if not self._left:
            self.done = True
            return
        self.stage = self._left.popleft()
        environment = {**os.environ, **self._share, TOKEN: self.token, "CLUEMAP_TRACKING": "off"}
        with (self.pipeline.folder / "log.txt").open("ab") as log:
            self._child = subprocess.Popen(
                self.pipeline.command(self.stage), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True, preexec_fn=dying_with_parent(),
            )  # fmt: skip

    def _ended(self, status: int) -> None:
        end(leftovers(self.token), 5.0)  # ranks whose launcher was killed
        self._child = None
        if status:
            self.status, self.done = status, True
        else:
            self._next()


class Tail:
    """What is appended to a journal, also when it is read after it was removed."""

    def __init__(self, file: Path):
        self.file = file
        self._handle: IO[bytes] | None = None
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """Its points since the last call."""
        if self._handle is None and self.file.exists():
            self._handle = self.file.open("rb")
        lines = (self._rest + (self._handle.read() if self._handle else b"")).split(b"\n")
        self._rest = lines.pop()
        return [record for line in lines if (record := _record(line)).get("kind") == "points"]


def _record(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def out_of_memory(text: str) -> bool:
    """Whether a log's end tells of too little memory, of a GPU or of the machine."""
    return any(word in text for word in MEMORY)


def leftovers(token: str) -> list[psutil.Process]:
    """Every process of a trial that still runs, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue  # gone, or another user's
    return found


def end(processes: list[psutil.Process], grace: float = 30.0) -> None:
    """SIGTERM, then SIGKILL for what is still there `grace` seconds later."""
    for process in processes if grace else []:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=grace) if grace else ([], processes)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=10.0)


def _signal(send: Any) -> None:
    with contextlib.suppress(psutil.Error):
        send()
