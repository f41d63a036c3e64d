"""The product's face in a real browser: what a researcher sees in `mlflow ui` after two pipelines, and the report."""

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from browser import CHROMIUM, Face, browser
from runs import use_root
from tiny import pipeline

import resend
from cluemap.tracking import open_store

__all__ = ["pipeline"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(pipeline, tmp_path_factory) -> Path:
    """The real pipeline's project with a second result, of other pseudo masks, and its registered segmenter."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    root = tmp_path_factory.mktemp("face") / "project"
    shutil.copytree(pipeline, root)
    with pytest.MonkeyPatch.context() as patch:
        use_root(root, patch)
        assert resend.main(["--mend-moved"]) == 0
    tiny.run("register", root)
    tiny.write_params(root / "params.yaml", {**tiny.FAST, "windows": {"size": 14}, "masks": {"threshold": 0.1}})
    for stage in ("make_masks", "evaluate"):
        tiny.run(stage, root)
    return root


@pytest.fixture(scope="module")
def face(store, tmp_path_factory) -> Iterator[Face]:
    with browser(store, tmp_path_factory.getbasetemp() / "screenshots") as made:
        yield made


@pytest.fixture(scope="module")
def ids(store) -> dict[str, str]:
    """Experiments and runs by name."""
    return ids_of(store)


@pytest.fixture(autouse=True)
def clean(face) -> Iterator[None]:
    """Each page without an error in the console and without a request to another host."""
    face.wrong.clear()
    yield
    assert face.wrong == []


def ids_of(root: Path) -> dict[str, str]:
    with sqlite3.connect(root / "mlflow.db") as base:
        found = {name: str(number) for number, name in base.execute("select experiment_id, name from experiments")}
        rows = base.execute(
            "select value, runs.run_uuid from runs join tags on tags.run_uuid = runs.run_uuid and key = 'stage' "
            "order by start_time"
        ).fetchall()
    results = [run for stage, run in rows if stage == "evaluate"]
    return {**found, **dict(rows), "first": results[0], "second": results[-1]}


def test_the_table_of_results_has_rows_and_metric_columns(face, store):
    with pytest.MonkeyPatch.context() as patch:
        link = open_store_of(store, patch).link("tiny/results")
    text = face.show(link.partition("#")[2], "results", "test_miou", "mask_miou", "cluemap-tiny-segmenter")
    assert "2 matching runs" in " ".join(text.split())
    metrics = json.loads((store / "out/tiny/evaluate/metrics.json").read_text())
    shown = face.page.locator("[col-id='metrics.`test_miou`'], [col-id*='test_miou']").all_inner_texts()
    assert any(cell.strip().startswith(f"{metrics['test_miou']:.3f}"[:5]) for cell in shown), shown


def test_the_table_s_columns_begin_with_the_scores_and_end_with_the_cost(face, store):
    with pytest.MonkeyPatch.context() as patch:
        link = open_store_of(store, patch).link("tiny/results")
    face.show(link.partition("#")[2], "columns", "test_miou", "seed 0")
    columns = face.page.locator(".ag-header-cell").evaluate_all(
        "cells => cells.sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)"
        ".map(cell => cell.getAttribute('col-id'))"
    )
    shown = [name.split("`")[1] for name in columns if name.startswith("metrics.")]
    assert shown[:4] == ["test_miou", "ratio", "reference_miou", "mask_miou"]
    assert shown[-1] == "cost/total_seconds"


def test_the_charts_of_training_begin_with_loss_and_validation(face, store):
    with pytest.MonkeyPatch.context() as patch:
        link = open_store_of(store, patch).link("tiny/training")
    text = face.show(f"{link.partition('#')[2]}&compareRunsMode=CHART", "charts", "loss/total")
    sections = re.findall(r"^([\w ]+)\s\(\d+\)$", text, flags=re.MULTILINE)
    assert sections[:2] == ["loss", "validation"], sections
    assert "clue distance" in sections


def test_two_runs_are_compared(face, ids):
    runs = json.dumps([ids["first"], ids["second"]])
    experiments = json.dumps([ids["tiny/results"]])
    text = face.show(
        f"/compare-runs?runs={runs}&experiments={experiments}", "compare", "Comparing 2 Runs", "masks.threshold"
    )
    assert ids["first"] in text
    assert ids["second"] in text


def test_a_figure_is_shown(face, ids):
    where = f"/experiments/{ids['tiny/results']}/runs/{ids['second']}/artifacts/figures/overview.png"
    face.show(where, "figure", "confusion_weak.png", "overview.png")
    face.page.wait_for_function("[...document.images].some(i => i.naturalWidth > 300)", timeout=120_000)
    face.page.screenshot(path=face.shots / "figure.png")


def test_a_training_s_curves_are_shown(face, ids):
    where = f"/experiments/{ids['tiny/training']}/runs/{ids['train_classifier']}/model-metrics"
    face.show(where, "curves", "clue distance", "clue usage")


def test_the_run_leads_to_what_made_it_and_to_its_model(face, ids):
    where = f"/experiments/{ids['tiny/results']}/runs/{ids['first']}"
    text = face.show(where, "run", "cluemap-tiny-segmenter", "of full supervision")
    assert "tiny windows" in text
    link = face.page.get_by_role("link", name=ids["train_classifier"]).first.get_attribute("href")
    face.show(link.removeprefix("#"), "upstream", "train_classifier", "loss")
    assert ids["train_classifier"] in face.page.url
    assert "/experiments/" in face.page.url  # it found the run's experiment by itself


def test_the_registry_has_the_champion(face):
    text = face.show("/models/cluemap-tiny-segmenter", "registry", "Version 1", "champion")
    assert "cluemap-tiny-segmenter" in text


def test_the_report_is_one_page_that_asks_nobody(face, store):
    report = store / "out" / "tiny" / "evaluate" / "report.html"
    text = face.show(report.as_uri(), "report", "Lineage", "test mIoU from image labels")
    assert "git.commit" in text
    assert face.page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    face.page.screenshot(path=face.shots / "report.png", full_page=True)


def open_store_of(root: Path, patch: pytest.MonkeyPatch):
    use_root(root, patch)
    return open_store()
