"""What each part of the search from image labels is worth (refine.start: image_labels).

Masks of the windows that keep their image labels are searched with a part switched off, a linear learner is fitted on
them (or trees, with `--learner`), and its map of a fold is scored; seeds draw other windows. A part is a constant of
training/learners/label_search.py or data/series_features.py. Needs the prepared windows of the data set.

    python bench/label_search.py --percents 10 5 --off HAZE=1000 LEAST_SHARE=0 FOLDS=1 SHRINKAGE=0.01
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
from few_labels import scored

from cluemap.data import series_features
from cluemap.data.series_features import SeriesFeatures
from cluemap.data.splits.labelled_part import with_known_labels
from cluemap.data.windows import Windows
from cluemap.params import LabelledParams
from cluemap.paths import OUT, ROOT, stage_folder
from cluemap.training.learners import label_search
from cluemap.training.learners.pixel_learners import LinearLearner, PixelLearner, trees


def put(change: str) -> str:
    """Set the constant that NAME=VALUE names -> the same for the value it had."""
    name, value = change.split("=")
    module = next((one for one in (label_search, series_features) if hasattr(one, name)), None)
    if module is None:
        raise SystemExit(f"--off: no constant is called {name}")
    before = getattr(module, name)
    setattr(module, name, type(before)(value))
    return f"{name}={before}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--prepared", type=Path, help="folder of the stage prepare (default: that of out/)")
    parser.add_argument("--percents", nargs="+", type=float, default=[10.0], help="of image labels (default: 10)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--fold", choices=["validation", "test"], default="validation")
    parser.add_argument("--learner", choices=["linear", "trees"], default="linear")
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--off", nargs="*", default=[], metavar="NAME=VALUE", help="constants, each changed alone")
    given = parser.parse_args()
    prepared = given.prepared or stage_folder(given.dataset, "prepare", OUT)
    whole = Windows.open(prepared / "windows")
    features, asked = SeriesFeatures(whole), whole.indexes(given.fold)
    for percent in given.percents:
        for change in ("", *given.off):
            before = put(change) if change else ""
            scores = []
            for seed in given.seeds:
                labelled = LabelledParams(kind="image_labels", share=percent / 100, count=0, file="", seed=seed)
                windows = with_known_labels(whole, labelled, ROOT, masks=False)
                masks, _ = label_search.searched(windows, given.starts, seed)
                learner: PixelLearner = (
                    LinearLearner(features, even=True, with_zero=True)
                    if given.learner == "linear"
                    else trees(features, 30000, seed, rounds=150, leaves=31, with_zero=True)
                )
                found = learner.fit(windows.indexes("train"), masks).maps(asked)
                scores.append(100 * float(scored(whole, given.fold, asked, found).miou))
            if change:
                put(before)
            each = ", ".join(f"{score:.1f}" for score in scores)
            print(f"{percent:g} %, {change or 'as it is'}: {np.mean(scores):.1f} ({each})", flush=True)


if __name__ == "__main__":
    main()
