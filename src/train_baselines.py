"""Train pixel-wise trees and a random forest on the same masks: what the networks must beat to earn their cost."""

import sys

from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_baselines
from cluemap.stages.train_baselines import train_baselines


def work(stage: Stage) -> None:
    windows = stage.windows()
    with stage.run(upstream=("prepare", "refine_masks")) as run:
        stage.used(run, "prepare", "windows", windows.card.digest, "training")
        metrics = train_baselines(stage, windows)
        draw_baselines(stage, windows, metrics["validation"])
        found = metrics["validation"]["trees"]
        made = "trees, validation mIoU {:.3f} from pseudo masks, {:.3f} from true masks; chosen: {}".format(
            *(found[kind]["miou"] for kind in ("weak", "full")), metrics["chosen"]["learner"]
        )
        stage.finish(run, metrics, made, outputs=("maps", "model"))


if __name__ == "__main__":
    sys.exit(run_stage("train_baselines", __doc__, work))
