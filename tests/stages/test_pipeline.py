"""All stages in a row, as their scripts: outputs, honesty, and what happens when something is wrong."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import tiny
from locations import REAL
from tiny import FAST, STAGES, pipeline

__all__ = ["pipeline"]  # a fixture


def metrics(root: Path, stage: str, dataset: str = "tiny") -> dict:
    return json.loads((root / "out" / dataset / stage / "metrics.json").read_text())


@pytest.mark.slow
def test_every_stage_leaves_numbers_a_run_and_pictures(pipeline):
    for stage in ("prepare", *STAGES):
        folder = pipeline / "out" / "tiny" / stage
        assert metrics(pipeline, stage)
        assert json.loads((folder / "run.json").read_text())["run_id"]
        if stage != "prepare":
            pictures = list((folder / "figures").glob("*.png"))
            assert pictures, stage
            assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert not list(pipeline.rglob("*.tmp"))
    assert not list((pipeline / "out" / "tiny" / ".state").glob("*/last.safetensors"))


@pytest.mark.slow
def test_runs_are_flat_rows_in_two_experiments(pipeline):
    with sqlite3.connect(pipeline / "mlflow.db") as store:
        rows = store.execute(
            "select e.name, r.status, r.run_uuid from runs r join experiments e on r.experiment_id = e.experiment_id"
        ).fetchall()
        logged = dict(store.execute("select key, value from latest_metrics where run_uuid = ?", [rows[-1][2]]))
    assert sorted(name for name, _, _ in rows) == ["tiny/results"] + ["tiny/training"] * len(STAGES)
    assert {status for _, status, _ in rows} == {"FINISHED"}
    found = metrics(pipeline, "evaluate")
    assert logged["ratio"] == found["ratio"]
    assert logged["test/weak/miou"] == found["test"]["weak"]["miou"]
    run = json.loads((pipeline / "out/tiny/evaluate/run.json").read_text())
    made = json.loads((pipeline / "out/tiny/make_masks/run.json").read_text())
    assert run["upstream"]["make_masks"] == made["run_id"]


@pytest.mark.slow
def test_scores_agree_with_the_arrays_on_disk(pipeline):
    masks = np.load(pipeline / "out/tiny/make_masks/masks/masks_train.npy")
    truth = np.load(pipeline / "out/tiny/prepare/windows/masks_train.npy")
    seen = truth != 255
    assert metrics(pipeline, "make_masks")["train"]["overall_accuracy"] == pytest.approx(
        (masks == truth)[seen].mean(), abs=1e-12
    )
    assert set(metrics(pipeline, "make_masks")["sources"]) == {"clue", "fused", "refined", "spatial", "temporal"}


@pytest.mark.slow
def test_pseudo_masks_do_not_depend_on_training_masks(pipeline, tmp_path):
    root = copied(pipeline, tmp_path)
    file = root / "out/tiny/prepare/windows/masks_train.npy"
    truth = np.load(file)
    np.save(file, np.random.default_rng(0).integers(0, 4, truth.shape, dtype=np.uint8))
    before = (pipeline / "out/tiny/make_masks/masks/masks_train.npy").read_bytes()
    score = metrics(pipeline, "make_masks")["train"]["miou"]
    for stage in ("train_classifier", "make_cams", "make_masks"):
        shutil.rmtree(root / "out/tiny" / stage)
        tiny.run(stage, root)
    assert (root / "out/tiny/make_masks/masks/masks_train.npy").read_bytes() == before
    assert metrics(root, "make_masks")["train"]["miou"] != score  # the scores do read the (corrupted) truth


@pytest.mark.slow
def test_another_threshold_and_source_change_only_the_masks(pipeline, tmp_path):
    root = copied(pipeline, tmp_path)
    tiny.write_params(root / "params.yaml", {**FAST, "windows": {"size": 14}, "masks": {"threshold": "validation"}})
    tiny.run("make_masks", root)
    chosen = metrics(root, "make_masks")
    assert chosen["threshold"] == chosen["validation"]["oracle"]["threshold"]
    assert chosen["validation"]["oracle"]["gap"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_a_checkpoint_of_other_data_or_classes_is_refused(pipeline, tmp_path):
    root = copied(pipeline, tmp_path)
    card = root / "out/tiny/prepare/windows/card.json"
    content = json.loads(card.read_text())
    card.write_text(json.dumps({**content, "digest": "0" * 32}))
    done = tiny.run("make_cams", root, check=False)
    assert done.returncode == 2
    assert "classifier.safetensors was trained on other windows" in done.stderr
    classes = content["legend"]["classes"]
    content["legend"]["classes"] = [{**classes[0], "name": "hop"}, *classes[1:]]
    card.write_text(json.dumps(content))
    done = tiny.run("make_cams", root, check=False)
    assert done.returncode == 2
    assert "hop" in done.stderr
    assert "dvc repro" in done.stderr


@pytest.mark.slow
def test_missing_input_names_the_file_and_the_mend(tmp_path):
    root = tiny.make_project(tmp_path)
    done = tiny.run("make_cams", root, check=False)
    assert done.returncode == 2
    assert "classifier.safetensors is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_real_pastis24_windows_go_through_every_stage(tmp_path):
    if not REAL.exists():
        pytest.skip(f"no real files at {REAL}")
    overrides = {**FAST, "windows": {"size": 24, "max_dates": 61}, "figures": {"windows": 1}}
    tiny.write_params(tmp_path / "params.yaml", overrides)
    text = (tmp_path / "params.yaml").read_text().replace("tiny: data/tiny", f"tiny: {REAL / 'pastis24'}")
    source = text.index("tiny:\n")
    head, block = text[:source], text[source:]
    block = block.replace("format: pastis\n", "format: pastis24\n").replace("folds: metadata", "folds: by_patch")
    (tmp_path / "params.yaml").write_text(head + _all_classes(block))
    for stage in ("prepare", *STAGES):
        tiny.run(stage, tmp_path)
    masks = np.load(tmp_path / "out/tiny/make_masks/masks/masks_train.npy")
    assert masks.shape[1:] == (24, 24)
    assert 0 <= metrics(tmp_path, "evaluate")["test"]["weak"]["overall_accuracy"] <= 1
    assert (tmp_path / "out/tiny/evaluate/figures/patch.png").exists()
    assert json.loads((tmp_path / "out/tiny/evaluate/run.json").read_text())["run_id"]


def copied(pipeline: Path, tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(pipeline / "out", root / "out")
    shutil.copy(pipeline / "params.yaml", root / "params.yaml")
    return root


def _all_classes(block: str) -> str:
    import re

    return re.sub(r"classes:\n(?:\s+- \d+\n)+", "classes: all\n", block).replace("classes: [1, 2, 3]", "classes: all")
