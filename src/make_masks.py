"""Turn CAMs into pseudo masks, then score them against the truth, which chooses nothing (METHOD section 7)."""

import sys

from cluemap.stages.make_masks import make_masks, score_masks
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_curves


def work(stage: Stage) -> None:
    windows, params = stage.windows(), stage.params
    cams = stage.folder_of("make_cams") / "cams"
    with stage.run(upstream=("prepare", "make_cams")) as run:
        stage.used(run, "prepare", "windows", windows.card.digest, "masks")
        threshold = make_masks(windows, cams, params, stage.folder)
        metrics, curves = score_masks(windows, cams, threshold, params)
        draw_curves(stage, curves, threshold)
        made = f"pseudo masks at threshold {threshold:.2f}, mIoU {metrics['train']['miou']:.3f}"
        stage.finish(run, metrics, made, outputs=("masks",))


if __name__ == "__main__":
    sys.exit(run_stage("make_masks", __doc__, work))
