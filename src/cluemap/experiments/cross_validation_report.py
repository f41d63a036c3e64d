"""Scores of a cross-validation as tables, one page and a few headline numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cluemap.data.windows import Windows
from cluemap.experiments.pipelines import Pipeline
from cluemap.experiments.pooled_predictions import MAJORITY, Predictions
from cluemap.figures.report import write_report
from cluemap.files import atomic
from cluemap.params import Params
from cluemap.statistics.pooled_scores import LEVELS, Pooled, confusion_of, draws, lead, pooled, score_table
from cluemap.training.metrics import VOID, Ids, class_names

FIRST = "segmenter_weak"  # the model that the others are held against
KINDS = {"weak": "image labels", "full": "true masks"}
SHORT = ("overall accuracy", "balanced accuracy", "mIoU")


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """Everything the report shows."""

    names: list[str]  # of the classes, in the confusions' order
    models: dict[str, Pooled]
    table: pd.DataFrame  # model, level, measure, class, value, low, high
    leads: pd.DataFrame  # model, level, value, low, high: mIoU above FIRST's
    fields: pd.DataFrame  # one row a field: its class, and what each model says most of it is
    units: int  # that were drawn again
    resample: str

    def value(self, model: str, measure: str = "mIoU", level: str = "pixels") -> tuple[float, float, float]:
        """A score of the whole and its interval."""
        table = self.table
        rows = (table["model"] == model) & (table["level"] == level) & (table["measure"] == measure)
        one = table[rows & (table["class"] == "")].iloc[0]
        return float(one["value"]), float(one["low"]), float(one["high"])

    @property
    def sentence(self) -> str:
        return (
            f"Pooled over the folds: accuracy of {said(FIRST)} {_margin(self.value(FIRST, SHORT[0]))}, of "
            f"{said('trees_weak')} {_margin(self.value('trees_weak', SHORT[0]))}, of the majority class "
            f"{_margin(self.value(MAJORITY, SHORT[0]))} (95 % intervals over {self.units} {self.resample})."
        )


def said(model: str) -> str:
    """A model's name in words."""
    name, _, kind = model.rpartition("_")
    return f"{name}, {KINDS[kind]}" if kind in KINDS else model


def scored(found: Predictions, fold: Pipeline, resample: str, count: int, seed: int) -> CrossValidated:
    """Count, score and draw again. `fold`: any of the pipelines, for its classes.

    Raises:
        DataError: no test pixel is labelled.
    """
    legend = Windows.open(fold.prepared / "windows").card.legend
    ids, names = Ids(len(legend.classes), legend.background), class_names(legend)
    unit = found.block if resample == "blocks" else np.where(found.field >= 0, found.field, -1 - found.block)
    models = {name: pooled(found.truth, one, found.field, unit, ids) for name, one in found.models.items()}
    weights = draws(int(models[FIRST].unit.max()) + 1, count, seed)
    tables = [score_table(one, names, weights).assign(model=name) for name, one in models.items()]
    leads = [
        (name, level, *lead(one, models[FIRST], level, "miou", weights))
        for name, one in models.items() if name != FIRST for level in LEVELS
    ]  # fmt: skip
    return CrossValidated(
        names, models, pd.concat(tables)[["model", "level", "measure", "class", "value", "low", "high"]],
        pd.DataFrame(leads, columns=["model", "level", "value", "low", "high"]),
        _fields(found, names, ids), weights.shape[1], resample,
    )  # fmt: skip


def headline(result: CrossValidated) -> dict[str, Any]:
    """The columns of the table of results, and every score of the whole with its interval."""
    weak, full = result.value(FIRST)[0], result.value("segmenter_full")[0]
    scores = {
        model: {
            level: {
                measure: dict(zip(("value", "low", "high"), result.value(model, measure, level), strict=True))
                for measure in SHORT
            }
            for level in LEVELS
        }
        for model in result.models
    }
    return {
        "test_miou": weak, "reference_miou": full, "ratio": weak / full if full else float("nan"),
        "test_accuracy": result.value(FIRST, SHORT[0])[0],
        **{f"{model.removesuffix('_weak')}_miou": result.value(model)[0]
           for model in result.models if model.endswith("_weak") and model != FIRST},
        "pooled": scores,
    }  # fmt: skip


