"""The state of a training on disk: saves, resume, and the weights that are chosen at its end."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor

from cluemap.errors import NotFinite, TrainingError
from cluemap.model.storage import checkpoints
from cluemap.runtime.distributed import Ranks
from cluemap.training.task import Settings, Task, Trained
from cluemap.training.weight_averaging import WeightAverage


class TrainingState:
    """Saves one task's state in `folder`; only finite weights, and only what is the same on every rank."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        optimiser: torch.optim.Optimizer,
        average: WeightAverage,
        settings: Settings,
        ranks: Ranks,
    ):
        self.folder, self.task, self.optimiser, self.average = folder, task, optimiser, average
        self.settings, self.ranks = settings, ranks
        self.best_score, self.best_step = -math.inf, 0
        self.saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether this rank is the one that saves, and it is time to."""
        return self.ranks.first and time.monotonic() - self.saved > 60 * self.settings.checkpoint.minutes

    def save(self, done: int) -> None:
        """The state after `done` steps.

        Raises:
            NotFinite, TrainingError: see `check_weights` and `check_alike`; the state before it is kept.
            CheckpointError: the disk does not take it.
        """
        self.check_weights(done)
        self.check_alike(done)
        self.saved = time.monotonic()
        if not self.ranks.first:
            return
        about = {
            **self.settings.about,
            "identity": self.settings.identity,
            "step": done,
            "best_score": None if self.best_score == -math.inf else self.best_score,
            "best_step": self.best_step,
        }
        moving = {**self.average.state(), **checkpoints.optimiser_tensors(self.optimiser)}
        tensors = {**self._weights(), **moving}
        checkpoints.save_last(self.folder, tensors, about)

    def resume(self, found: checkpoints.Checkpoint) -> int:
        """Put the state back where it was; the steps that were done."""
        self.task.network.load_state_dict(checkpoints.split(found.tensors, "network/"))
        self.task.restore(found.tensors)
        self.average.restore(found.tensors)
        checkpoints.restore_optimiser(self.optimiser, found.tensors)
        score = found.about["best_score"]
        self.best_score, self.best_step = -math.inf if score is None else score, found.about["best_step"]
        return int(found.about["step"])

    def scored(self, score: float | None, done: int) -> None:
        """Keep the present weights if no earlier score is as good; a score that is not a number is no score."""
        if score is None or not score > self.best_score:
            return
        self.best_score, self.best_step = score, done
        if self.ranks.first:
            about = {"identity": self.settings.identity, "score": score, "step": done}
            checkpoints.save(self.folder / "best.safetensors", self._weights(), about)

    def chosen(self) -> Trained:
        """The last weights (averaged where the course averages them), or the best by the task's `select`.

        Raises:
            TrainingError: the score that chooses was never a number.
        """
        if self.task.select is None:
            with self.average.applied():
                chosen = Trained({name: value.clone() for name, value in self._weights().items()})
            chosen.step, chosen.score = self.settings.course.steps, None
            return chosen
        if self.best_score == -math.inf:
            raise TrainingError(
                f"{self.task.select} was never a number on the validation fold (does it hold every class?): "
                "choose the last weights with `select: last`"
            )
        self.ranks.barrier()  # rank 0 has written the best
        best = checkpoints.load(self.folder / "best.safetensors")
        chosen = Trained(best.tensors)
        chosen.step, chosen.score = best.about["step"], best.about["score"]
        return chosen

    def check_weights(self, done: int) -> None:
        """A finite loss can have a gradient that is not: such weights are never scored or saved.

        Raises:
            NotFinite: names the first such weights.
        """
        for name, weight in self.task.network.named_parameters():
            if not torch.isfinite(weight).all():
                raise NotFinite(
                    f"step {done}: the weights {name} are not finite. The last good state is kept in {self.folder}. "
                    "Lower the learning rate or set compute.clip_norm"
                )

    def check_alike(self, done: int) -> None:
        """What moves beside the network must be the same on every rank, to the bit.

        Raises:
            TrainingError: it is not.
        """
        if not self.ranks.alike(self.task.state()):
            raise TrainingError(f"step {done}: the clues differ between the processes: a defect of cluemap, report it")

    def _weights(self) -> dict[str, Tensor]:
        network = {f"network/{name}": value for name, value in self.task.network.state_dict().items()}
        return {**network, **self.task.state()}
