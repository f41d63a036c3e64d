"""Which process a run belongs to, so that a run whose process is gone can be told from one that still works."""

import getpass
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """Host, process space (containers count their own processes), process id and when it started (s since 1970)."""
    return {"host": socket.gethostname(), "space": _space(), "pid": os.getpid(), "start": _start(os.getpid())}


def is_dead(owner: dict[str, Any]) -> bool:
    """True when the process has certainly ended: it was of this host and process space, and is not there any more.

    A process id may have been given to another process since, which then started at another time.
    """
    if (owner.get("host"), owner.get("space")) != (socket.gethostname(), _space()):
        return False
    start = _start(owner.get("pid", -1))
    return start is None or abs(start - owner.get("start", 0.0)) > 2.0


def process_tags() -> dict[str, str]:
    """What `end_dead_runs` reads: the host, to find its runs, and the process."""
    owner = this_process()
    return {"host": owner["host"], "process": json.dumps(owner)}


def end_dead_runs(store: Any) -> list[str]:
    """End, as KILLED, the runs of this machine that say RUNNING though their process is gone; give their ids."""
    host = socket.gethostname()
    swept = []
    for run in store.runs(where=f"attributes.status = 'RUNNING' and tags.host = '{host}'"):
        owner = _owner(run.tags.get("process", ""))
        if owner and is_dead(owner):
            store.batch(run.id, tags={"interrupted": "true", "swept": "its process was gone"})
            store.status(run.id, "KILLED", None)
            swept.append(run.id)
    return swept


def user_tags() -> dict[str, str]:
    """What MLflow's table shows in its columns User and Source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}


def _start(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.Error, ValueError):
        return None


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _owner(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
