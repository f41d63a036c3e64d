"""Where runs are kept: the store's address, temporary copies, a moved project, and how often a store is asked."""

import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from mlflow.utils.validation import _validate_metric_name
from runs import EXPERIMENT, curve, database, opened, root, train, use_root

from cluemap.errors import TrackingError
from cluemap.tracking import open_store
from cluemap.tracking.delivery import EVERY, LONGEST, SHARE, Sender
from cluemap.tracking.journal import Journal
from cluemap.tracking.metric_names import flat, metric_name
from cluemap.tracking.run_artifacts import find_path, name_of
from cluemap.tracking.store import store_location
from cluemap.tracking.store.moved_store import LOCATIONS, repair_moved_store

__all__ = ["database", "root"]  # fixtures


@pytest.mark.parametrize(
    ("here", "main"),
    [
        ("/a/project", "/a/project"),
        ("/a/project/.dvc/tmp/exps/standalone/tmpx7", "/a/project"),
        ("/a/project/.dvc/tmp/exps/tmpx7/sub/folder", "/a/project"),
        ("/a/.dvc/project", "/a/.dvc/project"),
    ],
)
def test_runs_of_a_temporary_copy_belong_to_the_project(here, main):
    assert store_location.main_root(Path(here)) == Path(main)


def test_a_copy_on_another_disk_is_known_by_what_dvc_says(tmp_path, monkeypatch):
    project, scratch = tmp_path / "project", tmp_path / "scratch"
    (scratch / "exps" / "tmpx7").mkdir(parents=True)
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "tmp").symlink_to(scratch)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert store_location.main_root(scratch / "exps" / "tmpx7") == project
    assert store_location.main_root(tmp_path / "other") == tmp_path / "other"  # a project that a stage works in


def test_an_experiment_in_a_temporary_copy_is_recorded_in_the_project(root, monkeypatch):
    copy = root / ".dvc" / "tmp" / "exps" / "standalone" / "tmpx7"
    monkeypatch.setattr("cluemap.paths.ROOT", copy)
    with opened(copy) as run:
        train(run, 0, 3)
        run.result(copy / "out", {"miou": 0.5})
        run.artifact(copy / "out" / "metrics.json")
    shutil.rmtree(copy)
    monkeypatch.setattr("cluemap.paths.ROOT", root)
    (found,) = open_store().runs([EXPERIMENT])
    assert open_store().files(found.id) == ["metrics.json"]
    assert found.artifact_uri.startswith(f"{root}/mlruns/demo/training/")


