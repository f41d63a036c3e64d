"""The work of train_segmenter and train_reference: one network, one course, two kinds of masks."""

from numpy.typing import NDArray

from cluemap.data.windows import Windows
from cluemap.files import atomic_folder
from cluemap.model.storage import checkpoints
from cluemap.model.storage.initial_weights import NONE, digest_of
from cluemap.model.storage.trained_models import SEGMENTER, about
from cluemap.stages.stage import Stage
from cluemap.stages.stage_figures import draw_training
from cluemap.statistics.model_calibration import temperature_of
from cluemap.statistics.taught_series import taught_series
from cluemap.training.context_task import segmenter_training
from cluemap.training.semisupervised.mixed_data import segmenter_data

BLOCKS = ("segmenter", "ltae", "cscl", "augmentation", "semisupervised")  # of params: what decides a training


def train_segmenter(
    stage: Stage, windows: Windows, masks: NDArray, digest: str, upstream: tuple[str, ...],
    probabilities: NDArray | None = None,
) -> None:  # fmt: skip
    """Train on `masks` (n h w, rows as the training windows) and publish the model; `digest` names these masks and
    their `probabilities` (n h w s). True masks have none: they are sure, so all kinds of `segmenter.labels` are the
    same for them.
    """
    params = stage.params
    task, before = segmenter_training(windows, params, stage.ranks)
    data = segmenter_data(windows, masks, params, stage.ranks, probabilities)
    task.weigh(masks, probabilities)
    init = params.segmenter.init
    extra = {"masks": digest, **({} if init == NONE else {"init": digest_of(init)})}
    with stage.training(task, data, params.segmenter, BLOCKS, upstream, extra, before) as (run, trained):
        task.network.load_state_dict(checkpoints.split(trained, "network/"))
        scores = task.validate()
        temperature = temperature_of(task.published, windows, params, stage.ranks)
        if stage.ranks.first:
            weights = {f"network/{name}": value for name, value in task.published.state_dict().items()}
            known = taught_series(windows, masks, params.seed)
            with atomic_folder(stage.folder / "model") as folder:
                checkpoints.save(
                    folder / SEGMENTER, {**weights, **known.tensors()}, about("segmenter", windows, params, temperature)
                )
            draw_training(stage, run.points())
            metrics = {"validation": scores, "step": trained.step, "temperature": temperature}
            made = f"segmenter of step {trained.step}, validation mIoU {scores['miou']:.3f}"
            stage.finish(run, metrics, made, outputs=("model",))
