"""Correct the pseudo masks in rounds: a learner fitted on them is asked again under the image label (METHOD 13)."""

import sys

from cluemap.stages.refine_masks import refine_masks, score_refined
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_rounds


def work(stage: Stage) -> None:
    windows = stage.windows()
    with stage.leaving_together(), stage.run(upstream=("prepare", "make_masks")) as run:
        stage.used(run, "prepare", "windows", windows.card.digest, "masks")
        found = refine_masks(stage, windows, run)
        if not stage.ranks.first:
            return
        for number, about in enumerate(found["course"], start=1):
            run.log(number, {f"round/{name}": value for name, value in about.items()})
        draw_rounds(stage, found["course"])
        metrics = {**found, **score_refined(windows, stage.folder / "masks")}
        made = f"masks after {found['rounds']} rounds, mIoU {metrics['train']['miou']:.3f}"
        stage.finish(run, metrics, made, outputs=("masks",))


if __name__ == "__main__":
    sys.exit(run_stage("refine_masks", __doc__, work, launches=True))
