"""What made a number: hashes are DVC's own, code is told apart when dirty, and no machine's paths get into the tags."""

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluemap.errors import DataError
from cluemap.tracking.provenance import code, hashes_of, holder, machine, path_hash, provenance, recorded_hashes

LOCK = """
schema: '2.0'
stages:
  prepare@demo:
    cmd: python src/prepare.py --dataset demo
    deps: [{path: data/demo, hash: md5, md5: 11.dir}]
    outs: [{path: out/demo/prepare/windows, hash: md5, md5: 22.dir}, {path: out/demo/prepare/metrics.json, md5: '33'}]
  make_masks@demo:
    cmd: python src/make_masks.py --dataset demo
    outs: [{path: out/demo/make_masks, md5: 44.dir}, {path: unhashed}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with DVC's files in it."""
    (tmp_path / "dvc.lock").write_text(LOCK)
    (tmp_path / "data.dvc").write_text("outs:\n- {md5: aa.dir, size: 7, nfiles: 2, hash: md5, path: data}\n")
    return tmp_path


def git(project: Path, *command: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *command], cwd=project, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_inputs_are_known_by_dvc_s_hashes(project):
    assert hashes_of([project / "data" / "demo", "out/demo/prepare"], project) == {
        "data": "aa.dir",
        "out/demo/prepare/windows": "22.dir",
        "out/demo/prepare/metrics.json": "33",
    }
    assert hashes_of([project / "out" / "demo" / "prepare2"], project) == {}
    assert recorded_hashes(project.parent / "nowhere") == {}


def test_a_data_set_s_own_dvc_file_is_read_where_it_lies(project):
    (project / "data" / "region").mkdir(parents=True)
    (project / "data" / "region" / "images.dvc").write_text("outs:\n- {md5: bb.dir, hash: md5, path: images}\n")
    (project / "data" / "other.dvc").write_text("outs:\n- {md5: cc.dir, hash: md5, path: other}\n")
    found = recorded_hashes(project)
    assert (found["data/region/images"], found["data/other"]) == ("bb.dir", "cc.dir")


def test_a_file_s_holder_is_the_output_it_lies_in(project):
    assert holder(project / "out/demo/make_masks/run.json", project) == "out/demo/make_masks"
    assert holder("out/demo/prepare/metrics.json", project) == "out/demo/prepare/metrics.json"
    assert holder("out/demo/prepare/run.json", project) is None
    assert holder("/elsewhere/run.json", project) is None


def test_a_damaged_lock_is_named(project):
    (project / "dvc.lock").write_text("stages: [")
    with pytest.raises(DataError, match=r"dvc\.lock is not YAML"):
        recorded_hashes(project)


def test_code_tells_dirty_states_apart(tmp_path):
    assert code(tmp_path)["git.commit"] == "none"
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "a.py"
    file.write_text("x = 1")
    git(tmp_path, "init")
    assert (code(tmp_path)["git.commit"], code(tmp_path)["git.dirty"]) == ("none", "true")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    clean = code(tmp_path)
    assert (clean["git.commit"], clean["git.dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), "false")
    file.write_text("x = 2")
    second = code(tmp_path)
    assert (second["git.dirty"], second["git.changed"]) == ("true", "src/a.py")
    file.write_text("x = 3")
    digests = {tags["code.digest"] for tags in (clean, second, code(tmp_path))}
    assert len(digests) == 3
    assert digests.isdisjoint({code(tmp_path.parent)["code.digest"]})


def test_tags_name_the_run_and_no_place(project, monkeypatch):
    monkeypatch.setattr("cluemap.paths.ROOT", project)
    monkeypatch.setenv("DVC_STAGE", "train_classifier@demo")
    tags = provenance("demo", "train_classifier", [project / "data" / "demo"])
    assert (tags["dataset"], tags["stage"], tags["dvc.stage"]) == ("demo", "train_classifier", "train_classifier@demo")
    assert tags["input.data"] == "aa.dir"
    assert all(str(project) not in value and str(Path.home()) not in value for value in tags.values())
    assert all(isinstance(value, str) and value for value in tags.values())
    assert {"machine.cpu", "machine.cores", "machine.memory", "machine.gpus", "version.torch"} <= set(machine())
    assert getpass.getuser() not in machine().values()


def test_a_missing_path_has_no_hash(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        path_hash(tmp_path / "nothing")


def tree(folder: Path) -> None:
    """Names whose order differs between paths and plain texts."""
    for name in ("b/c.txt", "b.txt", "a b/ü.bin", "b/a/z", "B"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 3 + b"\r\n")


def test_hashes_are_those_dvc_gave(tmp_path):
    tree(tmp_path / "tree")
    assert path_hash(tmp_path / "tree") == "fc48546a58295577e26666b6023d26db.dir"
    assert path_hash(tmp_path / "tree" / "B") == "7a5a09bc89c63a3bfeb663326a2af3ae"


@pytest.mark.slow
def test_hashes_are_those_dvc_gives(tmp_path):
    pytest.importorskip("dvc", reason="DVC is not installed here")
    tree(tmp_path / "tree")
    git(tmp_path, "init")
    for command in (["init", "-q"], ["add", "-q", "tree", "tree2"]):
        if command[0] == "add":
            shutil.copytree(tmp_path / "tree", tmp_path / "tree2")
            (tmp_path / "tree2" / "B").write_bytes(b"")
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    for name in ("tree", "tree2"):
        assert recorded_hashes(tmp_path)[name] == path_hash(tmp_path / name)
