"""The work of train_segmenter and train_reference: one network, one course, two kinds of masks."""

from numpy.typing import NDArray

from cluemap.files import atomic_folder
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import SEGMENTER, about
from cluemap.stages.stage import Stage
from cluemap.stages.stage_figures import draw_training
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter
from cluemap.training.task import Data

BLOCKS = ("segmenter", "ltae", "augmentation")  # of params: what decides a training


def train_segmenter(stage: Stage, masks: NDArray, digest: str, upstream: tuple[str, ...]) -> None:
    """Train on `masks` (n h w, rows as the training windows) and publish the model; `digest` names these masks."""
    windows, params = stage.windows(), stage.params
    network = new_segmenter(windows, params)
    task = SegmenterTask(network, windows, params, stage.ranks)
    data = Data(windows, windows.indexes("train"), masks)
    with stage.training(task, data, params.segmenter, BLOCKS, upstream, {"masks": digest}) as (run, trained):
        network.load_state_dict(checkpoints.split(trained, "network/"))
        scores = task.validate()
        if stage.ranks.first:
            with atomic_folder(stage.folder / "model") as folder:
                checkpoints.save(folder / SEGMENTER, trained, about("segmenter", windows, params))
            draw_training(stage, run.points())
            metrics = {"validation": scores, "step": trained.step}
            made = f"segmenter of step {trained.step}, validation mIoU {scores['miou']:.3f}"
            stage.finish(run, metrics, made, outputs=("model",))
