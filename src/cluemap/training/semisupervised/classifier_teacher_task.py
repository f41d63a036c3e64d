"""A student classifier taught by a teacher that may know the place, where image labels are few (METHOD section 16).

A step: both networks learn the labelled windows' image labels. The teacher says of weak views of unlabelled windows
which classes it is sure of, there or not, and both learn that on strong views; the student's extra token learns the
teacher's. Clues and propagated maps (eq. 9, 14) are the student's, from labelled windows alone: a clue is a mean that
keeps what a wrong label put into it. The student and its clues alone are scored and published.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.errors import ParamsError
from cluemap.model.method.clues import Clues
from cluemap.model.method.losses import Total, classification_loss
from cluemap.model.method.teacher_labels import distillation_loss, sure_labels, unlabelled_label_loss
from cluemap.model.networks.classifier import Classified
from cluemap.model.networks.stand_in import METADATA, Answers, TeacherStudent
from cluemap.model.networks.stand_in_classifier import StandInClassifier
from cluemap.model.networks.temporal_encoder import Watched
from cluemap.params import Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.classifier_task import ClassifierTask, auxiliary_logits, auxiliary_loss, new_classifier, new_clues
from cluemap.training.input_whitening import whiten
from cluemap.training.semisupervised.metadata import metadata_of
from cluemap.training.semisupervised.mixed_data import classifier_is_taught
from cluemap.training.semisupervised.views import ViewMaker, rows


class ClassifierTeacherTask(ClassifierTask):
    """See `cluemap.training.task.Task`."""

    network: TeacherStudent

    def __init__(self, network: TeacherStudent, clues: Clues, windows: Windows, params: Params, ranks: Ranks):
        super().__init__(network, clues, windows, params, ranks)
        self.told = params.semisupervised
        metadata = metadata_of(windows).to(ranks.device) if network.teacher.embed is not None else None
        self.maker = ViewMaker(self.told, params.seed, params.classifier.batch, None, metadata, ranks)
        self._sure = self._present = torch.zeros(())  # of the last step, this rank's shares of windows x classes

    def losses(self, forward: Callable[[Any], Any], batch: Batch, step: int) -> dict[str, Tensor]:
        """The student's losses as a classifier; "teacher" (its image labels), "unlabelled" (the teacher's labels, of
        both networks), "distillation"; "total" of them all.
        """
        views, total, told = self.maker.views(batch, step), self.ranks.total, self.told
        answers: Answers = forward(views)
        count = views.labelled
        labelled = rows(views.shown, slice(0, count))
        parts = self.label_losses(some(answers.student, slice(0, count)), labelled, step)
        present, sure = sure_labels(answers.weak.logits.float().sigmoid(), told.negative, told.positive)
        self._sure, self._present = sure.float().mean(), (present & sure).float().mean()
        taught = [some(out, slice(count, None)) for out in (answers.student, answers.teacher)]
        own = some(answers.teacher, slice(0, count))
        parts |= {
            "teacher": classification_loss(own.logits.float(), labelled.image_labels, total, labelled.known)
            + auxiliary_loss(own, labelled.image_labels, total, labelled.known),
            "unlabelled": sum((_unlabelled(out, present, sure, total) for out in taught), own.logits.new_zeros(())),
            "distillation": distillation_loss(
                answers.student.watched.more.float(), answers.teacher.watched.more.float(), total
            ),
        }
        weight = told.weight if told.begun(step, self.params.classifier.steps) else 0.0
        parts["total"] = (
            parts["total"] + parts["teacher"] + weight * parts["unlabelled"] + told.distillation * parts["distillation"]
        )
        return parts

    @property
    def published(self) -> StandInClassifier:
        return self.network.student

    def points(self) -> dict[str, float]:
        """As the classifier's; and of the unlabelled windows' classes, the share that taught, and as present ones."""
        taught = {"teacher/sure": self._sure.item(), "teacher/present": self._present.item()}
        return {**super().points(), **taught}


def classifier_training(windows: Windows, params: Params, ranks: Ranks) -> ClassifierTask:
    """A new classifier's training as `semisupervised` says, a function of the seed; a student starts as the classifier
    alone would.

    Raises:
        ParamsError: the student is to be told places too.
        DataError: the place of a window is wanted and not known.
    """
    if not classifier_is_taught(windows, params):
        return ClassifierTask(*new_classifier(windows, params), windows, params, ranks)
    told = params.semisupervised.metadata
    if told == "both":
        raise ParamsError(
            "semisupervised.metadata: both is for segmenters: set labelled.kind: masks, or semisupervised.classifier: "
            "false"
        )
    student = _network(windows, params, params.seed, 0)
    teacher = _network(windows, params, params.seed + 1, 0 if told == "none" else METADATA)
    return ClassifierTeacherTask(TeacherStudent(teacher, student), new_clues(windows, params), windows, params, ranks)


def some(out: Classified, which: slice) -> Classified:
    """What was said of some of the windows."""
    watched = Watched(*(None if part is None else part[which] for part in out.watched))  # type: ignore[arg-type]
    return Classified(out.logits[which], out.temporal[which], out.spatial[which], watched)


def _unlabelled(out: Classified, present: Tensor, sure: Tensor, total: Total) -> Tensor:
    """Of the network's logits, and of its maps' means as `auxiliary_loss` has them."""
    maps = [unlabelled_label_loss(logits, present, sure, total) for logits in auxiliary_logits(out)]
    return unlabelled_label_loss(out.logits.float(), present, sure, total) + torch.stack(maps).mean()


def _network(windows: Windows, params: Params, seed: int, metadata: int) -> StandInClassifier:
    card, sizes = windows.card, params.classifier
    torch.manual_seed(seed)
    network = StandInClassifier(len(card.legend.bands), len(card.legend.classes), card.size, sizes, metadata)
    whiten(network, windows, sizes.whitening)
    return network
