"""Score both segmenters on the test fold, read once, and write the summary: the run that people compare."""

import logging
import sys

from cluemap.files import write_json
from cluemap.paths import STAGES
from cluemap.stages.evaluate import HEADLINE, calibration_scores, calibrations, evaluate, headline
from cluemap.stages.result_report import lineage, report, story
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_calibration, draw_results

UPSTREAM = STAGES[:-1]


def work(stage: Stage) -> None:
    windows = stage.windows()
    with stage.run(upstream=UPSTREAM, experiment="results") as run:
        stage.used(run, "prepare", "windows", windows.card.digest, "test")
        metrics, confusions = evaluate(stage, windows)
        calibrated = calibrations(stage, windows)
        metrics["calibration"] = calibration_scores(calibrated)
        draw_results(stage, windows, metrics, confusions)
        draw_calibration(stage, calibrated)
        run.artifact(report(stage, windows, metrics, lineage(stage, UPSTREAM)))
        run.tags({"mlflow.note.content": story(stage, metrics, UPSTREAM)})
        write_json(stage.folder / HEADLINE, headline(metrics))
        made = f"test mIoU {metrics['test_miou']:.3f}, {metrics['ratio']:.1%} of full supervision"
        for warning in metrics["warnings"]:
            logging.warning(warning)
        stage.finish(run, metrics, made, outputs=("report.html",), upstream=UPSTREAM)


if __name__ == "__main__":
    sys.exit(run_stage("evaluate", __doc__, work))
