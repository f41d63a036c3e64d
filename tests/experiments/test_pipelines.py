"""Pipelines with other params, and the ablation table made of them."""

import json
import math
import os
import threading
import time
from pathlib import Path

import pytest
import tiny
from tiny import pipeline

from cluemap.errors import CheckpointError, ParamsError
from cluemap.experiments.ablation import ALL_STAGES, VARIANTS, _stages_of_whole, table
from cluemap.experiments.pipelines import Pipeline, StageFailed, make_pipeline, run_all
from cluemap.experiments.variants import at
from cluemap.params import load_params
from cluemap.paths import STAGES, stage_folder
from cluemap.tuning.confirmation import confirm, confirmed
from cluemap.tuning.search_space import read_tuning

__all__ = ["pipeline"]  # fixture


@pytest.fixture
def base(tmp_path):
    return tiny.write_params(tmp_path / "params.yaml")


def test_changes_lie_over_the_data_sets_own_and_comments_stay(base, tmp_path):
    changes = {"seed": 7, "clues.count": 5, "classifier.steps": 3}
    pipeline = make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", changes, base)
    params = load_params("tiny", pipeline.params_file)
    assert (params.seed, params.clues.count, params.classifier.steps) == (7, 5, 3)
    assert params.clues.start_step == 12  # the data set's own override
    assert load_params("tiny", base).seed == 0
    assert "(eq. 4)" in pipeline.params_file.read_text()


@pytest.mark.parametrize("key", ["clues.cuont", "clue.count", "count"])
def test_a_key_that_does_not_exist_is_refused(base, tmp_path, key):
    with pytest.raises(ParamsError, match=key):
        make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {key: 1}, base)


def test_an_impossible_value_is_refused(base, tmp_path):
    with pytest.raises(ParamsError, match=r"clues\.count"):
        make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {"clues.count": 0}, base)


@pytest.mark.slow
def test_finished_stages_are_not_run_again_and_a_failure_shows_the_log(base, tmp_path):
    pipeline = make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {}, base)
    done = tmp_path / "one" / "tiny" / "make_masks"
    done.mkdir(parents=True)
    (done / "metrics.json").write_text(json.dumps({"x": 1}))
    pipeline.run(["make_masks"])
    assert not (tmp_path / "one" / "log.txt").exists()
    assert pipeline.metrics("make_masks") == {"x": 1}
    with pytest.raises(StageFailed, match=r"(?s)train_classifier in .*one ended with 2:.*card\.json is missing"):
        pipeline.run(["train_classifier"])


def test_results_of_other_params_are_never_taken_for_these(base, tmp_path):
    make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {"clues.count": 2}, base)
    make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {"clues.count": 2}, base)
    with pytest.raises(CheckpointError, match=r"one: clues\.count is 2 there and 3 now"):
        make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", {"clues.count": 3}, base)
    assert "count: 2" in (tmp_path / "one" / "params.yaml").read_text()


def test_results_of_other_content_of_a_named_file_are_never_taken_for_these(base, tmp_path):
    changes = {"labelled.file": str(tmp_path / "names.txt")}
    (tmp_path / "names.txt").write_text("one\n")
    for _ in range(2):
        make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", changes, base)
    (tmp_path / "names.txt").write_text("two\n")
    with pytest.raises(CheckpointError, match=r"one: content of labelled\.file is"):
        make_pipeline("tiny", tmp_path / "one", tmp_path / "windows", changes, base)


def test_a_score_that_is_null_is_none():
    """Data without true labels have no mIoU; hours of trainings before must not end in a traceback."""
    assert math.isnan(at("test", "weak", "miou")({"test": {"weak": {"miou": None}}}))


def test_commands_share_the_prepared_windows(tmp_path):
    line = Pipeline("demo", Path("trial"), Path("windows")).command("make_cams")
    assert line[-6:] == ["--params", "trial/params.yaml", "--out", "trial", "--prepared", "windows"]


@pytest.mark.slow
def test_the_rows_read_what_the_stages_write(pipeline):
    """Every row of every variant finds its number in the metrics of a real pipeline."""
    for variant in VARIANTS.values():
        for row in variant.rows:
            file = stage_folder("tiny", row.stage, pipeline / "out") / "metrics.json"
            assert 0 <= row.value(json.loads(file.read_text())) <= 3, row.name
    names = [row.name for variant in VARIANTS.values() for row in variant.rows]
    assert len(set(names)) == len(names)


