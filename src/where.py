"""Say where the results of a pipeline are and how to look at them."""

import argparse

from cluemap.errors import CluemapError, DataError
from cluemap.files import read_json
from cluemap.paths import stage_folder
from cluemap.tracking import open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="demo")
    dataset = parser.parse_args().dataset
    folder = stage_folder(dataset, "evaluate")
    try:
        found = read_json(folder / "metrics.json")
    except DataError as error:
        raise SystemExit(f"no results yet: {error}") from None
    masks, refined, test, trees = (found[key] for key in ("pseudo_masks", "refined_masks", "test", "baselines"))
    print(f"""
{dataset}: results
  pseudo masks of the training windows   mIoU {masks["miou"]:.3f}   (at best {masks["oracle"]["miou"]:.3f})
  the same, refined under the labels     mIoU {refined["miou"]:.3f}   ({refined["decided"]:.0%} of the pixels decided)
  segmenter from image labels, test      mIoU {test["weak"]["miou"]:.3f}   trees {trees["trees"]["weak"]["miou"]:.3f}
  segmenter from true masks, test        mIoU {test["full"]["miou"]:.3f}   trees {trees["trees"]["full"]["miou"]:.3f}
  ratio                                  {found["ratio"]:.1%} of full supervision

Look at
  out/{dataset}/evaluate/figures/        validation windows, a whole patch, confusions, scores per class
  out/{dataset}/evaluate/report.html     everything on one page
  mlflow ui                              then open {links(dataset)}
  dvc metrics show                       the headline; `dvc metrics diff` after a change, `dvc exp show --only-changed`
  python src/lineage.py out/{dataset}/evaluate    what made these numbers
Type `source .venv/bin/activate` first: dvc, mlflow and python lie there.""")


def links(dataset: str) -> str:
    """Where MLflow shows the pipelines' results and the stages' runs, in the view for training."""
    try:
        store = open_store()
        return "\n                                         and  ".join(
            store.link(f"{dataset}/{kind}") for kind in ("results", "training")
        )
    except CluemapError as error:
        return f"(the run store does not answer: {error})"


if __name__ == "__main__":
    main()
