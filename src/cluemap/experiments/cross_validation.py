"""The whole pipeline on each of five splits, the test predictions pooled: what src/crossvalidate.py does."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluemap.data.image_labels import FOLDS
from cluemap.data.readers import open_reader
from cluemap.errors import DataError, ParamsError, TrackingError
from cluemap.experiments.cross_validation_report import CrossValidated, headline, scored, write_tables
from cluemap.experiments.pipelines import Pipeline, make_pipeline, run_all
from cluemap.experiments.pooled_predictions import predictions
from cluemap.files import read_json, write_json
from cluemap.params import Params, load_params
from cluemap.paths import STAGES, stage_folder, state_folder
from cluemap.runtime.distributed import Ranks
from cluemap.tracking import Run, made_by, open_run, open_store
from cluemap.tracking.provenance import command, provenance
from cluemap.tracking.row_names import row_name

NAME = "crossvalidate"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What to cross-validate, and how."""

    dataset: str
    params: Path
    out: Path  # folder of all outputs; the folds lie in <out>/<data set>/crossvalidate
    folds: tuple[int, ...] = tuple(range(1, FOLDS + 1))
    jobs: int = 1
    resample: str = "blocks"  # blocks | fields: what the intervals draw again
    draws: int = 1000

    @property
    def folder(self) -> Path:
        return stage_folder(self.dataset, NAME, self.out)


def cross_validate(order: Order, ranks: Ranks) -> CrossValidated:
    """Run (or resume) the folds, pool their test predictions, write tables, report and one tracked row.

    Raises:
        ParamsError: a data set whose split has no folds. DataError: nothing to score. StageFailed: see `run_all`.
    """
    params = load_params(order.dataset, order.params)
    if params.source.format == "mtlcc":
        raise ParamsError(
            f"{order.dataset} has lists of tiles, not five folds: cross-validation is for PASTIS and scenes"
        )
    if len(set(order.folds)) < 2:
        raise DataError(f"--folds {' '.join(map(str, order.folds))}: give two folds or more")
    open_reader(params)  # what is wrong with the data is said before anything runs
    folds = [_pipeline(order, fold) for fold in order.folds]
    run_all([(fold, STAGES) for fold in folds], order.jobs)
    found = predictions(params, [fold.folder for fold in folds], ranks)
    result = scored(found, folds[0], order.resample, order.draws, params.seed)
    _record(order, params, folds, result)
    return result


def _pipeline(order: Order, fold: int) -> Pipeline:
    folder = order.folder / f"fold_{fold}"
    prepared = stage_folder(order.dataset, "prepare", folder)
    return make_pipeline(order.dataset, folder, prepared, {"windows.fold": fold}, order.params)


def _record(order: Order, params: Params, folds: Sequence[Pipeline], result: CrossValidated) -> None:
    """Write the outputs; a new row in `<data set>/results` unless the folds' runs are those of the last one."""
    runs = {fold.folder.name: made_by(stage_folder(order.dataset, "evaluate", fold.folder)) for fold in folds}
    files = write_tables(result, order.folder, params)
    card = order.folder / "run.json"
    if card.exists() and read_json(card).get("upstream") == runs:
        write_json(order.folder / "metrics.json", headline(result))
        return
    tags = {
        **provenance(order.dataset, NAME, [params.raw]), "command": command(),
        "mlflow.runName": f"cross-validation of {len(folds)} folds: {row_name(params)}",
    }  # fmt: skip
    journal = state_folder(order.dataset, NAME, order.out) / "journal.jsonl"
    with open_run(f"{order.dataset}/results", NAME, params.flat(), journal, tags, runs) as run:
        for file in files:
            run.artifact(file)
        run.tags({"mlflow.note.content": _story(result, runs)})
        run.result(order.folder, headline(result))
        if isinstance(run, Run) and run.id:
            _adopt(run.id, runs)


def _adopt(parent: str, runs: dict[str, str | None]) -> None:
    """Make the folds' rows children of the pooled one."""
    try:
        store = open_store()
        for run in runs.values():
            if run and not run.startswith("key:"):
                store.batch(run, tags={"mlflow.parentRunId": parent})
    except TrackingError as error:
        log.warning("the folds' rows were not put under the pooled one: %s", error)


def _story(result: CrossValidated, runs: dict[str, Any]) -> str:
    links = [f"- {name}: [{run}](#/runs/{run})" for name, run in runs.items() if run and not run.startswith("key:")]
    return "\n".join([result.sentence, "", "Pooled from", *links])
