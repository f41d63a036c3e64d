"""Few image labels: masks and maps from a share of them, from the labelled part alone or by teacher and student.

Each run goes through the stages train_classifier to train_segmenter (as src/ablate.py, without the upper bound and the
baselines). Methods: `alone`; `segmenter`: the segmenter has a teacher; `teacher`: the classifier has one too;
`searched` and `searched_teacher`: the rounds of refine_masks start from the image labels, without or with a teacher of
the segmenter. Every seed draws other windows. Prints mIoU of the refined masks of the labelled windows, and of the
segmenter on the fold; `--json` keeps finished runs. Needs the prepared windows of the data set. Methods that share a
classifier share its masks: they are made once.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from few_labels import Finished, percents

from cluemap.data.splits.labelled_part import with_known_labels
from cluemap.data.windows import Windows
from cluemap.experiments.few_labels import IMAGE_LABEL_METHODS
from cluemap.experiments.pipelines import Pipeline, write_changed
from cluemap.model.storage.trained_models import SEGMENTER, load_segmenter
from cluemap.params import load_params
from cluemap.paths import OUT, ROOT, stage_folder
from cluemap.runtime import distributed
from cluemap.training.segmenter_task import score_on

CLUE_MASKS = ("train_classifier", "make_cams", "make_masks")


def run(
    method: str, percent: float, seed: int, given: argparse.Namespace, prepared: Path, place: Path
) -> dict[str, float]:
    """Of the whole chain of stages; `place` keeps the clue masks for the next method that has the same classifier."""
    changes = {
        "seed": seed,
        "labelled.seed": seed,
        "labelled.kind": "image_labels",
        "labelled.share": percent / 100,
        **IMAGE_LABEL_METHODS[method][1],
    }
    changes |= {key: json.loads(value) for key, value in (one.split("=") for one in given.change)}
    if percent == 100:
        changes["labelled.share"] = 1.0
    taught = "taught" if method == "teacher" and percent < 100 else "plain"
    with tempfile.TemporaryDirectory() as folder:
        clue_masks = Pipeline(given.dataset, place / f"{percent:g}_{seed}_{taught}", prepared)
        own = Pipeline(given.dataset, Path(folder), prepared)
        for one in (clue_masks, own):
            one.folder.mkdir(exist_ok=True)
            write_changed(ROOT / "params.yaml", given.dataset, changes, one.params_file)
        clue_masks.run(CLUE_MASKS)
        own.take(clue_masks, CLUE_MASKS)
        own.run(("refine_masks", "train_segmenter"))
        params = load_params(given.dataset, own.params_file)
        windows = with_known_labels(Windows.open(prepared / "windows"), params.labelled, ROOT, masks=False)
        model = stage_folder(given.dataset, "train_segmenter", own.folder) / "model" / SEGMENTER
        network, _ = load_segmenter(model, windows)
        found = score_on(network, windows, given.fold, params, distributed.alone())
        classifier = own.metrics("train_classifier")["validation"]
        return {
            "miou": float(found.miou),
            "accuracy": float(found.overall_accuracy),
            "refined": own.metrics("refine_masks")["train"]["miou"],
            "clue": own.metrics("make_masks")["sources"]["clue"]["train"]["miou"],
            "precision": classifier["mean_average_precision"],
            "validation_clue": classifier["clue_cam_miou_fixed"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--prepared", type=Path, help="folder of the stage prepare (default: that of out/)")
    parser.add_argument("--percents", nargs="+", type=float, default=[10.0], help="of image labels (default: 10)")
    parser.add_argument("--methods", nargs="+", choices=list(IMAGE_LABEL_METHODS), default=list(IMAGE_LABEL_METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--change", nargs="*", default=[], metavar="KEY=VALUE", help="of params")
    parser.add_argument("--fold", choices=["test", "validation"], default="test", help="scored (default: test)")
    parser.add_argument("--json", type=Path, help="file of the runs")
    given = parser.parse_args()
    prepared = (given.prepared or stage_folder(given.dataset, "prepare", OUT)).resolve()
    kept = Finished(given.json)
    with tempfile.TemporaryDirectory() as place:
        for percent in given.percents:
            found: dict[str, list[dict[str, float]]] = {method: [] for method in given.methods}
            for seed in given.seeds:
                for method in given.methods:
                    of = f"{given.dataset} {percent:g} % drawn by seed"
                    name = f"{of} {given.fold} {' '.join(given.change)} {method} {seed}"
                    one = partial(run, method, percent, seed, given, prepared, Path(place))
                    found[method].append(kept.get(name, one))
            for method, runs in found.items():
                print(f"{percent:g} % of image labels, {method}: {percents(runs)}", flush=True)


if __name__ == "__main__":
    main()
