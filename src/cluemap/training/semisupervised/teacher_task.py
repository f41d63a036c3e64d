"""A student segmenter taught by a teacher that may know the place (METHOD section 16; Bernhard et al. 2024).

A step: both networks learn the labelled windows' masks. The teacher says of weak views of unlabelled windows what it is
sure of, and both learn that on strong views; the student's extra position learns the teacher's. The student alone is
scored and published.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
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
from cluemap.params import AugmentationParams, Params, SemisupervisedParams
from cluemap.runtime.distributed import Ranks
from cluemap.training.augmentation import augmented, flipped, generators, masked
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter
from cluemap.training.semisupervised.metadata import metadata_of


@dataclass
class Views:
    """What the networks are called with in one step, and what the labelled windows' masks say."""

    shown: Batch  # labelled windows, then strong views of the unlabelled ones
    weak: Batch  # weak views of the same unlabelled ones
    metadata: Tensor | None  # b m, as `shown`
    truth: Tensor  # l h w, masks of the labelled windows
    probabilities: Tensor | None  # l s h w, where these are not sure

    @property
    def inputs(self) -> tuple[Tensor | None, ...]:
        return *self.shown.inputs, *self.weak.inputs, self.metadata


class TeacherTask(SegmenterTask):
    """See `cluemap.training.task.Task`."""

    network: TeacherStudent

    def __init__(self, network: TeacherStudent, windows: Windows, params: Params, ranks: Ranks):
        super().__init__(network, windows, params, ranks)
        self.told = params.semisupervised
        self.strong = strong_views(self.told)
        self.metadata = metadata_of(windows).to(ranks.device) if network.teacher.told else None
        start = Confidence.start(len(windows.card.legend.classes) + self.background)
        self.confidence = Confidence(*(part.to(ranks.device) for part in start))
        self._sure = torch.zeros(())  # share of the last step's unlabelled pixels that taught, of this rank

    def losses(self, forward: Callable[[Any], Any], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "pixels" (masks), "unlabelled" (the teacher's labels), each of both networks; "distillation"; their sum."""
        views, total, told = self.views(batch, step), self.ranks.total, self.told
        answers: Answers = forward(views)
        labels = self._labels(answers.weak.float(), views.weak)
        both = [seen.logits.float() for seen in (answers.student, answers.teacher)]
        count = len(views.truth)
        student, teacher = answers.student.position.float(), answers.teacher.position.float()
        parts = {
            "pixels": sum((self.pixel_loss(logits[:count], views.truth, views.probabilities) for logits in both),
                          both[0].new_zeros(())),
            "unlabelled": sum((unlabelled_loss(logits[count:], labels, total) for logits in both),
                              both[0].new_zeros(())),
            "distillation": distillation_loss(student, teacher, total),
        }  # fmt: skip
        whole = parts["pixels"] + told.weight * parts["unlabelled"] + told.distillation * parts["distillation"]
        return {"total": whole, **parts}

    def views(self, batch: Batch, step: int) -> Views:
        """The views of one step; every window's draws are its own, so they are the same for any number of processes."""
        params, ranks = self.params, self.ranks
        whole = params.segmenter.batch
        count = len(range(ranks.rank, whole, ranks.world))  # labelled windows of this rank
        labelled, unlabelled = rows(batch, slice(0, count)), rows(batch, slice(count, None))
        draws = generators(params.seed, step, ranks.rank, ranks.world, count)
        labelled = augmented(labelled, params.augmentation, draws)
        draws = generators(params.seed, step, whole + ranks.rank, ranks.world, len(unlabelled))
        weak = flipped(unlabelled, draws)
        strong = masked(augmented(weak, self.strong, draws), self.told.masked_pixels, draws)
        if labelled.mask is None:
            raise ValueError("the labelled windows have no masks: give Data its masks")
        shown = together(labelled, strong)
        metadata = None if self.metadata is None else self.metadata[shown.index]
        return Views(shown, weak, metadata, labelled.mask, labelled.probabilities)

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


def strong_views(told: SemisupervisedParams) -> AugmentationParams:
    """What is done to an unlabelled window beside the flips of its weak view and masked pixels."""
    return AugmentationParams(
        flips=False, dropped_dates=told.dropped_dates, shifted_days=told.shifted_days, band_gain=told.band_gain,
        band_offset=told.band_offset, light=told.light,
    )  # fmt: skip


def rows(batch: Batch, which: slice) -> Batch:
    """Some windows of a batch."""
    return Batch(*(None if part is None else part[which] for part in _parts(batch)))  # type: ignore[arg-type]


def together(one: Batch, other: Batch) -> Batch:
    """The windows of both, which are padded to one length."""
    pairs = zip(_parts(one), _parts(other), strict=True)
    return Batch(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))  # type: ignore[arg-type]


def _parts(batch: Batch) -> list[Tensor | None]:
    return [getattr(batch, field.name) for field in fields(batch)]
