"""Stage scripts run as processes that need not load torch, MLflow and the rest anew: they are forked from one process
that holds these libraries, and load the project itself as any other would.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

READ_WHEN_LOADED = ("OMP_", "GOMP_", "MKL_", "OPENBLAS_")  # by libraries: a process that was forked does not see them
SERVER = '''
import json, os, runpy, signal, sys

def load():
    """What the stages import; not the project, which looks at its environment."""
    import torch._dynamo
    import matplotlib.figure, pandas, pyarrow.parquet, rasterio, scipy.ndimage, sklearn.ensemble, sklearn.metrics
    import mlflow.store.db.utils, mlflow.store.tracking.sqlalchemy_store
    # A fork copies no threads. Arrow's allocator has one and starts it anew; nothing else may have any.
    others = [open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")]
    assert len([name for name in others if not name.startswith("jemalloc")]) == 1, others

def asked():
    """The next process's order, in that process."""
    for line in sys.stdin:
        process = os.fork()
        if not process:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    os._exit(0)

load()
order = asked()
signal.alarm(order["seconds"])
for number, name in enumerate((os.devnull, *order["outputs"])):
    file = os.open(name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY)
    os.dup2(file, number)
    os.close(file)
os.environ.clear()
os.environ.update(order["environment"])
sys.argv = order["words"]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
'''


class Server:
    """The process that holds the libraries; it ends with this one."""

    def __init__(self, environment: Mapping[str, str]):
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
        """Run a script to its end: `words` are its file and its arguments."""
        with self._lock, TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("stdout", "stderr")]
            for file in files:
                file.touch()
            outputs = [str(file) for file in files]
            order = {"words": words, "environment": dict(environment), "outputs": outputs, "seconds": 600}
            print(json.dumps(order), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(words, code, *(file.read_text(encoding="utf-8") for file in files))


@cache
def _server(read: tuple[tuple[str, str], ...], process: int) -> Server:
    return Server({**os.environ, **dict(read)})


def run(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run a script of Python to its end, as `subprocess.run([sys.executable, *words])` with captured text does."""
    if not sys.platform.startswith("linux"):  # elsewhere libraries may not be forked once loaded
        line = [sys.executable, *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    read = tuple(sorted((name, value) for name, value in environment.items() if name.startswith(READ_WHEN_LOADED)))
    return _server(read, os.getpid()).run(words, environment)
