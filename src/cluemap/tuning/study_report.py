"""What a study taught: pictures, a table of its trials, one HTML page, and the lines that take its best values over."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluemap.figures import style
from cluemap.files import write_text
from cluemap.params import read_tree
from cluemap.tuning.search_space import Tuning
from cluemap.tuning.study import Row, Study

CONTOURED = 10  # trials from which on contours are drawn between them
SLICES = ("clues.count", "temporal_weighting.sharpness")  # what the study is first of all about


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write history, importances, slices, their common picture, trials.csv and report.html; gives the files."""
    rows = study.rows()
    table = trials(rows, study.tuning)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "trials.csv"]
    table.to_csv(files[0], index=False)
    files.append(_history(rows, study.tuning.scores[0], folder / "history.png"))
    importances = study.importances()
    if importances:
        files.append(_importances(importances, folder / "importances.png"))
    keys = [entry.key for entry in study.tuning.space]
    searched = [key for key in SLICES if key in keys] or keys[:2]
    files.append(_slices(rows, searched, folder / "slices.png"))
    if len(searched) == 2:
        files.append(_together(rows, searched[0], searched[1], folder / "together.png"))
    files.append(_page(study, table, [file for file in files if file.suffix == ".png"], folder / "report.html"))
    return files


def trials(rows: Sequence[Row], tuning: Tuning) -> pd.DataFrame:
    """One line a trial: number, state, scores, minutes, what failed, and every searched key."""
    lines = []
    for row in rows:
        scores = dict(zip(tuning.scores, row.values, strict=False))
        failed = (row.attributes.get("failures") or [""])[-1].strip().splitlines()[-1:]
        lines.append({
            "trial": row.number, "state": "INFEASIBLE" if row.infeasible else row.state,
            **{name: scores.get(name) for name in tuning.scores},
            "last_report": max(row.reports.items(), default=(0, None))[1],
            "minutes": round(row.attributes.get("seconds", 0.0) / 60, 2),
            "values": row.attributes.get("values", ""), "failed": "".join(failed),
            **{entry.key: row.params.get(entry.key) for entry in tuning.space},
        })  # fmt: skip
    return pd.DataFrame(lines)


def take_over(values: Mapping[str, Any], dataset: str, file: Path) -> tuple[str, str]:
    """The best values as a `dvc exp run` line and as lines for params.yaml.

    A key that the data set's block overrides is named there.
    """
    tree = read_tree(file)
    options, blocks = [], dict[str, list[str]]()
    for key, value in values.items():
        block, _, name = key.partition(".")
        plain = f"{value:.4g}" if isinstance(value, float) else str(value)
        options.append(f"-S {f'{dataset}.{key}' if name in tree[dataset][block] else key}={plain}")
        blocks.setdefault(block, []).append(f"{name}: {plain}")
    lines = [f"  {block}: {{{', '.join(names)}}}" for block, names in blocks.items()]
    return f"dvc exp run {' '.join(options)} evaluate@{dataset}", "\n".join([f"{dataset}:", *lines])


