"""A student segmenter taught by a teacher that may know the place (METHOD section 16; Bernhard et al. 2024).

A step: both networks learn the labelled windows' masks. The teacher says of weak views of unlabelled windows what it is
sure of, and both learn that on strong views; the student's extra position learns the teacher's. The student alone is
scored and published.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.errors import ParamsError
from cluemap.model.method.teacher_labels import (
    UNSURE,
    Confidence,
    distillation_loss,
    probabilities_of,
    teacher_labels,
    unlabelled_loss,
)
from cluemap.model.networks.stand_in import METADATA, Answers, StandInSegmenter, TeacherStudent
from cluemap.model.storage.trained_models import metadata_told
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter
from cluemap.training.semisupervised.metadata import metadata_of
from cluemap.training.semisupervised.views import ViewMaker


class TeacherTask(SegmenterTask):
    """See `cluemap.training.task.Task`."""

    network: TeacherStudent

    def __init__(self, network: TeacherStudent, windows: Windows, params: Params, ranks: Ranks):
        super().__init__(network, windows, params, ranks)
        self.told = params.semisupervised
        metadata = metadata_of(windows).to(ranks.device) if network.teacher.told else None
        self.maker = ViewMaker(self.told, params.seed, params.segmenter.batch, params.augmentation, metadata, ranks)
        start = Confidence.start(len(windows.card.legend.classes) + self.background)
        self.confidence = Confidence(*(part.to(ranks.device) for part in start))
        self._sure = torch.zeros(())  # share of the last step's unlabelled pixels that taught, of this rank

    def losses(self, forward: Callable[[Any], Any], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "pixels" (masks), "unlabelled" (the teacher's labels), each of both networks; "distillation"; their sum."""
        views, total, told = self.maker.views(batch, step), self.ranks.total, self.told
        answers: Answers = forward(views)
        labels = self._labels(answers.weak.logits.float(), views.weak)
        both = [seen.logits.float() for seen in (answers.student, answers.teacher)]
        count, mask = views.labelled, views.shown.mask
        if mask is None:
            raise ValueError("the labelled windows have no masks: give Data its masks")
        unsure = None if views.shown.probabilities is None else views.shown.probabilities[:count]
        student, teacher = answers.student.position.float(), answers.teacher.position.float()
        parts = {
            "pixels": sum((self.pixel_loss(logits[:count], mask[:count], unsure) for logits in both),
                          both[0].new_zeros(())),
            "unlabelled": sum((unlabelled_loss(logits[count:], labels, total) for logits in both),
                              both[0].new_zeros(())),
            "distillation": distillation_loss(student, teacher, total),
        }  # fmt: skip
        weight = told.weight if told.begun(step, self.params.segmenter.steps) else 0.0
        whole = parts["pixels"] + weight * parts["unlabelled"] + told.distillation * parts["distillation"]
        return {"total": whole, **parts}

    def _labels(self, logits: Tensor, weak: Batch) -> Tensor:
        """u s h w -> u h w: what the teacher is sure of; moves the means that its thresholds follow."""
        may = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if self.told.image_labels:  # of classes of which nothing is known anything may be true
            held = weak.image_labels
            may[:, self.background :] = held if weak.known is None else held | ~weak.known
        probabilities = probabilities_of(logits, may)
        self.confidence = self.confidence.moved(probabilities, self.told.momentum, self.ranks.total)
        labels = teacher_labels(probabilities, self._thresholds())
        self._sure = (labels != UNSURE).float().mean()
        return labels

    def _thresholds(self) -> Tensor:
        followed = self.confidence.thresholds()
        return followed if self.told.kind == "freematch" else torch.full_like(followed, self.told.threshold)

    @property
    def published(self) -> StandInSegmenter:
        return self.network.student

    def points(self) -> dict[str, float]:
        """The share of unlabelled pixels that taught, and the mean threshold."""
        return {"teacher/sure": self._sure.item(), "teacher/threshold": self._thresholds().mean().item()}

    def state(self) -> dict[str, Tensor]:
        return {f"confidence/{name}": value for name, value in self.confidence._asdict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.confidence = Confidence(
            *(tensors[f"confidence/{name}"].to(self.ranks.device) for name in Confidence._fields)
        )


def teacher_task(windows: Windows, params: Params, ranks: Ranks) -> TeacherTask:
    """The task with new networks, a function of the seed; the student starts as the segmenter alone would.

    Raises:
        ParamsError: the context loss is asked for too.
        DataError: the place of a window is wanted and not known.
    """
    if params.cscl.kind != "off":
        raise ParamsError("cscl.kind and semisupervised.kind cannot both be on: set one of them to off")
    told = params.semisupervised
    student = StandInSegmenter(new_segmenter(windows, params), metadata_told(params))
    other = params.model_copy(update={"seed": params.seed + 1})
    teacher = StandInSegmenter(new_segmenter(windows, other), 0 if told.metadata == "none" else METADATA)
    return TeacherTask(TeacherStudent(teacher, student), windows, params, ranks)
