"""Does training in bfloat16 end where float32 does? The same pipelines in both, over several seeds: a Markdown table.

The float32 ones are those of `src/ablate.py`, shared with it. Goes on where it was stopped. On CPUs without bfloat16
products the other half takes long.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
from cluemap.errors import CluemapError  # noqa: E402
from cluemap.experiments.ablation import MASK_STAGES, SOURCES, line, table  # noqa: E402
from cluemap.experiments.pipelines import make_pipeline, run_all  # noqa: E402
from cluemap.paths import OUT, stage_folder  # noqa: E402

PRECISIONS = ("fp32", "bf16")
STAGES = (*MASK_STAGES, "train_reference")  # each network on data that are the same for both
ROWS = {
    "clue CAM, training windows": lambda read: read("make_masks")["sources"]["clue"]["train"]["miou"],
    "segmenter on true masks, validation": lambda read: read("train_reference")["validation"]["miou"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="pipelines at once (default: 1)")
    given = parser.parse_args()
    out, prepared = OUT / given.dataset, stage_folder(given.dataset, "prepare")
    wanted = [(precision, seed) for seed in given.seeds for precision in PRECISIONS]
    pipelines = {}
    try:
        for precision, seed in wanted:
            folder = out / "ablate" / f"both_{seed}" if precision == "fp32" else out / "precision" / f"bf16_{seed}"
            changes = {**SOURCES, "compute.precision": precision, "seed": seed}
            pipelines[precision, seed] = make_pipeline(given.dataset, folder, prepared, changes)
        run_all([(pipeline, STAGES) for pipeline in pipelines.values()], given.jobs)
    except CluemapError as error:
        sys.exit(f"precision: error: {error}")
    lines = [
        line(f"{name}, {precision}", [value(pipelines[precision, seed].metrics) for seed in given.seeds])
        for name, value in ROWS.items()
        for precision in PRECISIONS
    ]
    print(table(lines, given.seeds))


if __name__ == "__main__":
    main()
