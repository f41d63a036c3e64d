"""How a segmenter is trained with the context-self contrastive loss: before its training, or beside it (METHOD 15)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cluemap.data.batches import Batch
from cluemap.data.windows import Windows
from cluemap.model.method.cscl import context_loss, pairs
from cluemap.model.networks.context import ContextComparer, ContextSegmenter, Seen
from cluemap.model.networks.segmenter import Segmenter
from cluemap.params import CsclParams, Params
from cluemap.runtime.distributed import Ranks
from cluemap.training.segmenter_task import SegmenterTask, drawn, new_segmenter
from cluemap.training.semisupervised.mixed_data import learns_from_unlabelled
from cluemap.training.semisupervised.teacher_task import teacher_task
from cluemap.training.task import NetworkAlone, Pretraining


def segmenter_training(windows: Windows, params: Params, ranks: Ranks) -> tuple[SegmenterTask, Pretraining | None]:
    """A new segmenter's training as `cscl.kind` and `semisupervised.kind` say, and what comes before it."""
    if learns_from_unlabelled(windows, params):
        return teacher_task(windows, params, ranks), None
    segmenter = new_segmenter(windows, params)
    if params.cscl.kind == "off":
        return SegmenterTask(segmenter, windows, params, ranks), None
    legend = windows.card.legend
    network = ContextSegmenter(segmenter, len(legend.classes) + legend.background, params.cscl)
    if params.cscl.kind == "joint":
        return JointTask(network, windows, params, ranks), None
    first = _pretraining(network, len(windows.indexes("train")), params, ranks)
    return SegmenterTask(network.published(), windows, params, ranks), first


class JointTask(SegmenterTask):
    """Cross-entropy and the context loss together."""

    network: ContextSegmenter

    def losses(self, forward: Callable[[Batch], Any], batch: Batch, step: int) -> dict[str, Tensor]:
        """ "pixels" (cross-entropy), "context", and their weighted sum."""
        batch, truth = drawn(batch, step, self.params, self.ranks)
        seen: Seen = forward(batch)
        pixels = self.pixel_loss(seen.logits, truth, batch.probabilities)
        context = _loss(seen.similarities, truth, self.params.cscl, self.ranks)
        return {"total": pixels + self.params.cscl.weight * context, "pixels": pixels, "context": context}

    @property
    def published(self) -> Segmenter:
        return self.network.published()


class ContextTask(NetworkAlone):
    """The context loss alone; see `cluemap.training.task.Task`."""

    select = None

    def __init__(self, network: ContextComparer, params: Params, ranks: Ranks):
        self.network, self.params, self.ranks = network, params, ranks

    def losses(self, forward: Callable[[Batch], Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        batch, truth = drawn(batch, step, self.params, self.ranks)
        return {"total": _loss(forward(batch), truth, self.params.cscl, self.ranks)}

    def validate(self) -> dict[str, float]:
        return {}


def _loss(similar: Tensor, truth: Tensor, params: CsclParams, ranks: Ranks) -> Tensor:
    return context_loss(similar.float(), pairs(truth, params), params.positive_weight, ranks.total)


def _pretraining(network: ContextSegmenter, windows: int, params: Params, ranks: Ranks) -> Pretraining:
    """Adam without weight decay, and a learning rate that falls by a factor each epoch, as published."""
    cscl, epoch = params.cscl, windows / params.segmenter.batch  # steps
    own = {
        "steps": cscl.steps, "validate_every": cscl.steps, "learning_rate": cscl.learning_rate, "weight_decay": 0.0,
        "weight_averaging": 0.0,
    }  # fmt: skip
    return Pretraining(
        task=ContextTask(ContextComparer(network), params, ranks),
        course=params.segmenter.model_copy(update=own),
        rate=lambda step: cscl.learning_rate * cscl.decay ** (step / epoch),
        frozen=network.class_head(),
    )
