"""Runs: one history whatever happens to the process, nothing lost when the store is down, one set of numbers."""

import ast
import inspect
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from locations import SOURCE
from runs import (
    EXPERIMENT,
    NOBODY,
    PARAMS,
    curve,
    cut,
    database,
    environment,
    journal_of,
    loss,
    opened,
    root,
    train,
    use_root,
)

from cluemap.errors import Interrupted, TrackingError
from cluemap.files import read_json
from cluemap.tracking import NoRun, Run, RunRef, made_by, open_run, open_store
from cluemap.tracking.journal import Journal
from cluemap.tracking.metric_names import flat
from cluemap.tracking.process_owner import end_dead_runs, this_process

__all__ = ["database", "root"]  # fixtures


def only_run():
    (run,) = open_store().runs([EXPERIMENT])
    return run


def test_a_run_is_all_that_was_said(root):
    with opened(root, tags={"note": "β 0.3"}, upstream={"prepare": "abc"}) as run:
        train(run, 0, 7)
        run.dataset("demo", "0123456789abcdef0123456789abcdef.dir", root / "data" / "demo", {"bands": ["B2", "B3"]})
        (root / "one.png").write_bytes(b"picture")
        run.artifact(root / "one.png", "figures")
    store, found = open_store(), only_run()
    assert found.status == "FINISHED"
    assert store.history(found.id, "loss/total") == curve(7)
    assert found.params == {name: str(value) for name, value in PARAMS.items()}
    assert (found.tags["note"], found.tags["upstream.prepare"]) == ("β 0.3", "abc")
    assert store.files(found.id) == ["figures/one.png"]
    assert found.artifact_uri == f"{root}/mlruns/{EXPERIMENT}/{found.id}/artifacts"
    (data,) = store.client.get_run(found.id).inputs.dataset_inputs
    assert (data.dataset.digest, json.loads(data.dataset.source)) == (
        "0123456789abcdef0123456789abcdef.dir",
        {"uri": "data/demo"},
    )
    assert not journal_of(root).exists()
    assert run.link.endswith("/runs?workflowType=machine_learning&viewStateShareKey=cluemap")
    view = store.client.get_experiment_by_name(EXPERIMENT).tags["mlflow.sharedViewState.cluemap"]
    assert "metrics.`loss/total`" in json.loads(view)["selectedColumns"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrackingError("boom"), "FAILED"),
        (Interrupted("stop"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_status_tells_how_a_run_ended(root, error, status):
    cut(root, error, 1)
    found = only_run()
    assert found.status == status
    assert ("interrupted" in found.tags) == (status == "KILLED")
    assert ("error" in found.tags) == (status == "FAILED")


@pytest.mark.parametrize("journal_lost", [False, True])
def test_a_resumed_run_has_one_history(root, journal_lost):
    ref = cut(root, Interrupted("stop"), 11).ref
    if journal_lost:  # the checkpoint is all that came to the new machine
        journal_of(root).unlink()
    with opened(root, resume=ref) as run:
        assert run.id == ref.id
        train(run, 5, 17)  # the last checkpoint was at step 5
    assert open_store().history(ref.id, "loss/total") == curve(17)
    assert only_run().status == "FINISHED"


def test_a_resumed_run_without_journal_waits_for_the_store_to_know_its_points(root, monkeypatch):
    ref = cut(root, Interrupted("stop"), 11).ref
    journal_of(root).unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with opened(root, resume=ref) as run:
        train(run, 5, 17)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert open_store().history(ref.id, "loss/total") == curve(17)


@pytest.mark.parametrize("change", ["other store", "deleted"])
def test_a_run_that_the_store_does_not_have_is_written_anew_and_whole(root, monkeypatch, change):
    first = cut(root, Interrupted("stop"), 11)
    if change == "deleted":
        open_store().client.delete_run(first.id)
    else:
        shutil.copyfile(root / "mlflow.db", root / "other.db")  # has runs, but not this one
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
        open_store().client.delete_run(first.id)
    with opened(root, resume=first.ref) as run:
        train(run, 5, 17)
    assert (only_run().id, only_run().status) == (run.id, "FINISHED")
    assert run.id != first.id
    assert only_run().params["clues.count"] == "2"
    assert open_store().history(run.id, "loss/total") == curve(17)


def test_a_finished_run_is_never_gone_on_with(root):
    first = cut(root, KeyboardInterrupt(), 5)
    left = Journal(journal_of(root))
    left.write("status", status="FINISHED")  # killed before the journal was removed
    left.close()
    assert cut(root, KeyboardInterrupt(), 5).id != first.id
    assert {run.status for run in open_store().runs([EXPERIMENT])} == {"FINISHED", "KILLED"}


@pytest.mark.parametrize("damage", ["file is not a database", "unable to open database file"])
def test_a_damaged_store_costs_no_run(root, caplog, damage):
    (root / "mlflow.db").write_bytes(b"no database " * 100)
    if "open" in damage:
        (root / "mlflow.db").unlink()
        (root / "mlflow.db").mkdir()
    begin = time.monotonic()
    with opened(root) as run:
        train(run, 0, 3)
    assert time.monotonic() - begin < 5.0
    assert damage in caplog.text
    assert len(list((root / "mlruns" / "pending").glob("*.jsonl"))) == 1


@pytest.mark.slow
def test_a_database_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    import cluemap.tracking.store.mlflow_store as module

    class Killed(module.MlflowClient):
        def search_experiments(self, *_, **__):
            super().search_experiments()
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "MlflowClient", Killed)
    with pytest.raises(KeyboardInterrupt):
        module.Store()
    assert not list(tmp_path.glob("*.db"))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    use_root(tmp_path, monkeypatch)
    with opened(tmp_path) as run:
        train(run, 0, 3)
    assert open_store().history(run.id, "loss/total") == curve(3)


def test_an_output_folder_names_its_run(root, monkeypatch):
    assert made_by(root / "out") is None
    with opened(root) as run:
        run.result(root / "out", {"miou": 0.5})
    assert made_by(root / "out") == run.id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with opened(root) as run:
        run.result(root / "out", {"miou": 0.5})
    assert made_by(root / "out") == f"key:{run.ref.key}"


def test_the_time_between_two_tries_costs_nothing(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    journal = Journal(tmp_path / "j.jsonl")
    said = [("start", {"key": "k"}), ("points", {"step": 1, "values": {}}), ("status", {"status": "KILLED"})]
    said += [("status", {"status": "RUNNING"}), ("tags", {"tags": {}}), ("sent", {"to": 0})]
    for (kind, content), later in zip(said, (3, 5, 100, 400, 7, 50), strict=True):
        now[0] += later
        journal.write(kind, **content)
    assert journal.history.worked == 1000 * (5 + 7)
    journal.close()


def test_a_run_card_says_what_the_run_cost(root):
    with opened(root, tags={"gpus": 4}) as run:
        time.sleep(0.2)
        run.write_card(root / "out")
    card = read_json(root / "out" / "run.json")
    assert (0.2 <= card["seconds"] < 60, card["gpus"]) == (True, 4)


def test_killed_before_its_first_checkpoint_a_run_goes_on_if_all_is_the_same(root):
    def stopped(params, tags):
        return cut(root, KeyboardInterrupt(), 5, params=params, tags=tags).id

    same = {"code.digest": "c0de", "input.data": "da7a"}
    first = stopped(PARAMS, same)
    assert stopped(PARAMS, same) == first
    assert open_store().history(first, "loss/total") == curve(5)
    others = [stopped({**PARAMS, "seed": 1}, same), stopped({**PARAMS, "seed": 1}, {**same, "code.digest": "other"})]
    assert len({first, *others}) == 3
    assert {run.status for run in open_store().runs([EXPERIMENT])} == {"KILLED"}


def test_what_was_sent_but_not_marked_is_sent_again_without_doubling(root):
    run = cut(root, KeyboardInterrupt(), 13)
    lines = journal_of(root).read_bytes().splitlines(keepends=True)
    unmarked = [line for line in lines if json.loads(line)["kind"] not in ("sent", "run")]
    journal_of(root).write_bytes(b"".join(unmarked) + b'{"kind":"points","step":13,"val')  # and a line cut short
    with opened(root, resume=run.ref) as run:
        train(run, 3, 17)
    assert open_store().history(only_run().id, "loss/total") == curve(17)
    assert only_run().tags["resumed"] == "1"  # said first after the cut line


@pytest.mark.parametrize("held_by_dvc", [False, True])
def test_a_dead_store_loses_nothing(root, monkeypatch, caplog, held_by_dvc):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    outputs = root / "out" / "demo" / "train_classifier"
    begin = time.monotonic()
    with opened(root) as run:
        train(run, 0, 19)
        run.result(outputs, {"miou": 0.25})
        (outputs / "map.png").write_bytes(b"this run's picture")
        run.artifact(outputs / "map.png", "figures")
    assert time.monotonic() - begin < 3.0
    assert caplog.text.count("no run store answers at http://127.0.0.1:9") == 1
    assert "python src/resend.py" in caplog.text
    assert read_json(outputs / "run.json")["run_id"] is None
    (outputs / "map.png").write_bytes(b"a later run's picture")
    if held_by_dvc:
        (root / "dvc.lock").write_text("stages: {a: {outs: [{path: out/demo/train_classifier, md5: aa.dir}]}}")

    import resend

    assert resend.main([]) == 1  # still down: kept
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resend.main([]) == 0
    found, store = only_run(), open_store()
    assert found.status == "FINISHED"
    assert store.history(found.id, "loss/total") == curve(19)
    assert found.metrics["miou"] == 0.25
    kept = Path(found.artifact_uri) / "figures" / "map.png"
    assert kept.read_bytes() == b"this run's picture"
    card = read_json(outputs / "run.json")
    assert card["run_id"] == (None if held_by_dvc else found.id)
    assert store.find(card["key"]).id == found.id
    assert not list((root / "mlruns" / "pending").iterdir())


def test_a_store_that_comes_back_gets_all(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with opened(root) as run:
        train(run, 0, 3)
        assert not run.flush()
        assert run.id is None
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        train(run, 3, 5)
        assert run.flush()
    assert open_store().history(run.id, "loss/total") == curve(5)
    assert not (root / "mlruns" / "pending").exists()


def test_the_same_numbers_are_in_metrics_json_and_in_the_store(root):
    metrics = {
        "miou": np.float32(0.1),
        "validation": {"loss/total": 1 / 3, "accuracy": np.float64(2 / 3)},
        "classes": {"Soft winter wheat": 0.1 + 0.2, "Fruits, vegetables": 5e-324},
        "confusion": np.arange(4).reshape(2, 2),
        "nothing": float("nan"),
        "chosen": "validation",
    }
    with opened(root) as run:
        run.log(3, {"validation/loss/total": 0.5, "validation/accuracy": 2 / 3})
        run.result(root / "out", metrics)
        run.result(root / "out", metrics)  # again, as after a kill between the two
    written, kept = flat(read_json(root / "out" / "metrics.json")), only_run().metrics
    assert kept.pop("nothing") != kept.get("nothing")  # NaN, null in JSON
    assert kept == written
    assert len(written) == 9
    histories = {name: open_store().history(only_run().id, name) for name in kept}
    assert histories["validation/accuracy"] == [(3, 2 / 3)]
    assert histories["validation/loss/total"] == [(3, 0.5), (4, 1 / 3)]
    assert all(len(points) == 1 for name, points in histories.items() if name != "validation/loss/total")
    assert read_json(root / "out" / "run.json")["run_id"] == only_run().id


def test_a_dead_process_s_run_is_swept_and_a_living_one_s_is_not(root):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    store, mine = open_store(), this_process()
    import psutil

    theirs = {**mine, "pid": child.pid, "start": psutil.Process(child.pid).create_time()}
    owners = {"child": theirs, "reused": {**mine, "start": mine["start"] - 100}, "me": mine}
    owners["elsewhere"] = {**theirs, "space": "pid:[7]"}
    runs = {
        name: store.create(EXPERIMENT, name, name, 1, {"host": mine["host"], "process": json.dumps(owner)})
        for name, owner in owners.items()
    }
    assert end_dead_runs(store) == [runs["reused"]]
    child.kill()
    child.wait()
    with opened(root):
        pass
    statuses = {run.name: run.status for run in open_store().runs([EXPERIMENT])}
    assert statuses == {
        "child": "KILLED",
        "reused": "KILLED",
        "me": "RUNNING",
        "elsewhere": "RUNNING",
        "train_classifier": "FINISHED",
    }


def test_a_refused_value_does_not_hold_up_the_others(root, caplog):
    with opened(root) as run:
        run.tags({"good": 1, "x" * 260: "too long a name", "better": 2})
    assert {"good", "better"} <= set(only_run().tags)
    assert "does not take" not in caplog.text  # names are cut to what the store takes
    with opened(root) as run:
        run._journal.write("points", step=1, values={"fine": 1.0, "w?ong": 2.0, "also fine": 3.0})
    assert next(open_store().runs([EXPERIMENT])).metrics == {"fine": 1.0, "also fine": 3.0}
    assert "w?ong" in caplog.text


def test_a_full_disk_costs_records_not_the_run(root, caplog):
    with opened(root) as run:
        train(run, 0, 2)
        journal, real = run._journal, run._journal._file

        class Full:
            def __getattr__(self, name):
                return getattr(real, name)

            def write(self, line):
                return real.write(line[: len(line) // 2])

        journal._file = Full()
        train(run, 2, 9)
        journal._file = real
        train(run, 9, 11)
    assert open_store().history(only_run().id, "loss/total") == [(step, loss(step)) for step in (0, 1, 9, 10)]
    assert caplog.text.count("is the disk full?") == 1


def test_two_processes_cannot_write_one_journal(tmp_path):
    holder = Journal(tmp_path / "j.jsonl")
    code = f"from cluemap.tracking.journal import Journal; Journal({str(tmp_path / 'j.jsonl')!r})"
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert "the same stage runs twice" in done.stderr
    holder.close()


def test_no_run_does_what_run_does_and_nothing(tmp_path):
    def shape(kind):
        members = inspect.getmembers(kind, lambda member: inspect.isfunction(member) or isinstance(member, property))
        public = {name: member for name, member in members if not name.startswith("_")}
        return {name: str(inspect.signature(m)) for name, m in public.items() if inspect.isfunction(m)}

    assert shape(NoRun) == shape(Run)
    properties = {name for name, _ in inspect.getmembers(Run, lambda member: isinstance(member, property))}
    assert properties <= set(vars(NoRun))
    with open_run("demo/training", "x", {}, tmp_path / "j.jsonl", rank=1) as run:
        run.log(1, {"a": math.nan})
        run.result(tmp_path / "out", {"a": 1})
    assert isinstance(run, NoRun)
    assert not list(tmp_path.iterdir())
    assert RunRef(**{"key": "k", "id": None}) == RunRef("k")


def test_mlflow_is_imported_in_tracking_alone_and_only_when_a_store_is_opened(tmp_path):
    importers = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importers |= {file.name for name in names if name.split(".")[0] == "mlflow"}
    assert importers == {"mlflow_store.py", "model_registry.py", "registered_model.py", "registered_parcels.py"}
    code = "import cluemap.tracking, sys; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_trials_stage_keeps_its_journal_and_opens_no_run(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    monkeypatch.setenv("CLUEMAP_TRACKING", "off")
    with opened(tmp_path) as run:
        train(run, 0, 5)
        assert [point["step"] for point in run.points()] == list(range(5))
        run.result(tmp_path / "stage", {"miou": 0.5})
    assert not (tmp_path / "mlflow.db").exists()
    assert not list(tmp_path.glob("mlruns/pending/*"))
    assert not journal_of(tmp_path).exists()
    cut(tmp_path, KeyboardInterrupt(), steps=3)
    assert journal_of(tmp_path).exists()  # whoever started it reads on
