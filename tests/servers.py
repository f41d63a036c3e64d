"""Servers that tests start for themselves, on free ports of the loopback: MLflow's and PostgreSQL."""

import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runs import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def mlflow_server(folder: Path, *options: str) -> Iterator[str]:
    """A server of MLflow, started in `folder` as a user would; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", *options, "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "w") as log:
        options_of = {"cwd": folder, "env": environment(folder, **quiet), "stdout": log, "stderr": log}
        server = subprocess.Popen(command, start_new_session=True, **options_of)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 300
        while not healthy(address):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail((folder / "server.log").read_text())
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # as a crash would: it waits for open connections otherwise
        server.wait(30)


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own; its address."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)
    if driver is None:
        pytest.skip("no PostgreSQL driver here: pip install 'psycopg[binary]'")
    if not found or (getpass.getuser() == "root" and not shutil.which("runuser")):
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgresql"))  # not pytest's, which its other user cannot enter
    if getpass.getuser() == "root":  # it refuses to run as root
        before = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    else:
        before = []
    base, port = folder / "base", free_port()
    quiet = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([*before, f"{found[-1]}/initdb", "-D", str(base), "-U", "cluemap", "-A", "trust"], **quiet)
    control = [*before, f"{found[-1]}/pg_ctl", "-D", str(base), "-w", "-l", str(folder / "log")]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run([*control, "-o", options, "start"], **quiet)
    try:
        yield f"postgresql+{driver}://cluemap:secret@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder)
