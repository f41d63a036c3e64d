"""Score both segmenters on the test fold, read once, and write the summary: the run that people compare."""

import sys

from cluemap.stages.drawing import draw_results
from cluemap.stages.evaluating import evaluate
from cluemap.stages.reporting import lineage, report
from cluemap.stages.stage import Stage, run_stage

UPSTREAM = ("prepare", "train_classifier", "make_cams", "make_masks", "train_segmenter", "train_reference")


def work(stage: Stage) -> None:
    windows = stage.windows()
    with stage.run(upstream=UPSTREAM, experiment="results") as run:
        metrics, confusions = evaluate(stage, windows)
        draw_results(stage, windows, metrics, confusions)
        run.artifact(report(stage, windows, metrics, lineage(stage, UPSTREAM)))
        weak, ratio = metrics["test"]["weak"]["miou"], metrics["ratio"]
        stage.finish(run, metrics, f"test mIoU {weak:.3f}, {ratio:.1%} of full supervision")


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", __doc__, work))
