"""Train the classifier and its clues on image labels alone (METHOD sections 2 to 5)."""

import sys

from cluemap.files import atomic_folder
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import CLASSIFIER, about
from cluemap.stages.stage import Stage, run_stage
from cluemap.stages.stage_figures import draw_training
from cluemap.training.semisupervised.classifier_teacher_task import classifier_training
from cluemap.training.semisupervised.mixed_data import classifier_data

BLOCKS = ("classifier", "losses", "clues", "temporal_weighting", "affinity", "semisupervised")


def work(stage: Stage) -> None:
    windows, params = stage.windows(), stage.params
    task = classifier_training(windows, params, stage.ranks)
    data = classifier_data(windows, params, stage.ranks)
    with stage.training(task, data, params.classifier, BLOCKS, ("prepare",)) as (run, trained):
        task.network.load_state_dict(checkpoints.split(trained, "network/"))
        task.restore(trained)
        task.network.eval()
        metrics = {"validation": task.validate(), "step": trained.step}
        if stage.ranks.first:
            weights = {f"network/{name}": value for name, value in task.published.state_dict().items()}
            with atomic_folder(stage.folder / "model") as folder:
                checkpoints.save(folder / CLASSIFIER, {**weights, **task.state()}, about("classifier", windows, params))
            draw_training(stage, run.points(), {"clues start": params.clues.start_step})
            stage.finish(run, metrics, f"classifier of step {trained.step}", outputs=("model",))


if __name__ == "__main__":
    sys.exit(run_stage("train_classifier", __doc__, work, launches=True))
