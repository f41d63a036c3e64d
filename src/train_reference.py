"""Train the same segmenter on the true masks: full supervision, the upper bound (METHOD section 8)."""

import sys

from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.train_segmenter import train_segmenter


def work(stage: Stage) -> None:
    windows = stage.windows(masks=True)
    train_segmenter(stage, windows, windows.masks("train"), f"truth {windows.part}".strip(), upstream=("prepare",))


if __name__ == "__main__":
    sys.exit(run_stage("train_reference", __doc__, work, launches=True))
