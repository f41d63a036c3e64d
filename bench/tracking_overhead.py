"""What tracking costs a training at the demo's size: share of the loop's time spent in tracking calls, in one process.

Trains the classifier for some steps with runs kept in SQLite, then on an MLflow server on this machine, and prints a
Markdown table. Counted: every call of the run (journal, delivery, waiting for the store) and the making of the clue and
system statistics that only the curves need. Opening and closing a run cost seconds once and are told apart.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = ("classifier", "losses", "clues", "temporal_weighting", "affinity")
LIMIT = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="tracking_overhead") as folder:
        os.environ |= {"CLUEMAP_ROOT": folder, "CLUEMAP_DEVICE": "cpu", "MLFLOW_DISABLE_TELEMETRY": "true"}
        sys.path.insert(0, str(ROOT / "src"))
        params = prepared(Path(folder), steps)
        found = {"SQLite": measure(params, Path(folder) / "sqlite")}
        with server(Path(folder)) as address:
            os.environ["MLFLOW_TRACKING_URI"] = address
            found["HTTP server"] = measure(params, Path(folder) / "http")
    print("| store | steps | loop, s | tracking in it, s | share | opening and closing, s |")
    print("|---|---:|---:|---:|---:|---:|")
    for store, row in found.items():
        print(
            f"| {store} | {steps} | {row['loop']:.1f} | {row['inside']:.3f} | {row['share']:.2%} | {row['ends']:.1f} |"
        )
    print(json.dumps(found))
    sys.exit(max(row["share"] for row in found.values()) >= LIMIT)


def prepared(folder: Path, steps: int) -> Any:
    """One patch a fold of the demo, prepared; its params, for a training of so many steps."""
    import torch

    from cluemap.data.preparation import prepare
    from cluemap.data.readers import open_reader
    from cluemap.data.synthetic import Plan, make_demo
    from cluemap.experiments.pipelines import write_changed
    from cluemap.params import load_params

    torch.set_num_threads(1)
    make_demo(folder / "data" / "demo", Plan(patches=1))
    changes = {"classifier.steps": steps, "classifier.validate_every": steps, "clues.start_step": steps // 10}
    write_changed(ROOT / "params.yaml", "demo", changes, folder / "params.yaml")
    params = load_params("demo", folder / "params.yaml")
    prepare(open_reader(params), params, folder / "prepare" / "windows", progress=False)
    return params


def measure(params: Any, out: Path) -> dict[str, float]:
    """Train once; seconds of the loop, of tracking inside it, and of the rest of the run."""
    from cluemap.runtime import distributed
    from cluemap.stages.stage import Stage
    from cluemap.tracking import run_lifecycle
    from cluemap.tracking.run import Run
    from cluemap.training import trainer
    from cluemap.training.classifier_task import ClassifierTask, new_classifier
    from cluemap.training.task import Data
    from cluemap.training.trainer import Trainer

    stage = Stage("train_classifier", params, distributed.join(), out, out.parent / "prepare")
    windows = stage.windows()
    task = ClassifierTask(*new_classifier(windows, params), windows, params, stage.ranks)
    inside: list[float] = []
    whole: list[float] = []
    ends: list[float] = []
    with (
        timed(Run, "log", inside),
        timed(ClassifierTask, "points", inside),
        timed(trainer, "system", inside),
        timed(Trainer, "_steps", whole),
        timed(run_lifecycle, "_begin", ends),
        timed(Run, "close", ends),
        stage.training(task, Data(windows, windows.indexes("train")), params.classifier, BLOCKS, ()),
    ):
        pass
    return {"loop": sum(whole), "inside": sum(inside), "share": sum(inside) / sum(whole), "ends": sum(ends)}


@contextmanager
def timed(owner: Any, name: str, taken: list[float]) -> Iterator[None]:
    """Note how long each call of a function takes."""
    real = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return real(*given, **named)
        finally:
            taken.append(time.perf_counter() - start)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, real)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """An MLflow server on this machine; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", address.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/served.db", "--artifacts-destination", str(folder / "kept")]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, cwd=folder, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not answers(address):
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
