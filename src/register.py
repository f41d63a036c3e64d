"""Say which runs the outputs came from, and put the segmenter into the model registry if it is new there.

DVC runs this at every `dvc repro`, also when nothing else was to be done or all came out of its cache.
"""

import argparse
import logging
import sys
from pathlib import Path

from cluemap.errors import CluemapError, TrackingError
from cluemap.files import read_json
from cluemap.params import load_params
from cluemap.paths import OUT, PARCEL_STAGES, ROOT, STAGES, stage_folder
from cluemap.runtime.messages import show_messages
from cluemap.tracking.provenance import path_hash

MODELS = {"train_segmenter": "segmenter", "train_baselines": "best baseline", "train_parcels": "parcel network"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a data set of params.yaml, e.g. demo")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="another params file")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all outputs (default: out)")
    parser.add_argument(
        "--stage", choices=MODELS, default="train_segmenter",
        help="which model: the segmenter, the best of trees, forest and linear, or the parcels' (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--promote", type=int, metavar="VERSION", help="make this version the champion by hand")
    given = parser.parse_args(arguments)
    show_messages(logging.WARNING)
    try:
        if given.promote is not None:
            from cluemap.stages.register import promote

            print(promote(given.dataset, given.promote, given.stage))
        else:
            print("\n".join(came_from(given.dataset, given.out)))
            print(registered(given.dataset, given.params, given.out, given.stage))
    except TrackingError as error:  # a store that is down stops no pipeline
        print(f"register: warning: not done: {error}. The next `dvc repro` tries again", file=sys.stderr)
        return 2 if given.promote is not None else 0
    except CluemapError as error:
        print(f"register: error: {error}", file=sys.stderr)
        return 2
    return 0


def came_from(dataset: str, out: Path) -> list[str]:
    """Which run made each stage's outputs as they lie there now, and when."""
    lines = [f"The outputs of {dataset} were made by these runs (`python src/lineage.py <run>` traces one):"]
    for stage in (*STAGES, *PARCEL_STAGES):
        file = stage_folder(dataset, stage, out) / "run.json"
        if file.exists():
            card = read_json(file)
            run = card["run_id"] or f"key:{card['key']}, not in the store when it ended"
            lines.append(f"  {stage:17} {card['started'][:16].replace('T', ' ')} UTC  {run}")
    return lines


def registered(dataset: str, params_file: Path, out: Path, stage: str) -> str:
    """Register the model, or say what an earlier call did with it; the store is asked each time."""
    path_hash(stage_folder(dataset, stage, out) / "model")  # the error that matters comes before mlflow
    from cluemap.stages.register import register

    _, said = register(load_params(dataset, params_file), out, stage)
    return f"The {MODELS[stage]} is {said}"


if __name__ == "__main__":
    sys.exit(main())
