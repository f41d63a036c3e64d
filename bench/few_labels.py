"""Few masks and much imagery: the methods of the ablation side by side, on the test fold and on land kept out.

Each run trains one segmenter on the true masks of `--windows` training windows (src/ablate.py does the same through
the stages); the last weights count, nothing is chosen. To choose settings, `--fold validation`. `--kept-out TILE`: no
window of that tile is learned from, with or without its labels, and the windows there are scored apart. Prints a line a
run, then the means; `--json` keeps all runs, and those that it holds already are not run again; `--figure` draws the
score against the number of windows. Needs the prepared windows of the data set.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
from numpy.typing import NDArray

from cluemap.data.splits.labelled_part import even_order, with_known_labels
from cluemap.data.windows import Windows
from cluemap.experiments.few_labels import METHODS
from cluemap.experiments.pipelines import write_changed
from cluemap.figures import learning_curve
from cluemap.model.storage import checkpoints
from cluemap.params import Params, load_params
from cluemap.paths import OUT, ROOT, stage_folder
from cluemap.runtime import distributed
from cluemap.stages.evaluate import maps_of
from cluemap.tracking import NoRun
from cluemap.training.context_task import segmenter_training
from cluemap.training.metrics import Ids, confusion, scores
from cluemap.training.semisupervised.mixed_data import MixedData, segmenter_data
from cluemap.training.task import Settings
from cluemap.training.trainer import Trainer


def run(method: str, count: int, seed: int, given: argparse.Namespace, whole: Windows) -> dict[str, float]:
    """mIoU and accuracy on the fold; `_here` and `_there` without and with the land kept out."""
    away = whole.table["tile"].to_numpy(object) == given.kept_out
    with tempfile.TemporaryDirectory() as folder:
        params = changed(method, count, seed, given, whole, away, Path(folder))
        windows = with_known_labels(whole, params.labelled, ROOT)
        ranks = distributed.alone()
        task, _ = segmenter_training(windows, params, ranks)
        data = segmenter_data(windows, windows.masks("train"), params, ranks)
        if isinstance(data, MixedData):
            data = replace(data, unlabelled=data.unlabelled[~away[data.unlabelled]])
        settings = Settings(params.segmenter, params.compute, params.checkpoint, seed, {})
        begun = time.monotonic()
        trained = Trainer(task, data, settings, ranks, NoRun(), Path(folder) / "state").train()
        seconds = time.monotonic() - begun
        task.network.load_state_dict(checkpoints.split(trained, "network/"))
        task.network.eval()
        found = {"seconds": seconds, **{name.removeprefix("teacher/"): value for name, value in task.points().items()}}
        fold = windows.indexes(given.fold)
        parts = {"": fold} if given.kept_out is None else {"_here": fold[~away[fold]], "_there": fold[away[fold]]}
        for name, indexes in parts.items():
            result = scored(windows, given.fold, indexes, maps_of(task.published, windows, indexes, params, ranks))
            found |= {f"miou{name}": float(result.miou), f"accuracy{name}": float(result.overall_accuracy)}
        return found


def changed(
    method: str, count: int, seed: int, given: argparse.Namespace, whole: Windows, away: NDArray[np.bool_], folder: Path
) -> Params:
    """The data set's params with the method's; the labelled windows are drawn from the land that is not kept out."""
    train = whole.indexes("train")
    near = train[~away[train]]
    kept = near[even_order(whole.image_labels[near], seed)[:count]]
    (folder / "kept.txt").write_text("\n".join(whole.table["name"].iloc[kept]))
    changes = {"labelled.kind": "masks", "labelled.file": str(folder / "kept.txt"), "seed": seed, **METHODS[method][1]}
    changes |= {"segmenter.select": "last"}
    if given.steps:
        changes |= {"segmenter.steps": given.steps}
    if given.batch:
        changes |= {"segmenter.batch": given.batch}
    if given.ratio and method != "alone":
        changes |= {"semisupervised.ratio": given.ratio}
    write_changed(ROOT / "params.yaml", given.dataset, changes, folder / "params.yaml")
    params = load_params(given.dataset, folder / "params.yaml")
    course = params.segmenter.model_copy(update={"validate_every": params.segmenter.steps})
    return params.model_copy(update={"segmenter": course})


def scored(windows: Windows, fold: str, indexes: NDArray[np.int64], maps: NDArray[np.uint8]):
    legend = windows.card.legend
    truth = windows.masks(fold)[windows.mask_row[indexes]]
    return scores(confusion(truth, maps, Ids(len(legend.classes), legend.background)))


class Finished:
    """Runs that are kept in a file (None: in memory alone), so that none is made twice."""

    def __init__(self, file: Path | None):
        self.file = file
        self.runs: dict[str, dict[str, float]] = json.loads(file.read_text()) if file and file.exists() else {}

    def get(self, name: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The run of this name, made and kept where it is not there yet; printed."""
        if name not in self.runs:
            self.runs[name] = make()
            if self.file:
                self.file.write_text(json.dumps(self.runs, indent=1))
        print(name, {key: round(value, 3) for key, value in self.runs[name].items()}, flush=True)
        return self.runs[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--prepared", type=Path, help="folder of the stage prepare (default: that of out/)")
    parser.add_argument("--windows", nargs="+", type=int, default=[30], help="windows with masks (default: 30)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kept-out", help="a tile of the table of windows")
    parser.add_argument("--steps", type=int, help="of every training (default: the data set's)")
    parser.add_argument("--batch", type=int, help="labelled windows a step (default: the data set's)")
    parser.add_argument("--ratio", type=int, help="unlabelled windows for a labelled one (default: the data set's)")
    parser.add_argument("--fold", choices=["test", "validation"], default="test", help="scored (default: test)")
    parser.add_argument("--json", type=Path, help="file of the runs")
    parser.add_argument("--figure", type=Path, help="the learning curve, a PNG")
    given = parser.parse_args()
    windows = Windows.open((given.prepared or stage_folder(given.dataset, "prepare", OUT)) / "windows")
    kept = Finished(given.json)
    curves: dict[str, dict[int, list[float]]] = {}
    for count in given.windows:
        print(f"{count} windows with masks")
        for method, runs in table(count, given, windows, kept).items():
            words = METHODS[method][0]
            print(f"{words}: {summary(runs)}", flush=True)
            curves.setdefault(words, {})[count] = [one.get("miou", one.get("miou_here", 0.0)) for one in runs]
    if given.figure:
        learning_curve(curves, given.figure, f"Windows with masks, and the score on the {given.fold} fold")


def table(count: int, given: argparse.Namespace, windows: Windows, kept: Finished) -> dict[str, list[dict[str, float]]]:
    """What each method's runs found, a seed each; `kept` holds those that are finished."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in given.seeds:
        for method in given.methods:
            sizes = f"{given.steps} {given.batch} {given.ratio} {given.fold}"
            name = f"{given.dataset} {count} {given.kept_out} {sizes} {method} {seed}"
            found.setdefault(method, []).append(kept.get(name, partial(run, method, count, seed, given, windows)))
    return found


def summary(runs: list[dict[str, float]]) -> str:
    """Means and standard deviations in %, and the seconds of a training."""
    cells = percents([{k: v for k, v in one.items() if k not in ("seconds", "threshold")} for one in runs])
    return f"{cells}; {mean(one['seconds'] for one in runs):.0f} s a training"


def percents(runs: list[dict[str, float]]) -> str:
    """Mean and standard deviation of every value, in %."""
    cells = []
    for key in runs[0]:
        values = [one[key] for one in runs]
        cells.append(f"{key} {100 * mean(values):.1f} ± {100 * (stdev(values) if len(values) > 1 else 0.0):.1f}")
    return ", ".join(cells)


if __name__ == "__main__":
    main()
