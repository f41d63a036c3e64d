"""What all stage scripts share: arguments, messages instead of tracebacks, what a resumed training must agree in."""

import os
import signal
import sys

import pytest
import tiny

from cluemap.errors import DataError, Interrupted
from cluemap.files import atomic, atomic_folder, read_json, write_json
from cluemap.params import load_params
from cluemap.runtime.distributed import ALONE
from cluemap.stages.costs import cost
from cluemap.stages.stage import Stage, identity_of, run_stage
from cluemap.tracking.provenance import path_hash


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Run a stage whose work is given; gives its exit status."""
    file = tiny.write_params(tmp_path / "params.yaml")
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")

    def call(work, *arguments):
        line = ["make_masks.py", "--dataset", "tiny", "--params", str(file), "--out", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", line)
        return run_stage("make_masks", "What it does.", work)

    return call


def raising(error):
    def work(stage):
        raise error

    return work


def test_work_is_given_the_params_and_places(called, tmp_path):
    seen = []
    assert called(seen.append) == 0
    assert seen[0].folder == tmp_path / "tiny" / "make_masks"
    assert seen[0].prepared == tmp_path / "tiny" / "prepare"
    assert seen[0].params.dataset == "tiny"
    assert called(seen.append, "--prepared", "elsewhere") == 0
    assert str(seen[1].folder_of("prepare")) == "elsewhere"


def test_a_run_names_the_content_of_the_files_that_params_name(tmp_path):
    """As inputs, so that `src/lineage.py --verify` hashes them again; only of stages that read them."""
    names, model = tmp_path / "names.txt", tmp_path / "model" / "segmenter.safetensors"
    model.parent.mkdir()
    for file in (names, model):
        file.write_text("one")
    named = {"labelled": {"file": str(names)}, "segmenter": {"init": str(tmp_path)}}
    params = load_params("tiny", tiny.write_params(tmp_path / "params.yaml", named))
    both = {f"input.{file}": path_hash(file) for file in (names, model)}
    for name, held in (("prepare", 0), ("make_masks", 1), ("train_segmenter", 2)):
        tags = Stage(name, params, ALONE, tmp_path, tmp_path / "prepare").tags(())
        assert {key: tags[key] for key in both if key in tags} == dict(list(both.items())[:held])


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("x.npy is missing: fetch it"), 2, "make_masks: error: x.npy is missing: fetch it"),
        (Interrupted("stopped after step 3"), 130, "make_masks: stopped after step 3"),
        (OSError(28, "No space left on device", "y.npy"), 2, "No space left on device: 'y.npy'"),
    ],
)
def test_what_a_user_can_mend_is_one_message(called, capsys, error, status, words):
    assert called(raising(error)) == status
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_sigterm_ends_a_stage_as_an_exit_and_is_as_before_afterwards(called):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        called(lambda stage: os.kill(os.getpid(), signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_of_ours_keeps_its_traceback(called):
    with pytest.raises(ZeroDivisionError):
        called(lambda stage: 1 / 0)


def test_an_unknown_data_set_is_one_message(called, capsys):
    assert called(print, "--dataset", "tyni") == 2
    assert "did you mean `tiny`?" in capsys.readouterr().err


def test_help(called, capsys):
    with pytest.raises(SystemExit, match="0"):
        called(print, "--help")
    said = capsys.readouterr().out
    assert all(word in said for word in ("What it does.", "--dataset", "--params", "--out", "--prepared"))


def test_identity_holds_what_decides_a_training_and_nothing_else(tmp_path):
    params = load_params("tiny", tiny.write_params(tmp_path / "params.yaml"))
    found = identity_of(params, ("classifier", "clues"))
    assert {"seed", "compute.precision", "classifier.width", "clues.count"} <= set(found)
    assert not [key for key in found if key.startswith(("segmenter", "figures", "checkpoint", "compute.inference"))]


def test_a_result_costs_what_its_stages_cost(tmp_path):
    for stage, seconds, gpus in (("prepare", 30.0, 0), ("train_classifier", 1800.0, 4)):
        write_json(tmp_path / stage / "run.json", {"seconds": seconds, "gpus": gpus})
    folders = {stage: tmp_path / stage for stage in ("prepare", "train_classifier", "never_run")}
    assert cost(folders) == {
        "seconds": {"prepare": 30.0, "train_classifier": 1800.0},
        "total_seconds": 1830.0,
        "gpu_hours": 2.0,
    }


def test_atomic_file_leaves_the_old_one_when_writing_fails(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def fail():
        with atomic(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert (tmp_path / "a.json").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_atomic_folder_leaves_the_old_one_when_writing_fails(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")

    def fail():
        with atomic_folder(tmp_path / "model") as temporary:
            (temporary / "weights").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_json_round_trip_and_errors(tmp_path):
    write_json(tmp_path / "a.json", {"x": [1.5, float("nan")]})
    assert read_json(tmp_path / "a.json") == {"x": [1.5, None]}
    with pytest.raises(DataError, match=r"none\.json is missing"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not JSON"):
        read_json(tmp_path / "bad.json")