def write_tables(result: CrossValidated, folder: Path, params: Params) -> list[Path]:
    """Write scores.csv, leads.csv, fields.csv, a confusion a model and level, and report.html."""
    tables = {"scores": result.table, "leads": result.leads, "fields": result.fields}
    for model, one in result.models.items():
        for level in LEVELS:
            tables[f"confusion_{model}_{level}"] = _confusion(confusion_of(one, level), result.names)
    files = [folder / f"{name}.csv" for name in tables]
    for file, table in zip(files, tables.values(), strict=True):
        with atomic(file) as temporary:
            table.to_csv(temporary, index=False)
    return [write_report(_page(result, params), folder / "report.html"), *files]


def describe(result: CrossValidated) -> str:
    """The table for the terminal: models by pixel and field level."""
    rows = [
        {"model": said(model), **{f"{measure}, {level}": _margin(result.value(model, measure, level))
                                  for level in LEVELS for measure in SHORT[::2]}}
        for model in result.models
    ]  # fmt: skip
    note = f"95 % intervals from drawing {result.units} {result.resample} again"
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{note}"


def _page(result: CrossValidated, params: Params) -> dict[str, Any]:
    sections = [{"title": "Models", "parts": [_models(result), _leads(result)]}]
    for level in LEVELS:
        parts = [_classes(result, level), *(_matrix(result, model, level) for model in (FIRST, "trees_weak"))]
        sections.append({"title": f"Classes, by {level}", "parts": parts})
    sections.append({"title": "Params", "parts": [{"kind": "values", "values": params.model_dump(mode="json")}]})
    return {"title": f"cluemap: {params.dataset}, cross-validated", "subtitle": result.sentence, "sections": sections}


def _models(result: CrossValidated) -> dict[str, Any]:
    columns = ["model", *(f"{measure}, {level}" for level in LEVELS for measure in SHORT)]
    rows = [
        [said(model), *(_margin(result.value(model, measure, level)) for level in LEVELS for measure in SHORT)]
        for model in result.models
    ]
    caption = (
        f"Test predictions of all folds together, with 95 % intervals from drawing {result.units} {result.resample} "
        "again. A field counts as the class that most of its pixels are given."
    )
    return {"kind": "table", "columns": columns, "rows": rows, "caption": caption}


def _leads(result: CrossValidated) -> dict[str, Any]:
    rows = [[said(one.model), one.level, _margin((one.value, one.low, one.high))] for one in result.leads.itertuples()]
    caption = f"mIoU above that of {said(FIRST)}: an interval that holds 0 tells no difference."
    return {"kind": "table", "columns": ["model", "level", "lead"], "rows": rows, "caption": caption}


def _classes(result: CrossValidated, level: str) -> dict[str, Any]:
    table = result.table[(result.table["model"] == FIRST) & (result.table["level"] == level)]
    measures = [name for name in table["measure"].unique() if name not in SHORT]
    rows = []
    for name in result.names:
        own = table[table["class"] == name].set_index("measure")
        rows.append([name, *(_margin(tuple(own.loc[m, ["value", "low", "high"]])) for m in measures)])
    caption = f"{said(FIRST)}. Without a mistake in a class its interval says what so few fields can prove."
    return {"kind": "table", "columns": ["class", *measures], "rows": rows, "caption": caption}


def _matrix(result: CrossValidated, model: str, level: str) -> dict[str, Any]:
    table = _confusion(confusion_of(result.models[model], level), result.names)
    rows = [list(row) for row in table.itertuples(index=False)]
    caption = f"{said(model)}: {level}, rows true, columns predicted."
    return {"kind": "table", "columns": list(table.columns), "rows": rows, "caption": caption}


def _confusion(counts: NDArray[np.int64], names: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(counts, columns=[*names, "none"])
    table.insert(0, "true \\ predicted", names)
    return table if table["none"].any() else table.drop(columns="none")


def _fields(found: Predictions, names: list[str], ids: Ids) -> pd.DataFrame:
    known = found.field >= 0
    fields, which = np.unique(found.field[known], return_inverse=True)
    texts = np.array([*names, ""])

    def most(values: NDArray[np.uint8]) -> NDArray:
        column = np.where(values == VOID, ids.size, values.astype(np.int64) - ids.first)
        flat = np.bincount(which.reshape(-1) * (ids.size + 1) + column, minlength=len(fields) * (ids.size + 1))
        return texts[flat.reshape(len(fields), -1).argmax(axis=1)]

    table = pd.DataFrame({"field": fields, "pixels": np.bincount(which.reshape(-1)), "class": most(found.truth[known])})
    return table.assign(**{name: most(one[known]) for name, one in found.models.items()})


def _margin(figure: tuple[float, ...]) -> str:
    value, low, high = figure
    return "-" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"
