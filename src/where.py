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
    masks, refined, test = (found[key] for key in ("pseudo_masks", "refined_masks", "test"))
    trees = found["baselines"]["trees"]
    print(f"""
{dataset}: results
  pseudo masks of the training windows   mIoU {said(masks["miou"])}   (at best {said(masks["oracle"]["miou"])})
  the same, refined under the labels     mIoU {said(refined["miou"])}   ({refined["decided"]:.0%} of the pixels decided)
  segmenter from image labels, test      mIoU {said(test["weak"]["miou"])}   trees {said(trees["weak"]["miou"])}
  segmenter from true masks, test        mIoU {said(test["full"]["miou"])}   trees {said(trees["full"]["miou"])}
  ratio                                  {said(found["ratio"], ".1%")} of full supervision

Look at
  out/{dataset}/evaluate/figures/        validation windows, a whole patch, confusions, scores per class
  out/{dataset}/evaluate/report.html     everything on one page
  mlflow ui                              then open {links(dataset)}
  dvc metrics show                       the headline; `dvc metrics diff` after a change, `dvc exp show --only-changed`
  python src/lineage.py out/{dataset}/evaluate    what made these numbers
Type `source .venv/bin/activate` first: dvc, mlflow and python lie there.""")


def said(score: float | None, form: str = ".3f") -> str:
    """A score in words: data without true labels has none (null in metrics.json)."""
    return "none" if score is None else format(score, form)


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
