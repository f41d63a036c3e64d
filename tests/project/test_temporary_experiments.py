"""`dvc exp run --temp` and `--queue` with the real stages: all but the run store belongs to the copy they run in."""

import hashlib
import json
import sqlite3
import time

import pytest
from dvc_projects import commit, dvc, git, make_project
from ruamel.yaml import YAML

MASKS = "out/tiny/make_masks"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose pipeline ends with the pseudo masks; they are made and committed.

    Ends, since `dvc exp apply` fails on stages of dvc.yaml that never ran: their outputs are nowhere.
    """
    root = make_project(tmp_path_factory.mktemp("temporary") / "project")
    text = (root / "dvc.yaml").read_text(encoding="utf-8").partition("\n  refine_masks:")[0]
    (root / "dvc.yaml").write_text(text + "\n", encoding="utf-8")
    dvc(root, "repro", "make_masks@tiny")
    commit(root, "masks")
    return root


def workspace(root) -> dict[str, str]:
    """Every file that an experiment elsewhere must leave as it is."""
    files = [*root.glob("out/**/*"), *root.glob("data/**/*"), *root.glob("*.*")]
    kept = (file for file in files if file.is_file() and ".db" not in file.name)
    return {str(file.relative_to(root)): hashlib.md5(file.read_bytes()).hexdigest() for file in kept}


def run_of(root, experiment: str) -> dict[str, str]:
    """The one run that the store has of an experiment: its status and params."""
    with sqlite3.connect(root / "mlflow.db") as store:
        found = store.execute(
            "select r.run_uuid, r.status from runs r join tags t on r.run_uuid = t.run_uuid "
            "where t.key = 'dvc.experiment' and t.value = ?",
            [experiment],
        ).fetchall()
        assert len(found) == 1, (experiment, found)
        run, status = found[0]
        params = dict(store.execute("select key, value from params where run_uuid = ?", [run]))
    return {**params, "status": status, "id": run}


def band_in(text: str) -> float:
    return YAML(typ="safe").load(text)["tiny"]["masks"]["ignore_band"]


@pytest.mark.slow
def test_a_temporary_experiment_works_in_its_copy_and_is_recorded_in_the_project(project):
    before = workspace(project)
    dvc(project, "exp", "run", "--temp", "-S", "++tiny.masks.ignore_band=0.25", "-n", "quarter", "make_masks@tiny")
    assert workspace(project) == before
    run = run_of(project, "quarter")
    assert (run["status"], run["masks.ignore_band"]) == ("FINISHED", "0.25")
    dvc(project, "exp", "apply", "quarter")
    assert json.loads((project / MASKS / "run.json").read_text())["run_id"] == run["id"]
    assert band_in((project / "params.yaml").read_text()) == 0.25
    assert workspace(project) != before
    git(project, "reset", "-q", "--hard")
    dvc(project, "checkout", "-q", "--with-deps", "make_masks@tiny")
    assert workspace(project) == before
    dvc(project, "exp", "branch", "quarter", "with-quarter")
    assert band_in(git(project, "show", "with-quarter:params.yaml")) == 0.25


@pytest.mark.slow
def test_two_workers_run_a_queue_without_touching_the_workspace(project):
    before = workspace(project)
    bands = {"narrow": 0.05, "wide": 0.2}
    for name, band in bands.items():
        dvc(project, "exp", "run", "--queue", "-S", f"++tiny.masks.ignore_band={band}", "-n", name, "make_masks@tiny")
    dvc(project, "queue", "start", "-j", "2")
    end = time.monotonic() + 300
    while dvc(project, "queue", "status").count("Success") < 2:
        assert "Failed" not in dvc(project, "queue", "status"), dvc(project, "queue", "logs", "narrow")
        assert time.monotonic() < end, dvc(project, "queue", "status")
        time.sleep(2)
    assert workspace(project) == before
    table = dvc(project, "exp", "show", "--csv")
    for name, band in bands.items():
        run = run_of(project, name)
        assert (run["status"], run["masks.ignore_band"]) == ("FINISHED", str(band))
        assert name in table
