"""Stage scripts run as processes that need not load torch, MLflow and the rest anew: they are forked from one process
that holds these libraries, and load the project itself as any other would.

`run` is for tests; `shim` is a `python` for the PATH of a DVC that runs the stages.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

LINUX = sys.platform.startswith("linux")  # elsewhere libraries may not be forked once loaded
READ_WHEN_LOADED = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_")  # by libraries: a process that was forked does not see them
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
SERVER = '''
import atexit, json, os, runpy, select, signal, socket, sys, threading, time

def load():
    """What the stages import; not the project, which looks at its environment."""
    import gc
    gc.disable()
    import torch._dynamo
    import matplotlib.figure, pandas, pyarrow.parquet, rasterio, scipy.ndimage, sklearn.ensemble, sklearn.metrics
    import mlflow.store.db.utils, mlflow.store.tracking.sqlalchemy_store
    # A fork copies no threads. Arrow's allocator has one and starts it anew; nothing else may have any.
    others = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
    assert len([name for name in others if not name.startswith("jemalloc")]) == 1, others
    gc.freeze()  # these modules are no garbage of a stage's
    gc.enable()

def asked(listener):
    """A connection, in a process of its own; until the end of whoever started this one."""
    running = set()
    while sys.stdin not in (ready := select.select([sys.stdin, listener], [], [], 1.0)[0]):
        running -= {process for process in running if os.waitpid(process, os.WNOHANG)[0]}
        if ready:
            connection, _ = listener.accept()
            process = os.fork()
            if not process:
                return connection
            running.add(process)
            connection.close()
    os._exit(0)

def told(connection):
    """The order and the files of its standard input, output and error."""
    first, files, *_ = socket.recv_fds(connection, 8, 3)
    text, length = b"", int.from_bytes(first, "big")
    while len(text) < length:
        text += connection.recv(length - len(text))
    return json.loads(text), files

def attended(connection, process, seconds):
    """The exit code of a process, to which signals are passed on, and which ends with who asked for it."""
    end = time.monotonic() + seconds
    while not (found := os.waitpid(process, os.WNOHANG))[0]:
        if select.select([connection], [], [], 0.01)[0]:
            number = connection.recv(1)
            os.kill(process, number[0] if number else signal.SIGKILL)
            if not number:
                os._exit(0)
        elif time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(found[1])

def ended(file):
    """Run a script; its exit code, once its threads and what it left for its end are through."""
    try:
        runpy.run_path(file, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
load()
listener.listen(64)
print("ready", flush=True)
connection = asked(listener)
order, files = told(connection)
process = os.fork()
if process:
    code = attended(connection, process, order["seconds"])
    connection.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)
connection.close()
listener.close()
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
os.setpgid(0, 0)
os.chdir(order["folder"])
os.environ.clear()
os.environ.update(order["environment"])
sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")
sys.argv, sys.executable = order["words"], order["python"]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
os._exit(ended(sys.argv[0]) & 255)  # and not through the end of all modules that were loaded, which takes longer
'''
SHIM = """#!{python} -SE
import sys
sys.path.insert(0, {tests!r})
import stage_forks
sys.exit(stage_forks.stand_in({address!r}, {read!r}))
"""


class Server:
    """The process that holds the libraries; it ends with this one."""

    def __init__(self, read: Mapping[str, str]):
        self.folder = Path(mkdtemp(prefix="forks"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.address = str(self.folder / "socket")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(READ_WHEN_LOADED)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, self.address],
            env={**kept, **read, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"
        shim = self.folder / "bin" / "python"
        shim.parent.mkdir()
        told = {"python": sys.executable, "tests": str(Path(__file__).parent), "address": self.address, "read": read}
        shim.write_text(SHIM.format(**told))
        shim.chmod(0o755)


def asked(address: str, words: Sequence[str], environment: Mapping[str, str], files: Sequence[int], python: str) -> int:
    """Run a script in this folder; its exit code, negative for a signal. What it starts with `python` is forked too."""
    told = {"words": list(words), "folder": os.getcwd(), "environment": dict(environment)}
    text = json.dumps({**told, "python": python, "seconds": 900}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(text).to_bytes(8, "big")], files)
        server.sendall(text)
        if files == [0, 1, 2]:  # the shim: what it is sent is meant for the script
            for number in PASSED_ON:
                signal.signal(number, lambda sent, _: server.sendall(bytes([sent])))
        return int.from_bytes(server.recv(4), "big", signed=True)


def stand_in(address: str, read: Mapping[str, str]) -> int:
    """What `python` of the shim does: scripts are forked, all else is Python's own business."""
    words = sys.argv[2:] if sys.argv[1:2] == ["-u"] else sys.argv[1:]
    if not words or not words[0].endswith(".py") or _read(os.environ) != read:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    code = asked(address, words, os.environ, [0, 1, 2], sys.argv[0])
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _read(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in sorted(environment) if name.startswith(READ_WHEN_LOADED)}


@cache
def _server(read: tuple[tuple[str, str], ...], process: int) -> Server:
    return Server(dict(read))


def server(environment: Mapping[str, str]) -> Server:
    """The one of this process for such an environment."""
    return _server(tuple(_read(environment).items()), os.getpid())


def shim(environment: Mapping[str, str]) -> Path:
    """The folder of a `python` that has scripts forked."""
    return server(environment).folder / "bin" if LINUX else Path(sys.executable).parent


def run(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run a script of Python to its end, as `subprocess.run([sys.executable, *words])` with captured text does."""
    if not LINUX:
        line = [sys.executable, *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900)
    written = {"mode": "w+", "encoding": "utf-8"}
    with open(os.devnull) as nothing, TemporaryFile(**written) as output, TemporaryFile(**written) as errors:
        files = [file.fileno() for file in (nothing, output, errors)]
        code = asked(server(environment).address, words, environment, files, str(shim(environment) / "python"))
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(words, code, output.read(), errors.read())
