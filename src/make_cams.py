"""Make the clue CAMs of every training and validation window, and those of other sources to compare (METHOD 6)."""

import sys

from cluemap.model.storage.trained_models import CLASSIFIER, load_classifier
from cluemap.stages.make_cams import make_cams
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import day_curves, draw_cams


def work(stage: Stage) -> None:
    windows, params, ranks = stage.windows(), stage.params, stage.ranks
    network, clues, _ = load_classifier(stage.folder_of("train_classifier") / "model" / CLASSIFIER, windows)
    with stage.run(upstream=("prepare", "train_classifier")) as run:
        stage.used(run, "prepare", "windows", windows.card.digest, "cams")
        metrics = make_cams(network.to(ranks.device), clues, windows, params, ranks, stage.folder, stage.state)
        draw_cams(stage, windows)
        if stage.ranks.first:
            for day, weights in day_curves(stage, windows):
                run.log(day, weights)
        stage.finish(run, metrics, f"CAMs of {metrics.get('windows')} windows", outputs=("cams",))


if __name__ == "__main__":
    sys.exit(run_stage("make_cams", __doc__, work, launches=True))
