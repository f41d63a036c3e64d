"""docs/comparing.md: five experiments of the real pipeline, compared in DVC, in MLflow's page and in compare.py's.

The page's pictures: CLUEMAP_SCREENSHOTS=docs/images python -m pytest tests/experiments/test_five_experiments.py
"""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Face, browser
from dvc_projects import commit, dvc, make_project, script
from runs import use_root

from cluemap.tracking import open_store

pytestmark = pytest.mark.long
EXPERIMENTS = {  # name -> the param that it changes, its value
    "other-seed": ("seed", "1"),
    "one-clue": ("clues.count", "1"),
    "softmax-dates": ("temporal_weighting.kind", "softmax"),
    "linear-refiner": ("refine.learner", "linear"),
    "ltae": ("segmenter.kind", "ltae"),
}
BASE = "committed"  # the results that the five are compared with


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with the committed params' results and those of the five experiments."""

    root = make_project(tmp_path_factory.mktemp("five") / "project")
    dvc(root, "repro")
    commit(root, "results")
    for name, (key, value) in EXPERIMENTS.items():
        change = f"{key}={value}" if key == "seed" else f"++tiny.{key}={value}"
        dvc(root, "exp", "run", "--temp", "--name", name, "-S", change)
    return root


@pytest.fixture(scope="module")
def rows(project) -> dict[str, str]:
    """Experiment -> the id of its run in tiny/results."""
    with sqlite3.connect(project / "mlflow.db") as store:
        found = store.execute(
            "select r.run_uuid, (select value from tags e where e.run_uuid = r.run_uuid and e.key = 'dvc.experiment') "
            "from runs r join tags t on t.run_uuid = r.run_uuid where t.key = 'stage' and t.value = 'evaluate'"
        ).fetchall()
    return {experiment or BASE: run for run, experiment in found}


@pytest.fixture(scope="module")
def face(project, tmp_path_factory) -> Iterator[Face]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with browser(project, tmp_path_factory.getbasetemp() / "screenshots") as made:
        yield made
        assert made.wrong == []


@pytest.fixture(scope="module")
def link(project) -> str:
    """MLflow's page of the table of results, as where.py prints it."""
    with pytest.MonkeyPatch.context() as patch:
        use_root(project, patch)
        return open_store().link("tiny/results").partition("#")[2]


def test_every_experiment_is_a_row_with_the_param_that_it_changes(project, rows):
    assert set(rows) == {BASE, *EXPERIMENTS}
    with sqlite3.connect(project / "mlflow.db") as store:
        for name, (key, value) in EXPERIMENTS.items():
            query = "select value from params where run_uuid = ? and key = ?"
            assert store.execute(query, (rows[name], key)).fetchone() == (value,)


DROPPED = "Created|State|Executor|out|forest|linear|trees|.*gap|.*boundary|.*accuracy"


def test_dvc_lists_them_and_tells_their_differences(project):
    options = ("--only-changed", "--md", "--drop", DROPPED)
    table = [[cell.strip() for cell in line.split("|")] for line in dvc(project, "exp", "show", *options).splitlines()]
    header, _, *lines = filter(None, table)
    shown = {line[1].partition("[")[2].strip("]"): dict(zip(header, line, strict=True)) for line in lines if line[1:]}
    for name, (key, value) in EXPERIMENTS.items():
        assert shown[name][key if key == "seed" else f"tiny.{key}"] == value
        assert float(shown[name]["test_miou"]) > 0
    said = dvc(project, "metrics", "diff", "HEAD", "one-clue")
    assert re.search(r"out/tiny/evaluate/headline.json\s+test_miou\s+0\.\d+\s+0\.\d+\s+-?0\.\d+", said), said


def test_the_table_has_a_row_for_each(face, link):
    face.page.set_viewport_size({"width": 2200, "height": 600})
    text = face.show(link, "comparing_table", "test_miou", *EXPERIMENTS)
    assert "6 matching runs" in " ".join(text.split())
    assert all(f"{key}={value}" in text for key, value in list(EXPERIMENTS.values())[1:])


def test_the_charts_lead_from_params_to_scores(face, link):
    face.page.set_viewport_size({"width": 1600, "height": 1000})
    text = face.show(f"{link}&compareRunsMode=CHART", "comparing_charts", "Params and scores", "Headline scores")
    face.page.wait_for_function("[...document.querySelectorAll('svg text')].some(text => text.textContent === 'ltae')")
    face.keep("comparing_charts")
    sections = re.findall(r"[A-Z]\w+ \w*? ?\w+ \(\d+\)", " ".join(text.split()))
    assert sections[:2] == ["Params and scores (1)", "Headline scores (7)"]  # ours before those of every metric


def test_maps_stand_beside_each_other(project, face, rows):
    names = [BASE, "one-clue", "ltae"]
    script(project, "compare", *(rows[name] for name in names))
    page = project / "out" / "comparison.html"
    face.page.set_viewport_size({"width": 1200, "height": 1000})
    text = face.show(page.as_uri(), "comparing_page", "Comparison of 3 results", "A whole test patch")
    assert "clues.count" in text
    assert "segmenter.kind" in text
    assert "refine.learner" not in text  # the same in these three
    assert not re.search(r"\b[0-9a-f]{40}\b", text)  # commits are short
    face.page.get_by_role("heading", name="A whole test patch").evaluate("heading => heading.scrollIntoView()")
    face.keep("comparing_maps")
