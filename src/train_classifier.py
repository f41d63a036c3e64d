"""Train the classifier and its clues on image labels alone (METHOD sections 2 to 5)."""

import sys

from cluemap.files import atomic_folder
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import CLASSIFIER, about
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_training
from cluemap.training.classifier_task import ClassifierTask, new_classifier
from cluemap.training.task import Data

BLOCKS = ("classifier", "losses", "clues", "temporal_weighting", "affinity")


def work(stage: Stage) -> None:
    windows, params = stage.windows(), stage.params
    network, clues = new_classifier(windows, params)
    task = ClassifierTask(network, clues, windows, params, stage.ranks)
    data = Data(windows, windows.indexes("train"))
    with stage.training(task, data, params.classifier, BLOCKS, ("prepare",)) as (run, trained):
        network.load_state_dict(checkpoints.split(trained, "network/"))
        task.restore(trained)
        network.eval()
        metrics = {"validation": task.validate(), "step": trained.step}
        if stage.ranks.first:
            with atomic_folder(stage.folder / "model") as folder:
                checkpoints.save(folder / CLASSIFIER, trained, about("classifier", windows, params))
            draw_training(stage, run.points(), {"clues start": params.clues.start_step})
            stage.finish(run, metrics, f"classifier of step {trained.step}", outputs=("model",))


if __name__ == "__main__":
    sys.exit(run_stage("train_classifier", __doc__, work, launches=True))
