"""A network as learner of the rounds: the segmenter `ltae`, held back from learning its masks' errors by heart.

A network that is free to does learn them (METHOD section 13). This one takes few steps from scratch, with dropout,
weight decay, flips and dropped dates, answers with the average of its weights, and from the second round on learns the
probabilities of the round before in place of classes. It is trained by the loop that trains segmenters, on the first
rank alone: so the rounds have the same bits for any number of ranks.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cluemap.data.batches import stream
from cluemap.data.windows import Windows
from cluemap.errors import CluemapError, Interrupted, NotFinite
from cluemap.model.method.pseudo_masks import IGNORED
from cluemap.model.storage import checkpoints
from cluemap.model.storage.initial_weights import NONE
from cluemap.params import AugmentationParams, Params, StepParams
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast
from cluemap.runtime.stop_signals import Stop
from cluemap.training.learners.pixel_learners import check_labelled
from cluemap.training.segmenter_task import SegmenterTask, new_segmenter
from cluemap.training.task import Data, Log, Settings
from cluemap.training.trainer import Trainer

COURSE = (*StepParams.model_fields, "whitening")  # keys of `refine` that stand in place of those of `segmenter`
EVEN = 1.0  # power of the classes' weights: all have the same mass, as for the linear learner


@dataclass(frozen=True)
class NetworkFit:
    """What a fit is told beside the windows and masks."""

    params: Params
    folder: Path  # of its state: an interrupted fit goes on from there
    identity: dict[str, Any]  # plain JSON: a state of another identity is not gone on from
    log: Log
    probabilities: NDArray[np.uint8] | None = None  # n h w s, of the round before; rows as the training windows

    def part(self, number: int) -> "NetworkFit":
        """That of one fold."""
        return replace(self, folder=self.folder / str(number))


class NetworkLearner:
    """Learns ids 0..K from masks; says the probability of every id of every pixel."""

    def __init__(self, windows: Windows, told: NetworkFit, seed: int, ranks: Ranks):
        legend = replace(windows.card.legend, background=True)  # 0 is a class between the rounds, see PixelLearner
        self.windows = replace(windows, card=replace(windows.card, legend=legend))
        self.told, self.ranks = told, ranks
        self.params = params_of_round(told.params, seed, soft=told.probabilities is not None)

    def fit(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> "NetworkLearner":
        """Learn from these training windows: the probabilities that are told, or else masks n h w, a row a window.

        Raises:
            TrainingError: no pixel is labelled.
            Interrupted, NotFinite: see `Trainer.train`; on every rank.
        """
        check_labelled(masks)
        with Stop():  # a rank that waits leaves when the first one has saved its state
            outcome = self.ranks.agree(self._outcome(indexes, masks) if self.ranks.first else None)
        if isinstance(outcome, CluemapError):
            raise outcome
        network = new_segmenter(self.windows, self.params)
        network.load_state_dict(outcome)
        self.network = network.to(self.ranks.device).eval()
        return self

    def _outcome(self, indexes: NDArray[np.int64], masks: NDArray[np.uint8]) -> dict[str, Tensor] | CluemapError:
        """The weights of the first rank's fit, or why it has none."""
        params, told, windows = self.params, self.told, self.windows
        alone = Ranks(0, 1, self.ranks.device)
        whole = np.full((windows.card.counts["train"], *masks.shape[1:]), IGNORED, np.uint8)
        whole[windows.mask_row[indexes]] = masks
        task = RoundTask(new_segmenter(windows, params), windows, params, alone)
        task.weigh(masks, told.probabilities)
        found = checkpoints.load_last(told.folder)
        settings = Settings(params.segmenter, params.compute, params.checkpoint, params.seed, told.identity)
        same = found is not None and found.about["identity"] == told.identity
        data = Data(windows, indexes, whole, told.probabilities)
        try:
            trained = Trainer(task, data, settings, alone, told.log, told.folder, found if same else None).train()
        except (Interrupted, NotFinite) as error:
            return error
        return {name: value.cpu() for name, value in checkpoints.split(trained, "network/").items()}

    def of(self, indexes: NDArray[np.int64]) -> NDArray[np.float32]:
        """n h w s: the probability of every id of these windows' pixels."""
        size, parts = self.params.compute.inference_batch, []
        order = (indexes[start : start + size] for start in range(0, len(indexes), size))
        for batch in stream(self.windows, order, self.ranks.device):
            with torch.no_grad(), autocast(self.params.compute, batch.images.device):
                logits = self.network(*batch.inputs)
            parts.append(rearrange(logits.float().softmax(dim=1), "b s h w -> b h w s").cpu().numpy())
        return np.concatenate(parts)


class RoundTask(SegmenterTask):
    """A segmenter's training that no truth is shown to: there is no validation."""

    def validate(self) -> dict[str, float]:
        return {}


def params_of_round(params: Params, seed: int, soft: bool) -> Params:
    """The params by which a segmenter is built and trained, for one round."""
    refine = params.refine
    own: dict[str, Any] = {
        "kind": "ltae", "select": "last", "init": NONE, "validate_every": refine.steps, "class_weights": EVEN,
        "labels": "soft" if soft else "hard", **{name: getattr(refine, name) for name in COURSE},
    }  # fmt: skip
    changes = AugmentationParams(
        flips=refine.flips,
        dropped_dates=refine.dropped_dates,
        shifted_days=0,
        band_gain=0.0,
        band_offset=0.0,
        light=0.0,
    )
    return params.model_copy(
        update={
            "seed": seed,
            "segmenter": params.segmenter.model_copy(update=own),
            "ltae": params.ltae.model_copy(update={"dropout": refine.dropout}),
            "augmentation": changes,
        }
    )
