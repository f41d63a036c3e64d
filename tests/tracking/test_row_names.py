"""Rows of results: a name says the experiment, what differs from the committed params, and the seed."""

import shutil
import subprocess
from pathlib import Path

import pytest
from locations import PROJECT
from runs import database, opened, use_root

from cluemap.params import load_params
from cluemap.tracking import open_store
from cluemap.tracking.row_names import row_name

__all__ = ["database"]  # a fixture


def git(project: Path, *command: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *command], cwd=project, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A repository with the project's params.yaml committed."""
    shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml")
    git(tmp_path, "init")
    git(tmp_path, "add", "params.yaml")
    git(tmp_path, "commit", "--message", "params")
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    return use_root(tmp_path, monkeypatch)


def write(project: Path, old: str, new: str) -> None:
    text = (project / "params.yaml").read_text()
    assert text.count(old) == 1
    (project / "params.yaml").write_text(text.replace(old, new))


def named(project: Path) -> str:
    return row_name(load_params("demo", project / "params.yaml"))


def test_without_a_change_the_commit_names_the_row(project):
    assert named(project) == f"params of {git(project, 'rev-parse', 'HEAD')[:7]}, seed 0"


def test_a_change_of_the_method_or_of_the_data_set_s_own_block_is_in_the_name(project):
    write(project, "count: 2 #", "count: 5 #")
    write(project, "masks: {ignore_band: 0.1}", "masks: {ignore_band: 0.2}")
    write(project, "\nseed: 0", "\nseed: 3")
    assert named(project) == "clues.count=5, masks.ignore_band=0.2, seed 3"


def test_an_experiment_s_name_comes_first_and_its_baseline_is_what_counts(project, monkeypatch):
    start = git(project, "rev-parse", "HEAD")
    write(project, "count: 2 #", "count: 5 #")
    git(project, "commit", "--all", "--message", "what DVC commits for an experiment")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", start)
    monkeypatch.setenv("DVC_EXP_NAME", "many-clues")
    assert named(project) == "many-clues: clues.count=5, seed 0"


def test_only_the_first_changes_are_spelled_out(project):
    for key in ("count: 2", "dilation: 2", "curve_points: 60", "inference_batch: 48", "lambda_tap: 0.015"):
        write(project, key, f"{key}1")
    assert named(project).endswith(" and 1 more, seed 0")


def test_without_git_and_for_a_data_set_unknown_to_the_commit_there_is_still_a_name(project):
    write(project, "demo: # built in", "other: # built in")
    write(project, "  demo: data/demo", "  other: data/demo")
    found = row_name(load_params("other", project / "params.yaml"))
    assert found.startswith("params of ")
    shutil.rmtree(project / ".git")
    assert row_name(load_params("other", project / "params.yaml")) == "params, seed 0"


def test_the_store_shows_the_name_and_run_json_keeps_the_stage(database, project):
    shutil.copyfile(database, project / "mlflow.db")
    with opened(project, experiment="demo/results", name="evaluate", tags={"mlflow.runName": "x=1, seed 0"}) as run:
        pass
    assert open_store().run(run.id).name == "x=1, seed 0"
    assert open_store().run(run.id).tags["stage"] == "evaluate"
