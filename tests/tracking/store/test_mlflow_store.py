"""Tracking against real stores and real kills: SQLite by many processes, a server, PostgreSQL, bare `mlflow ui`."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from locations import SOURCE, TESTS
from runs import EXPERIMENT, PARAMS, curve, database, environment, journal_of, opened, root, train, use_root
from servers import mlflow_server, postgresql

import resend
from cluemap.tracking import open_store
from cluemap.tracking.journal import Journal

__all__ = ["database", "root"]  # fixtures
pytestmark = pytest.mark.slow
REPETITIONS = int(os.environ.get("CLUEMAP_REPETITIONS", "1"))
WRITERS = TESTS / "writers.py"


def ask(address: str, call: str, **content) -> dict:
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{call}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_eight_writers_on_a_fresh_store(tmp_path, monkeypatch):
    roots = [tmp_path / f"repetition{index}" for index in range(REPETITIONS)]
    for place in roots:
        place.mkdir()
    command = [sys.executable, str(WRITERS), "writers", "8", "101", *map(str, roots)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for place in roots:
        use_root(place, monkeypatch)
        assert resend.main([]) == 0  # on a busy machine one may give up waiting for the others' first use
        store = open_store()
        runs = {run.name: run for run in store.runs([EXPERIMENT])}
        assert set(runs) == {f"writer {writer}" for writer in range(8)}
        assert len(list(store.runs([EXPERIMENT]))) == 8
        for name, run in runs.items():
            assert run.status == "FINISHED"
            assert store.history(run.id, "loss/total") == curve(101)
            assert store.files(run.id) == [f"{name.split()[1]}.txt"]
        assert not list(place.glob("mlruns/pending/*"))


def test_a_training_killed_at_any_moment_leaves_one_whole_run(root):
    key, dice = "", random.Random(5)
    for _ in range(5):
        checkpoint = max(0, steps_in(journal_of(root)) - dice.randrange(30))
        command = [sys.executable, str(WRITERS), "training", str(root), str(checkpoint), "100000", key]
        child = subprocess.Popen(command, env=environment(root), stdout=subprocess.PIPE, text=True)
        key, run_id = child.stdout.readline().split()
        time.sleep(dice.uniform(0.05, 0.5))
        child.kill()
        child.wait()
        assert open_store().run(run_id).status == "RUNNING"
    last = steps_in(journal_of(root)) + 40
    command = [sys.executable, str(WRITERS), "training", str(root), str(max(0, last - 60)), str(last), key]
    subprocess.run(command, env=environment(root), check=True, stdout=subprocess.DEVNULL)
    (run,) = open_store().runs([EXPERIMENT])
    assert (run.id, run.status, run.tags["resumed"]) == (run_id, "FINISHED", "5")
    assert open_store().history(run.id, "loss/total") == curve(last)


def steps_in(journal: Path) -> int:
    """Steps that a journal holds (opened as the next process would)."""
    if not journal.exists():
        return 0
    opened_journal = Journal(journal)
    try:
        return opened_journal.history.step + 1 if opened_journal.history.last else 0
    finally:
        opened_journal.close()


def test_a_killed_run_that_is_not_resumed_is_swept_at_the_next_start(root):
    command = [sys.executable, str(WRITERS), "training", str(root), "0", "100000", ""]
    child = subprocess.Popen(command, env=environment(root), stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    child.kill()
    child.wait()
    with opened(root, journal=root / "another.jsonl", name="evaluate"):
        pass
    assert {run.name: run.status for run in open_store().runs([EXPERIMENT])} == {
        "train_classifier": "KILLED",
        "evaluate": "FINISHED",
    }


def test_bare_mlflow_ui_shows_the_runs(root):
    with opened(root) as run:
        train(run, 0, 5)
    with mlflow_server(root, "ui") as address:
        experiment = next(
            found
            for found in ask(address, "experiments/search", max_results=10)["experiments"]
            if found["name"] == EXPERIMENT
        )
        (row,) = ask(address, "runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
        assert row["info"]["run_id"] == run.id
        assert len(row["data"]["params"]) == len(PARAMS)
        assert f"/#/experiments/{experiment['experiment_id']}/runs" in run.link


def test_a_tracking_server_that_dies_and_comes_back(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    served = ["server", "--backend-store-uri", f"sqlite:///{tmp_path}/served.db"]
    served += ["--artifacts-destination", str(tmp_path / "kept")]
    with mlflow_server(tmp_path, *served) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with opened(tmp_path) as run:
            train(run, 0, 1500)
            (tmp_path / "a.txt").write_text("a")
            run.artifact(tmp_path / "a.txt", "texts")
        assert open_store().history(run.id, "loss/total") == curve(1500)
        assert open_store().files(run.id) == ["texts/a.txt"]
        second = opened(tmp_path)
        run = second.__enter__()
        train(run, 0, 10)
        assert run.flush()
    train(run, 10, 20)
    second.__exit__(None, None, None)
    assert len(list((tmp_path / "mlruns" / "pending").glob("*.jsonl"))) == 1
    with mlflow_server(tmp_path, *served) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert resend.main([]) == 0
        found = {run.id: run for run in open_store().runs([EXPERIMENT])}
        assert len(found) == 2  # the server has another port now: its run is known by the journal's key
        assert found[run.id].status == "FINISHED"
        assert open_store().history(run.id, "loss/total") == curve(20)


STAGE = """
import sys
sys.path.insert(0, "src")
from pathlib import Path
from cluemap.tracking.provenance import provenance
from cluemap.tracking import open_run
tags = provenance("demo", "stage")
with open_run("demo/training", "stage", {}, Path("out/demo/.state/stage/journal.jsonl"), tags=tags) as run:
    for step in range(9):
        run.log(step, {"loss/total": 1 / (step + 3)})
    run.result("out/demo/stage", {"miou": 0.5})
    run.artifact("out/demo/stage/metrics.json")
