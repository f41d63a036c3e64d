"""Train the segmenter on the refined pseudo masks (METHOD sections 8 and 14)."""

import sys

from cluemap.stages.make_masks import read_masks
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.train_segmenter import train_segmenter


def work(stage: Stage) -> None:
    windows = stage.windows()
    masks, digest = read_masks(stage.folder_of("refine_masks") / "masks", windows)
    train_segmenter(stage, windows, masks, digest, upstream=("prepare", "refine_masks"))


if __name__ == "__main__":
    sys.exit(run_stage("train_segmenter", __doc__, work, launches=True))
