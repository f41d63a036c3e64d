"""Servers that tests start for themselves, on free ports of the loopback: MLflow's, PostgreSQL, a store of buckets."""

import getpass
import importlib.util
import logging
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
def mlflow_server(folder: Path, *options: str, **more: str) -> Iterator[str]:
    """A server of MLflow, started in `folder` as a user would, with `more` in its environment; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", *options, "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "w") as log:
        options_of = {"cwd": folder, "env": environment(folder, **quiet, **more), "stdout": log, "stderr": log}
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


KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def bucket(name: str) -> Iterator[str]:
    """A store that speaks S3, with one empty bucket; its address. Clients need KEYS in their environment."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed here")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed here")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it tells of every request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    try:
        signed = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=address, **signed).create_bucket(Bucket=name)
        yield address
    finally:
        server.stop()


class Postgresql:
    """A PostgreSQL of its own in `folder`; can be stopped at once, as by a crash, and started again."""

    def __init__(self, folder: Path, programs: Path, driver: str):
        self.port = free_port()
        self.address = f"postgresql+{driver}://cluemap:secret@127.0.0.1:{self.port}/postgres"
        self._folder, self._programs, self._before = folder, programs, []
        if getpass.getuser() == "root":  # it refuses to run as root
            self._before = ["runuser", "-u", "postgres", "--"]
            shutil.chown(folder, "postgres")
        self._call("initdb", "-U", "cluemap", "-A", "trust")
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._call("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "-w", "-m", "immediate", "stop")

    def _call(self, program: str, *options: str) -> None:
        command = [*self._before, str(self._programs / program), "-D", str(self._folder / "base"), *options]
        subprocess.run(command, check=True, cwd=self._folder, stdout=subprocess.DEVNULL)


@contextmanager
def postgresql_server() -> Iterator[Postgresql]:
    """A running PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)
    if driver is None:
        pytest.skip("no PostgreSQL driver here: pip install 'psycopg[binary]'")
    if not found or (getpass.getuser() == "root" and not shutil.which("runuser")):
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgresql"))  # not pytest's, which its other user cannot enter
    server = Postgresql(folder, found[-1], driver)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a running PostgreSQL."""
    with postgresql_server() as server:
        yield server.address