"""


def test_a_dvc_experiment_in_a_temporary_copy_is_a_run_of_the_project(root):
    pytest.importorskip("dvc", reason="DVC is not installed here")
    shutil.copytree(SOURCE / "cluemap", root / "src" / "cluemap", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "stage.py").write_text(STAGE)
    (root / "params.yaml").write_text("a: 1\n")
    stage = f"{{cmd: {sys.executable} stage.py, params: [a], outs: [out/demo/stage]}}"
    (root / "dvc.yaml").write_text(f"stages:\n  stage: {stage}\n")
    (root / ".gitignore").write_text("/mlflow.db*\n/mlruns\n/out\n__pycache__\n")

    def run(*command: str) -> None:
        here = {name: value for name, value in environment(root).items() if name not in ("CLUEMAP_ROOT", "PYTHONPATH")}
        named = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        quiet = {"DVC_NO_ANALYTICS": "1", "CI": "1"}
        done = subprocess.run(command, cwd=root, env={**here, **named, **quiet}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    dvc = (sys.executable, "-m", "dvc")
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-q", "-m", "one")
    run(*dvc, "exp", "run", "--temp", "-S", "a=20", "-n", "twice")  # other size: git may miss what changes at once
    store = open_store()
    (found,) = store.runs([EXPERIMENT])
    assert (found.status, found.tags["dvc.experiment"]) == ("FINISHED", "twice")
    assert (found.tags["git.dirty"], found.tags["git.changed"]) == ("true", "params.yaml")  # -S, in the copy only
    assert store.history(found.id, "loss/total") == curve(9)
    assert store.files(found.id) == ["metrics.json"]
    assert found.artifact_uri.startswith(f"{root}/mlruns/")


def test_postgresql_with_eight_writers_and_an_artifact_folder(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    with postgresql() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        command = [sys.executable, str(WRITERS), "writers", "8", "101", str(tmp_path)]
        child = environment(tmp_path, MLFLOW_TRACKING_URI=address)
        done = subprocess.run(command, env=child, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert resend.main([]) == 0
        store = open_store()
        runs = list(store.runs([EXPERIMENT]))
        assert [run.status for run in runs] == ["FINISHED"] * 8
        assert all(store.history(run.id, "loss/total") == curve(101) for run in runs)
        assert runs[0].artifact_uri.startswith(f"{tmp_path}/mlruns/{EXPERIMENT}/")
        with opened(tmp_path) as run:
            run.result(tmp_path / "out", {"miou": 0.5, "hole": float("nan")})
        assert "secret" not in (tmp_path / "out" / "run.json").read_text()
