"""What `windows.clear` gains and costs: the segmenter on true masks with all dates, and with those that show land.

Prepared windows are written again without the dates that the option leaves out, then train_reference runs on both, seed
by seed; mIoU on the validation and test folds, and the ratio of the trainings' CPU times. Each result is printed as it
comes; what is done is not done again.

    python bench/clear_dates.py --dataset demo --clear 0.5 --seeds 0 1 2
"""

import argparse
import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cluemap  # noqa: F401  (before torch: it says how threads wait)

# isort: split
import numpy as np

from cluemap.data.window_writer import OWN, Writer, moments
from cluemap.data.windowing import CutWindow, date_choice
from cluemap.data.windows import Windows
from cluemap.experiments.pipelines import Pipeline, write_changed
from cluemap.model.storage.trained_models import load_segmenter
from cluemap.params import load_params
from cluemap.paths import OUT, ROOT, stage_folder
from cluemap.runtime.distributed import alone
from cluemap.training.map_scores import named_map_scores
from cluemap.training.metrics import class_names
from cluemap.training.segmenter_task import counts_on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["demo"])
    parser.add_argument("--clear", type=float, default=0.5, help="the option's value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prepared", type=Path, default=OUT, help="folder of <data set>/prepare")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--out", type=Path, default=OUT / "clear_dates")
    given = parser.parse_args()
    for seed in given.seeds:
        for dataset in given.dataset:
            for clear in (0.0, given.clear):
                folder = given.out / f"{dataset}_{clear}_{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                changes = {"seed": seed, "windows.clear": clear}
                write_changed(given.params, dataset, changes, folder / "params.yaml")
                prepared = stage_folder(dataset, "prepare", given.prepared)
                if clear:
                    prepared = without_unclear(prepared, folder, dataset, given.out / f"{dataset}_{clear}")
                print(json.dumps(trained(Pipeline(dataset, folder, prepared), clear, seed)), flush=True)


def without_unclear(prepared: Path, folder: Path, dataset: str, out: Path) -> Path:
    """The same windows, written again with the dates that params keep."""
    if (out / "windows" / "card.json").exists():
        return out
    windows, params = Windows.open(prepared / "windows"), load_params(dataset, folder / "params.yaml").windows
    choice = date_choice(params, windows.card.legend)
    (out / "windows").mkdir(parents=True)
    writer = Writer(out / "windows", windows.card.legend, windows.card.size, params.presence)
    masks = {split: windows.masks(split) for split in windows.card.counts}
    for index, row in windows.table.iterrows():
        images, days, valid = windows.series(int(index))  # type: ignore[call-overload]
        kept = choice.kept(images, valid)
        own = {name: row[name] for name in OWN}
        mask = masks[row["split"]][windows.mask_row[index]]
        labels = windows.image_labels[index]
        images = np.ascontiguousarray(images[kept])
        made = CutWindow(**own, images=images, days=days[kept], valid=valid[kept], mask=mask, labels=labels)
        writer.add(made, moments(made.images))
    writer.finish(dataset, choice)
    return out


def trained(pipeline: Pipeline, clear: float, seed: int) -> dict[str, object]:
    """Scores, dates a window, and CPU seconds of the training (where it ran now)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    pipeline.run(["train_reference"])
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    windows = Windows.open(pipeline.prepared / "windows")
    model = stage_folder(pipeline.dataset, "train_reference", pipeline.folder) / "model" / "segmenter.safetensors"
    network, card = load_segmenter(model)
    params = load_params(pipeline.dataset, pipeline.params_file)
    names = class_names(card.legend)
    test = named_map_scores(counts_on(network, windows, "test", params, alone()), names)["miou"]
    validation = pipeline.metrics("train_reference")["validation"]["miou"]
    scores = {"validation": round(100 * validation, 1), "test": round(100 * test, 1)}
    dates = round(float(windows.dates.mean()), 1)
    return {"dataset": pipeline.dataset, "clear": clear, "seed": seed, **scores, "dates": dates, "seconds": seconds}


if __name__ == "__main__":
    main()
