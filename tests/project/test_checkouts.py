"""The project in a folder without git (a downloaded zip) and in a worktree of git: DVC runs a stage there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from locations import PROJECT

PIPELINE = "stages:\n  made:\n    cmd: echo done > made.txt\n    outs: [made.txt]\n"
FILES = ("Makefile", ".dvc/config", ".dvc/.gitignore", ".dvcignore", "requirements.lock")


def run(folder: Path, *command: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_", "MAKE"))}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def scm(folder: Path) -> None:
    """`make scm`, as `make demo` does it, in the environment that is there."""
    run(folder, "make", "--old-file=.venv/ready", "scm")


def settings(folder: Path) -> str:
    file = folder / ".dvc" / "config.local"
    return file.read_text() if file.exists() else ""


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """What DVC needs of the project, without git, below no repository, with a pipeline of one short stage."""
    for name in FILES:
        (tmp_path / "zip" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, tmp_path / "zip" / name)
    (tmp_path / "zip" / "dvc.yaml").write_text(PIPELINE)
    return tmp_path / "zip"


def test_dvc_runs_without_git_and_sees_git_once_it_is_there(unpacked):
    scm(unpacked)
    run(unpacked, "dvc", "repro")
    assert (unpacked / "made.txt").read_text() == "done\n"
    run(unpacked, "git", "init", "--quiet")
    scm(unpacked)
    assert "no_scm" not in settings(unpacked)


def test_dvc_runs_in_a_worktree(unpacked, tmp_path):
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run(unpacked, "git", "init", "--quiet")
    run(unpacked, "git", "add", ".")
    run(unpacked, "git", *who, "commit", "--quiet", "--message", "all")
    run(unpacked, "git", "worktree", "add", "--quiet", str(tmp_path / "worktree"))
    scm(tmp_path / "worktree")
    run(tmp_path / "worktree", "dvc", "repro")
    assert (tmp_path / "worktree" / "made.txt").exists()
    assert settings(tmp_path / "worktree") == ""
