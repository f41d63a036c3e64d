"""Where runs are kept: the store's address, the artifacts' folder, and the lock around first use. No mlflow here."""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from cluemap import paths
from cluemap.errors import TrackingError

TEMPORARY = (".dvc", "tmp", "exps")  # in a project: where DVC keeps its copies
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def main_root(root: Path | None = None) -> Path:
    """The project that keeps the runs: `root`, or where that is a temporary copy made by DVC, the project it copies.

    `dvc exp run --temp` and `--queue` run in a copy in `<project>/.dvc/tmp/exps` that is deleted afterwards. DVC names
    the project in DVC_ROOT, which helps where `.dvc/tmp` is a link to another disk.
    """
    root = Path(root or paths.ROOT)
    parts = root.parts
    for index in range(len(parts) - 2):
        if parts[index : index + 3] == TEMPORARY:
            return Path(*parts[:index])
    parent = os.environ.get("DVC_ROOT")
    if parent and root.resolve().is_relative_to(Path(parent, *TEMPORARY).resolve()):
        return Path(parent)
    return root


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file at the root; a relative SQLite path is taken from the root, not cwd."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, None for any other store."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return main_root() / found[1] if found and found[1] != ":memory:" else None


def artifact_root() -> str:
    """Folder (or bucket) under which each experiment has its own; not used with a tracking server, which has its own.

    MLFLOW_DEFAULT_ARTIFACT_ROOT moves it, for instance to `s3://bucket/runs`.
    """
    given = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    return given.rstrip("/") if given else str(main_root() / "mlruns")


def pending_folder() -> Path:
    """Where the journals of finished runs wait for a store that did not answer."""
    return main_root() / "mlruns" / "pending"


def without_credentials(uri: str) -> str:
    """The address as it may be shown and written down: no user, password or query; the project's own file by name."""
    file = sqlite_file(uri)
    if file is not None:
        inside = file.is_relative_to(main_root())
        return f"sqlite:///{file.relative_to(main_root()) if inside else file}"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_reachable(uri: str, seconds: float = 3.0) -> None:
    """Try the store's port, since the clients' own retries take minutes.

    Raises:
        TrackingError: nobody answers.
    """
    parts = urlsplit(uri)
    port = PORTS.get(parts.scheme.partition("+")[0])
    if port is None or not parts.hostname:  # a file, or a socket in the file system
        return
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=seconds).close()
    except OSError as error:
        raise TrackingError(f"no run store answers at {without_credentials(uri)} ({error})") from None


@contextmanager
def first_use(seconds: float = 120.0, lock: str = "mlflow.db.lock") -> Iterator[None]:
    """One process of this machine at a time: several that create the same database or experiment break it.

    Another `lock`, a file's name at the root, keeps another thing to one process.

    Raises:
        TrackingError: another process holds the lock for too long.
    """
    path = main_root() / lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TrackingError(
                        f"{path} is held by another process for {seconds:.0f} s: end that one"
                    ) from None
                time.sleep(0.05)
            except OSError:
                break  # a file system without locks
        yield