def _pruned(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Pruned trials and their last report in %."""
    return [(row, 100 * max(row.reports.items())[1]) for row in rows if row.state == "PRUNED" and row.reports]


def _complete(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.state == "COMPLETE"]


@style.house_style()
def _history(rows: Sequence[Row], score: str, path: Path) -> Path:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    ended = [(row.number, score) for row, score in _pruned(rows)]
    if ended:
        axes.plot(*zip(*ended, strict=True), "x", color=style.FAINT, label="pruned (last report)")
    done = [(row.number, 100 * row.values[0], row.attributes.get("values", "")) for row in _complete(rows)]
    if done:
        numbers, values, names = zip(*done, strict=True)
        axes.plot(numbers, values, "o", color=style.BLUE, label="finished")
        axes.step(numbers, np.maximum.accumulate(values), where="post", color=style.VERMILION, label="best so far")
        for number, value, name in zip(numbers, values, names, strict=True):
            axes.annotate(name, (number, value), (4, -12), textcoords="offset points", fontsize=8, color=style.FAINT)
        axes.legend(loc="lower right", fontsize=9)
    axes.set(xlabel="trial", ylabel=f"{score.replace('_', ' ')} (%)", title="The study, trial by trial")
    return style.save(figure, path)


@style.house_style()
def _importances(shares: Mapping[str, float], path: Path) -> Path:
    figure = Figure(figsize=(9, 0.36 * len(shares) + 1.1), layout="constrained")
    axes = figure.subplots()
    names = list(shares)[::-1]
    axes.barh(names, [100 * shares[name] for name in names], color=style.BLUE)
    axes.set(xlabel="share of the score's variation (%, fANOVA; keys that every trial has)", title="What mattered")
    axes.grid(axis="y", visible=False)
    return style.save(figure, path)


@style.house_style()
def _slices(rows: Sequence[Row], keys: Sequence[str], path: Path) -> Path:
    figure = Figure(figsize=(4.6 * len(keys), 3.8), layout="constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=True).ravel()
    for axes, key in zip(panels, keys, strict=True):
        found = [(row.params[key], 100 * row.values[0]) for row in _complete(rows) if key in row.params]
        ended = [(row.params[key], score) for row, score in _pruned(rows) if key in row.params]
        for points, sign, colour, name in ((ended, "x", style.FAINT, "pruned"), (found, "o", style.BLUE, "finished")):
            if points:
                axes.plot(*zip(*points, strict=True), sign, color=colour, alpha=0.8, label=name)
        _mean_by_value(axes, found)
        axes.set(xlabel=key, title=f"Score by {key.rpartition('.')[2]}")
    panels[0].set_ylabel("score (%)")
    if _pruned(rows):
        panels[0].legend(loc="best", fontsize=9)
    return style.save(figure, path)


def _mean_by_value(axes: Axes, found: Sequence[tuple[Any, float]]) -> None:
    """A bar at each whole number's mean."""
    if found and all(isinstance(value, int) for value, _ in found):
        for value in sorted({value for value, _ in found}):
            mean = np.mean([score for other, score in found if other == value])
            axes.plot([value - 0.25, value + 0.25], [mean, mean], color=style.VERMILION)


@style.house_style()
def _together(rows: Sequence[Row], across: str, up: str, path: Path) -> Path:
    """Two keys and the score as colour: the finished trials, and where they are many, contours between them."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    both = [row for row in _complete(rows) if {across, up} <= row.params.keys()]
    found = [(row.params[across], row.params[up], 100 * row.values[0]) for row in both]
    if found:
        x, y, score = zip(*found, strict=True)
        colours = {"cmap": "viridis", "vmin": min(score), "vmax": max(score)}
        if len(found) >= CONTOURED and min(len(set(x)), len(set(y))) > 2:
            axes.use_sticky_edges = False
            axes.tricontourf(x, y, score, levels=8, alpha=0.5, **colours)
        dots = axes.scatter(x, y, c=score, s=60, edgecolors="white", **colours)
        figure.colorbar(dots, ax=axes, label="score (%)")
    axes.set(xlabel=across, ylabel=up, title="Both together, one dot a trial")
    return style.save(figure, path)


def _page(study: Study, table: pd.DataFrame, pictures: Sequence[Path], path: Path) -> Path:
    images = "\n".join(
        f'<img alt="{file.stem}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in pictures
    )
    best = study.best()
    head = f"best {100 * best.values[0]:.2f} % in trial {best.number}" if best else "no trial has finished"
    title = html.escape(f"Study {study.name}: {study.tuning.scores[0]}, {head}")
    style_ = "body{font-family:sans-serif;max-width:70em;margin:2em auto}img{max-width:100%}td,th{padding:2px 8px}"
    best_first = table.sort_values(study.tuning.scores[0], ascending=False)
    rows = best_first.to_html(index=False, float_format=lambda value: f"{value:.4g}", na_rep="")
    page = (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{style_}</style><h1>{title}</h1>'
        f"{images}<h2>Trials</h2>{rows}\n"
    )
    write_text(path, page)
    return path
