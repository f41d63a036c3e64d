"""The way back from a number: what is told of a run, that every change is found, and that it can be brought out."""

import json
import shutil
import subprocess

import pytest
import tiny
from runs import database, journal_of, opened, root

import lineage
from cluemap.errors import DataError
from cluemap.experiments import run_reproduction
from cluemap.params import load_params
from cluemap.tracking import open_store
from cluemap.tracking.lineage import trace, verify
from cluemap.tracking.provenance import changes, code, path_hash

__all__ = ["database", "root"]  # fixtures
MASKS = "out/tiny/make_masks/masks"


def git(folder, *command):
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *settings, *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def made(root):
    """A project with a commit, a change to it, pseudo masks, and the runs `make_masks` and `evaluate`; their ids."""
    (root / "src").mkdir()
    (root / "src" / "a.py").write_text("x = 1\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("")
    (root / ".gitignore").write_text("/mlflow.db*\n/mlruns\n/out\n/elsewhere\n.dvc/config.local\n")
    tiny.write_params(root / "params.yaml")
    git(root, "init")
    git(root, "add", ".")
    git(root, "commit", "-m", "one")
    (root / "src" / "a.py").write_text("x = 2\n")
    (root / MASKS).mkdir(parents=True)
    (root / MASKS / "masks_train.npy").write_bytes(b"masks")
    patch = journal_of(root).with_name("changes.patch")
    patch.parent.mkdir(parents=True)
    patch.write_text(changes(root))
    held = path_hash(root / MASKS)
    params = load_params("tiny", tiny.write_params(root / "another.yaml", {"masks": {"threshold": 0.4}})).flat()
    tags = {**code(root), "dataset": "tiny"}
    with opened(root, name="make_masks", tags={**tags, f"output.{MASKS}": held, "command": "python src/m.py"}) as masks:
        pass
    with opened(root, name="evaluate", params=params, tags={**tags, f"input.{MASKS}": held},
                upstream={"make_masks": masks.id, "prepare": None}) as run:  # fmt: skip
        run.artifact(patch, "code")
        run.write_card(root / "out" / "tiny" / "evaluate")
    return masks.id, run.id


def findings(run, root):
    return {one.name: one.state for one in verify(trace(open_store(), run), root)}


def test_all_that_made_a_run_is_told(made, root, capsys):
    masks, run = made
    assert lineage.main([str(root / "out" / "tiny" / "evaluate")]) == 0
    said = capsys.readouterr().out
    commit = code(root)["git.commit"]
    for word in (run, masks, commit, "changed since in src/a.py", "python src/m.py", path_hash(root / MASKS), "0.4"):
        assert word in said
    assert (
        trace(open_store(), f"key:{json.loads((root / 'out/tiny/evaluate/run.json').read_text())['key']}").run.id == run
    )


def test_a_changed_mask_is_found_and_so_is_all_else(made, root, capsys):
    _, run = made
    tiny.write_params(root / "params.yaml", {"masks": {"threshold": 0.4}})
    assert set(findings(run, root).values()) == {"same"}
    assert lineage.main([run, "--verify"]) == 0
    (root / MASKS / "masks_train.npy").write_bytes(b"maskz")
    assert findings(run, root) == {"src": "same", "params.yaml": "same", MASKS: "changed"}
    assert lineage.main([run, "--verify"]) == 1
    assert f"changed  {MASKS}" in capsys.readouterr().out
    shutil.rmtree(root / MASKS)
    tiny.write_params(root / "params.yaml", {"masks": {"threshold": 0.5}})
    (root / "src" / "a.py").write_text("x = 3\n")
    found = findings(run, root)
    assert found == {"src": "changed", "params.yaml: masks.threshold": "changed", MASKS: "missing"}


def test_masks_made_anew_behind_a_run_s_back_are_no_lineage(made, root):
    masks, _ = made
    with opened(root, name="evaluate", tags={f"input.{MASKS}": "0" * 32}, upstream={"make_masks": masks}) as run:
        pass
    assert findings(run.id, root)[MASKS] == "unclear"


@pytest.mark.parametrize("held_by", ["cache", "workspace", "nobody"])
def test_a_run_is_brought_out(made, root, monkeypatch, capsys, held_by):
    _, run = made
    cache, target = root / "elsewhere" / "cache", root / "elsewhere" / "out"
    monkeypatch.setattr(run_reproduction, "cache_folder", lambda: cache)
    if held_by == "cache":
        name = path_hash(root / MASKS)
        one = {"md5": path_hash(root / MASKS / "masks_train.npy"), "relpath": "masks_train.npy"}
        for held, content in ((name, json.dumps([one])), (one["md5"], "masks")):
            place = cache / "files" / "md5" / held[:2] / held[2:]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
    if held_by != "workspace":
        shutil.rmtree(root / MASKS)
    (root / "src" / "a.py").write_text("x = 9\n")
    target.parent.mkdir(exist_ok=True)
    assert lineage.main([run, "--checkout", str(target)]) == (1 if held_by == "nobody" else 0)
    assert (target / "src" / "a.py").read_text() == "x = 2\n"
    assert load_params("tiny", target / "params.yaml").masks.threshold == 0.4
    here = findings(run, target)
    assert here.pop(MASKS) == ("missing" if held_by == "nobody" else "same")
    assert set(here.values()) == {"same"}
    if held_by == "workspace":
        (target / MASKS / "masks_train.npy").write_text("played with")
        assert (root / MASKS / "masks_train.npy").read_text() == "masks"  # the original is another file
    capsys.readouterr()
    assert lineage.main([run, "--checkout", str(target)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_cannot_be_traced_is_one_message(root, capsys, monkeypatch):
    assert lineage.main(["0" * 32]) == 2
    assert "has no run 0000" in capsys.readouterr().err
    (root / "empty").mkdir()
    assert lineage.main([str(root / "empty")]) == 2
    assert "has no run.json" in capsys.readouterr().err
    with opened(root, tags={"git.commit": "none"}) as run:
        pass
    with pytest.raises(DataError, match="without a git commit"):
        run_reproduction.check_out(trace(open_store(), run.id), open_store(), root / "new")
