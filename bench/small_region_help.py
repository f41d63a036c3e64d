"""What helps a network on a small region? The segmenter again with one key changed, on folds of bench/small_region.py.

Takes over the pseudo masks of each fold (DIR of small_region.py --out) and trains the segmenter on them. Prints mIoU
and accuracy of the validation fold by variant: mean over the folds, and how many of them are better than as it was.
Goes on where it was stopped.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]
os.environ["CLUEMAP_TRACKING"] = "off"

import pandas as pd  # noqa: E402
from small_region import write_params  # noqa: E402

from cluemap.experiments.pipelines import Pipeline, make_pipeline  # noqa: E402

NAME, STAGE, BEFORE = "small", "train_segmenter", ("make_cams", "make_masks", "refine_masks")
VARIANTS: dict[str, dict[str, Any]] = {
    "as it was": {},
    "class_weights 0.5": {"segmenter.class_weights": 0.5},
    "balanced 0.5": {"segmenter.balanced": 0.5},
    "tsvit": {"segmenter.kind": "tsvit"},
    "more augmentation": {"augmentation.shifted_days": 5, "augmentation.band_gain": 0.05, "augmentation.light": 0.05},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of bench/small_region.py")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--init", type=Path, help="a trained segmenter to start from, as one more variant")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS)[1:], default=list(VARIANTS)[1:])
    given = parser.parse_args()
    variants = {name: VARIANTS[name] for name in ("as it was", *given.variants)}
    variants |= {"init": {"segmenter.init": str(given.init.resolve())}} if given.init else {}
    region, rows = given.out / "help" / "region", []
    region.parent.mkdir(exist_ok=True)
    if not region.exists():
        region.symlink_to((given.out / "region").resolve())
    params = write_params(region, 1.0)
    for fold in given.folds:
        for name, changes in variants.items():
            scores = score(given.out, params, fold, name, changes)
            rows.append((fold, name, scores["miou"], scores["accuracy"]))
            print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["fold", "variant", "mIoU", "accuracy"])
    wide = table.pivot(index="variant", columns="fold", values="mIoU").loc[list(variants)]
    means = table.groupby("variant", sort=False)[["mIoU", "accuracy"]].mean()
    means["better folds"] = (wide > wide.loc["as it was"]).sum(axis=1)
    print(means.to_string(float_format="{:.3f}".format))


def score(out: Path, params: Path, fold: int, name: str, changes: dict[str, Any]) -> dict[str, float]:
    """The validation scores of one variant on one fold."""
    folder = out / "out" / NAME / "crossvalidate" / f"fold_{fold}"
    base = Pipeline(NAME, folder, folder / NAME / "prepare")
    if not changes:
        return base.metrics(STAGE)["validation"]
    mine = out / "help" / name.replace(" ", "_") / f"fold_{fold}"
    variant = make_pipeline(NAME, mine, base.prepared, {"windows.fold": fold, **changes}, params)
    variant.take(base, BEFORE)
    variant.run([STAGE])
    return variant.metrics(STAGE)["validation"]


if __name__ == "__main__":
    main()