@pytest.mark.parametrize("ending", [KeyboardInterrupt, TrackingError])
def test_an_unsent_run_of_a_temporary_copy_outlives_it(root, monkeypatch, ending):
    copy = root / ".dvc" / "tmp" / "exps" / "tmpx7"
    monkeypatch.setattr("cluemap.paths.ROOT", copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ending), opened(copy) as run:  # noqa: PT012
        (copy / "map.png").write_bytes(b"map")
        run.artifact(copy / "map.png")
        raise ending
    shutil.rmtree(copy)
    monkeypatch.setattr("cluemap.paths.ROOT", root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    import resend

    assert resend.main([]) == 0
    (found,) = open_store().runs([EXPERIMENT])
    assert open_store().files(found.id) == ["map.png"]


def test_the_address_of_the_store(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    monkeypatch.chdir("/")
    assert store_location.store_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/all.db")  # as users write it: not from cwd
    assert store_location.store_uri() == f"sqlite:///{tmp_path}/runs/all.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@base.example/runs?password=secret")
    assert store_location.store_uri().startswith("postgresql://me:secret@")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@runs.example:8443/mlflow?token=secret", "https://runs.example:8443/mlflow"),
        ("postgresql+psycopg2://me:secret@base/runs?password=secret", "postgresql+psycopg2://base/runs"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_credentials(uri, shown):
    assert store_location.without_credentials(uri) == shown


def test_the_project_s_own_store_is_named_without_its_folder(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    assert store_location.without_credentials(store_location.store_uri()) == "sqlite:///mlflow.db"


@pytest.mark.slow
def test_a_server_that_hangs_costs_seconds(root, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections and never says a word
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        begin = time.monotonic()
        with opened(root) as run:
            train(run, 0, 500)
        assert time.monotonic() - begin < 7.0  # two tries, at the start and at the end, each sent twice
    assert "src/resend.py" in caplog.text


def test_moved_project_is_noticed_mended_and_loses_nothing(root, tmp_path_factory, monkeypatch, caplog):
    with opened(root) as before:
        train(before, 0, 3)
        (root / "one.png").write_bytes(b"one")
        before.artifact(root / "one.png")
    new = tmp_path_factory.mktemp("moved") / "project"
    shutil.move(root, new)
    use_root(new, monkeypatch)
    with opened(new) as after:
        train(after, 0, 5)
        (new / "two.png").write_bytes(b"two")
        after.artifact(new / "two.png")
    assert f"made in {root} and moved here" in caplog.text
    assert not root.exists()
    import resend

    assert resend.main(["--mend-moved"]) == 0
    store = open_store()
    assert store.files(before.id) == ["one.png"]
    (late,) = (run for run in store.runs([EXPERIMENT]) if run.id != before.id)
    assert store.history(late.id, "loss/total") == curve(5)
    assert store.files(late.id) == ["two.png"]
    assert repair_moved_store() == (set(), 0)
    assert (new / "mlflow.db.before_mend").exists()


def test_a_project_reached_by_a_link_was_not_moved(root, tmp_path_factory, monkeypatch, caplog):
    with opened(root):
        pass
    link = tmp_path_factory.mktemp("link") / "project"
    link.symlink_to(root)
    use_root(link, monkeypatch)
    with opened(link):
        pass
    assert len(list(open_store().runs([EXPERIMENT]))) == 2
    assert not caplog.text


def test_every_column_with_a_place_of_artifacts_is_mended(root):
    with sqlite3.connect(root / "mlflow.db") as base:
        tables = [row[0] for row in base.execute("select name from sqlite_master where type = 'table'")]
        found = {
            (table, row[1])
            for table in tables
            for row in base.execute(f"pragma table_info({table})")
            if row[1] in ("artifact_location", "artifact_uri", "storage_location", "source")
        }
    known = {(table, column) for table, columns in LOCATIONS.items() for column in columns}
    elsewhere = {("evaluation_dataset_records", "source"), ("mcp_server_versions", "source")}  # not of artifacts
    assert found - elsewhere <= known


def test_files_are_found_after_their_folder_took_its_final_name(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    written = name_of(tmp_path / "out" / ".train.123.tmp" / "figures" / "a.png")
    assert written == "out/.train.123.tmp/figures/a.png"
    assert find_path(written) is None
    final = tmp_path / "out" / "train" / "figures" / "a.png"
    final.parent.mkdir(parents=True)
    final.touch()
    assert find_path(written) == final


@pytest.mark.parametrize(
    "name", ["//", "a//b", "..", "/a", "a/", "a/./b", "x" * 300, "...", "oats + peas", "oats & peas"]
)
def test_mlflow_takes_every_name_as_it_was_made_fit(name):
    made = metric_name(name)
    assert _validate_metric_name(made) is None
    assert len(made) <= 250


def test_class_names_that_differ_in_a_sign_are_two_metrics_in_the_store(root, caplog):
    names = ["oats + peas", "oats & peas", "//", "a//b", "..", "oats _ peas"]
    with opened(root) as run:
        run.summary({"per class": {name: float(number) for number, name in enumerate(names)}})
    assert sorted(open_store().run(run.id).metrics.values()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert not caplog.text


def test_names_are_made_fit():
    made = metric_name("per class/Fruits, vegetables & flowers (all)")
    assert re.fullmatch("per class/Fruits_ vegetables _ flowers _all__[0-9a-f]{4}", made)
    assert metric_name(made) == made
    assert metric_name("a.b-c_d:e/f G9") == "a.b-c_d:e/f G9"
    assert flat({"a": {"b": True, "c": [1, {"d": 2.5}]}, "text": "x", "none": None}) == {
        "a/b": 1.0,
        "a/c/0": 1.0,
        "a/c/1/d": 2.5,
    }


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class SlowStore:
    """Counts calls; each takes `cost` seconds of the clock, or fails while `down`."""

    name = "slow"

    def __init__(self, clock, cost):
        self.clock, self.cost, self.calls, self.points, self.down = clock, cost, 0, [], False

    def connect(self):
        self.calls += 1
        self.clock.now += self.cost
        if self.down:
            raise TrackingError("down")
        return self

    def create(self, *_):
        return "id"

    def has(self, _):
        return True

    def batch(self, _, points=(), **__):
        self.connect()
        self.points += list(points)


@pytest.mark.parametrize("cost", [0.001, 0.5])
def test_deliveries_take_a_small_share_of_the_time(tmp_path, cost):
    clock = Clock()
    store = SlowStore(clock, cost)
    journal = Journal(tmp_path / "j.jsonl")
    sender = Sender(journal, store.connect, clock)
    journal.write("start", experiment=EXPERIMENT, name="x", key="k", params={}, tags={})
    spent, begin = 0.0, clock.now
    for step in range(20000):
        journal.write("points", step=step, values={"a": 0.0, "b": 1.0})
        clock.now += 0.1
        before = clock.now
        sender.maybe()
        spent += clock.now - before
    assert spent < 0.02 * (clock.now - begin)
    assert store.calls <= (clock.now - begin) / EVERY * 2 + 100
    sender.send()
    assert [point[3] for point in store.points if point[0] == "a"] == list(range(20000))
    assert not journal.has_pending


def test_a_dead_store_is_asked_ever_less_often(tmp_path, caplog):
    clock = Clock()
    store = SlowStore(clock, 3.0)
    store.down = True
    journal = Journal(tmp_path / "j.jsonl")
    sender = Sender(journal, store.connect, clock)
    journal.write("start", experiment=EXPERIMENT, name="x", key="k", params={}, tags={})
    for _ in range(36000):
        clock.now += 0.1
        sender.maybe()
    assert store.calls <= 3600 / (3.0 / SHARE) + 2
    assert caplog.text.count("down") == 1
    store.down = False
    clock.now += LONGEST
    sender.maybe()
    assert "answers again" in caplog.text
    assert not journal.has_pending


@pytest.mark.parametrize(
    ("schema", "said"),
    [("0584bdc529eb", "`mlflow db upgrade sqlite:///mlflow.db`"), ("feedfacecafe", "a newer MLflow")],
)
def test_a_database_of_another_mlflow_is_one_line_with_what_to_do(root, schema, said):
    with sqlite3.connect(root / "mlflow.db") as base:
        base.execute("update alembic_version set version_num = ?", [schema])
    with pytest.raises(TrackingError) as error:
        open_store()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_first_use_is_one_after_another(tmp_path, monkeypatch):
    use_root(tmp_path, monkeypatch)
    inside, most = [0], [0]

    def enter():
        with store_location.first_use():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert most[0] == 1
    with (
        store_location.first_use(),
        pytest.raises(TrackingError, match=r"mlflow\.db\.lock"),
        store_location.first_use(seconds=0.1),
    ):
        pass
    assert os.path.exists(tmp_path / "mlflow.db.lock")
