"""Train the segmenter on the refined pseudo masks (METHOD sections 8 and 14)."""

import sys

from cluemap.stages.make_masks import read_masks, read_probabilities
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.train_segmenter import train_segmenter


def work(stage: Stage) -> None:
    windows = stage.windows()
    folder, probabilities = stage.folder_of("refine_masks") / "masks", None
    masks, digest = read_masks(folder, windows)
    if stage.params.segmenter.labels != "hard":
        probabilities, beside = read_probabilities(folder, windows)
        digest = f"{digest}, probabilities {beside}"
    train_segmenter(stage, windows, masks, digest, ("prepare", "refine_masks"), probabilities)


if __name__ == "__main__":
    sys.exit(run_stage("train_segmenter", __doc__, work, launches=True))