def test_a_variant_takes_over_what_its_change_does_not_reach(pipeline, tmp_path):
    whole = Pipeline("tiny", pipeline / "out", tmp_path)
    variant = Pipeline("tiny", tmp_path / "variant", tmp_path)
    variant.take_over(whole, ("refine_masks", "train_segmenter", "evaluate"))
    taken = {stage for stage in STAGES if variant.done(stage)}
    assert taken == {"train_classifier", "make_cams", "make_masks", "train_reference", "train_baselines"}
    file = "tiny/make_masks/masks/masks_train.npy"
    assert os.path.samefile(pipeline / "out" / file, tmp_path / "variant" / file)


def test_the_whole_method_runs_as_far_as_its_variants_need():
    assert _stages_of_whole(["whole", "tsvit"]) == ALL_STAGES
    assert _stages_of_whole(["no_losses"]) == ()
    assert _stages_of_whole(["refined_by_trees"]) == ("train_classifier", "make_cams", "make_masks")


def test_table():
    lines = [{"name": "a", "values": [0.5, 0.75], "mean": 0.625, "spread": 0.1768}]
    assert table(lines, [0, 3]).splitlines() == [
        "| mIoU in % | seed 0 | seed 3 | mean ± s.d. |",
        "| --- | ---: | ---: | ---: |",
        "| a | 50.0 | 75.0 | 62.5 ± 17.7 |",
    ]


def test_several_at_once_have_gpus_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,6")
    monkeypatch.setenv("CLUEMAP_DEVICE", "cuda")
    held, most, ran = set(), [], []
    lock = threading.Lock()

    def run(pipeline, stages, share):
        mine = set(share["CUDA_VISIBLE_DEVICES"].split(","))
        with lock:
            assert not mine & held
            held.update(mine)
            most.append(len(held))
        time.sleep(0.05)
        with lock:
            held.difference_update(mine)
            ran.append((pipeline.folder.name, tuple(stages)))

    monkeypatch.setattr(Pipeline, "run", run)
    wanted = [(Pipeline("demo", tmp_path / str(number), tmp_path), ["prepare"]) for number in range(5)]
    run_all(wanted, jobs=2)
    assert sorted(ran) == [(str(number), ("prepare",)) for number in range(5)]
    assert max(most) == 3


def test_a_failure_ends_what_has_not_begun(tmp_path, monkeypatch):
    begun = []

    def run(pipeline, stages, share):
        begun.append(pipeline.folder.name)
        time.sleep(0.02)
        if pipeline.folder.name == "1":
            raise StageFailed("one ended with 2")

    monkeypatch.setattr(Pipeline, "run", run)
    with pytest.raises(StageFailed):
        run_all([(Pipeline("demo", tmp_path / str(number), tmp_path), []) for number in range(50)])
    assert begun[:2] == ["0", "1"]
    assert len(begun) < 50


def test_the_best_trial_is_held_against_the_data_sets_own_and_the_papers_values(base, tmp_path, monkeypatch):
    """The stand-in's score tells which values, how many steps and which seed it was given."""
    tiny.write_params(base, {"clues": {"tau": 0.2}})
    tuning = read_tuning("tiny", base)

    def run(pipeline, stages, share):
        params = load_params("tiny", pipeline.params_file)
        assert list(stages) == ["train_classifier"]
        assert params.classifier.steps == load_params("tiny", base).classifier.steps
        done = pipeline.folder / "tiny" / "train_classifier"
        done.mkdir(parents=True)
        score = params.clues.tau + params.seed / 1000
        (done / "metrics.json").write_text(json.dumps({"validation": {"clue_cam_miou_fixed": score}}))

    monkeypatch.setattr(Pipeline, "run", run)
    best = {**tuning.current, "clues.tau": 0.31}
    found = confirm(tuning, best, [0, 5], tmp_path / "confirm", base, tmp_path / "windows", jobs=2)
    assert {name: [round(score, 3) for score in scores] for name, scores in found.items()} == {
        "best": [0.31, 0.315],
        "params.yaml": [0.2, 0.205],
        "paper": [0.1, 0.105],
    }
    assert "| best | 31.0 | 31.5 |" in confirmed(found, [0, 5])
