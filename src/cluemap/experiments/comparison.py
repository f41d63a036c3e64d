"""Two or more results beside each other on one page: params that differ, scores with their differences, maps."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluemap.errors import DataError, TrackingError
from cluemap.figures.report import write_report
from cluemap.figures.side_by_side import beside
from cluemap.tracking.metric_names import metric_name
from cluemap.tracking.store.ui_views import METRICS

CLASSES = "test/weak/iou/"  # scores per class of the segmenter taught by pseudo masks
MAPS = {"patch.png": "A whole test patch", "validation_windows.png": "Validation windows"}
HEADLINE = METRICS["results"]  # these scores first, as in MLflow's table
NAMES = "ABCDEFGHIJ"
Runs = Mapping[str, Any]  # letter -> tracking.store.RunRecord


def compare(store: Any, names: Sequence[str], file: Path) -> Path:
    """Write the page; `names` are ids of runs of stage evaluate (the rows of `<data set>/results`).

    Raises:
        DataError: fewer than two or more than ten runs. TrackingError: a run is unknown, or is no result.
    """
    if not 2 <= len(set(names)) <= len(NAMES):
        raise DataError(f"{len(set(names))} runs to compare: give two to {len(NAMES)} rows of `<data set>/results`")
    runs = dict(zip(NAMES, map(store.run, dict.fromkeys(names)), strict=False))
    for run in runs.values():
        if "test_miou" not in run.metrics:
            raise TrackingError(f"{run.id} is a run of {run.name} without test scores: give runs of stage evaluate")
    with TemporaryDirectory() as folder:
        sections = [_runs(runs), _params(runs), _headline(runs), _classes(runs), *_maps(store, runs, Path(folder))]
        title = f"Comparison of {len(runs)} results"
        return write_report({"title": title, "sections": [one for one in sections if one["parts"]]}, file)


def differing(runs: Runs) -> list[list[Any]]:
    """Rows: a param, and its value in every run; only those that are not the same everywhere."""
    keys = sorted({key for run in runs.values() for key in run.params})
    rows = [[key, *(run.params.get(key) for run in runs.values())] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def scores(runs: Runs, metrics: Mapping[str, str]) -> list[list[Any]]:
    """Rows: what is scored (shown name -> metric), the first run's score, then each other's score and its gain."""
    rows = []
    for shown, metric in metrics.items():
        first, *others = [run.metrics.get(metric, math.nan) for run in runs.values()]
        pairs = [[score, f"{score - first:+.4f}" if math.isfinite(score - first) else None] for score in others]
        rows.append([shown, first, *(cell for pair in pairs for cell in pair)])
    return rows


def _columns(runs: Runs, what: str) -> list[str]:
    first, *others = runs
    return [what, first, *(name for letter in others for name in (letter, f"{letter} \N{MINUS SIGN} {first}"))]


def _runs(runs: Runs) -> dict[str, Any]:
    kept = ("dvc.experiment", "git.commit", "git.dirty")
    rows = [
        [letter, run.name, run.id, run.experiment, *(_short(run.tags.get(tag)) for tag in kept)]
        for letter, run in runs.items()
    ]
    columns = ["", "name", "run", "experiment", "DVC experiment", "commit", "changed since"]
    return {"title": "Runs", "parts": [{"kind": "table", "columns": columns, "rows": rows}]}


def _short(tag: str | None) -> str | None:
    """A commit by its first seven digits, as git and DVC show it."""
    return tag[:7] if tag and re.fullmatch("[0-9a-f]{40}", tag) else tag


def _params(runs: Runs) -> dict[str, Any]:
    rows = differing(runs)
    table = {"kind": "table", "columns": ["param", *runs], "rows": rows}
    return {
        "title": "Params that differ",
        "parts": [table if rows else {"kind": "text", "text": "All params are the same."}],
    }


def _headline(runs: Runs) -> dict[str, Any]:
    found = sorted({name for run in runs.values() for name in run.metrics if "/" not in name})
    names = [name for name in HEADLINE if name in found] + [name for name in found if name not in HEADLINE]
    rows = scores(runs, {name: name for name in names})
    return {"title": "Scores", "parts": [{"kind": "table", "columns": _columns(runs, "score"), "rows": rows}]}


def _classes(runs: Runs) -> dict[str, Any]:
    found = sorted({name for run in runs.values() for name in run.metrics if name.startswith(CLASSES)})
    rows = scores(runs, {name.removeprefix(CLASSES): metric_name(name) for name in found})
    table = {"kind": "table", "columns": _columns(runs, "class"), "rows": rows, "caption": "Test IoU per class"}
    return {"title": "Classes", "parts": [table] if rows else []}


def _maps(store: Any, runs: Runs, folder: Path) -> list[dict[str, Any]]:
    """A section for each map that every run keeps, the runs' pictures side by side."""
    kept = {letter: set(store.files(run.id, "figures")) for letter, run in runs.items()}
    sections = []
    for name, title in MAPS.items():
        if not all(f"figures/{name}" in files for files in kept.values()):
            continue
        pictures = []
        for letter, run in runs.items():
            (folder / letter).mkdir(exist_ok=True)
            pictures.append(store.fetch(run.id, f"figures/{name}", folder / letter))
        joined = beside(pictures, list(runs), folder / name)
        sections.append({"title": title, "parts": [{"kind": "picture", "file": str(joined), "alt": title}]})
    return sections
