"""The training loop of every network: steps, validation, saves, clean stops, exact resume, one process or many.

Nothing random is remembered: the batch of a step and every draw in it are functions of (seed, step, rank). So a run
that is killed and resumed gives the weights of one that never stopped.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cluemap.data.batches import batch_indexes
from cluemap.errors import Interrupted, NotFinite, TrainingError
from cluemap.model.storage import checkpoints
from cluemap.params import CourseParams
from cluemap.runtime.distributed import Ranks
from cluemap.runtime.execution import autocast, seed_draws, wrapped
from cluemap.runtime.stop_signals import Stop
from cluemap.runtime.system_metrics import system
from cluemap.training.task import Log, Settings, Task, Trained, TrainingData
from cluemap.training.training_state import TrainingState
from cluemap.training.weight_averaging import WeightAverage

LOG_EVERY = 10  # steps between two points of a curve
LOOK_EVERY_ON_GPU = 10  # steps between two looks at the loss: each look waits for the GPU


def learning_rate(step: int, course: CourseParams) -> float:
    """Linear warm-up from `final_learning_rate`, then cosine back to it; a function of the step alone."""
    warm = round(course.warmup * course.steps)
    low, high = course.final_learning_rate, course.learning_rate
    if step < warm:
        return low + (high - low) * (step + 1) / warm
    done = (step - warm) / max(1, course.steps - warm)
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2


class Trainer:
    """Trains one task; see `train`."""

    def __init__(
        self,
        task: Task,
        data: TrainingData,
        settings: Settings,
        ranks: Ranks,
        log: Log,
        folder: Path,
        found: checkpoints.Checkpoint | None = None,
    ):
        """`folder` keeps the state; `found` is the state to resume from, of the same settings (see `checkpoint`)."""
        self.task, self.data, self.settings, self.ranks, self.log = task, data, settings, ranks, log
        self.folder, self.found = folder, found
        course = settings.course
        if course.batch < ranks.world:
            raise TrainingError(f"batch {course.batch} is smaller than the {ranks.world} processes: start fewer")
        task.network.to(ranks.device)
        self.forward = wrapped(task.network, settings.compute, ranks)
        self.optimiser = torch.optim.AdamW(
            task.network.parameters(), lr=course.learning_rate, weight_decay=course.weight_decay, fused=True
        )
        self.average = WeightAverage(task.network, course.weight_averaging)
        self.kept = TrainingState(folder, task, self.optimiser, self.average, settings, ranks)

    def train(self) -> Trained:
        """Run to the last step, from the state that was found if there is one.

        Raises:
            Interrupted: stopped by a signal; the state is saved.
            NotFinite: a loss or a weight that is not finite; the state before it is kept.
        """
        first = self.kept.resume(self.found) if self.found else 0
        if not self.found:
            self.kept.save(0)  # so that a kill in the first minutes is resumed too, in the same tracked run
        course = self.settings.course
        bar = tqdm(total=course.steps, initial=first, disable=not self.ranks.first, unit="step", mininterval=1.0)
        with Stop() as stop, bar:
            self._steps(first, stop, bar)
        self.kept.save(course.steps)
        return self.kept.chosen()

    def _steps(self, first: int, stop: Stop, bar: tqdm) -> None:
        looked, since, timed = [], time.monotonic(), 0
        course = self.settings.course
        for step, batch in enumerate(self._batches(first), start=first):
            seed_draws(self.settings.seed, step, self.ranks.rank)
            losses = self.step(batch, step)
            looked.append((step, batch.index, losses))
            done, timed = step + 1, timed + 1
            bar.update()
            validate = done % course.validate_every == 0 or done == course.steps
            if not (validate or done % self._look_every() == 0):
                continue
            stopping, saving, shown = self._look(looked, stop)
            looked = []
            if done % LOG_EVERY == 0 or done == course.steps:
                bar.set_postfix_str(f"loss {shown['total']:.3f}")
                rate = course.batch * timed / (time.monotonic() - since)
                named = {f"loss/{name}": value for name, value in shown.items()}
                rates = {"learning_rate": self._rate(step), f"{self.data.unit}_per_second": rate}
                self.log.log(done, {**named, **rates, **self.task.points(), **system(self.ranks.device)})
            if validate:
                self._validate(done)
            if saving or stopping:
                self.kept.save(done)
            if done % LOG_EVERY == 0:
                since, timed = time.monotonic(), 0  # validation and saves are not training speed
            if stopping and done < course.steps:
                raise Interrupted(
                    f"stopped after step {done} of {course.steps}, saved: run the same command to continue"
                )

    def _batches(self, first: int) -> Iterator[Any]:
        course, ranks, data, seed = self.settings.course, self.ranks, self.data, self.settings.seed
        order = (
            (step, data.indexes[batch_indexes(len(data.indexes), course.batch, step, seed, ranks.rank, ranks.world)])
            for step in range(first, course.steps)
        )
        return data.batches(order, ranks.device)

    def step(self, batch: Any, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; this rank's losses, without a gradient."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(step)
        self.task.network.train()
        losses = self.task.losses(self._forward, batch, step)
        self.optimiser.zero_grad(set_to_none=True)
        (losses["total"] * self.ranks.world).backward()  # DDP takes the mean over ranks, the shares want the sum
        if self.settings.compute.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.task.network.parameters(), self.settings.compute.clip_norm)
        self.optimiser.step()
        self.average.update(step)
        return {name: value.detach() for name, value in losses.items()}

    def _rate(self, step: int) -> float:
        own = self.settings.rate
        return own(step) if own else learning_rate(step, self.settings.course)

    def _forward(self, batch: Any) -> Any:
        with autocast(self.settings.compute, self.ranks.device):
            return self.forward(*batch.inputs)

    def _look_every(self) -> int:
        return LOOK_EVERY_ON_GPU if self.ranks.device.type == "cuda" else 1

    def _look(self, looked: list[tuple[int, Tensor, dict[str, Tensor]]], stop: Stop) -> tuple[bool, bool, dict]:
        """Losses of the steps since the last look, checked and summed over ranks; whether to stop and to save."""
        names = list(looked[-1][2])
        values = torch.stack([torch.stack([losses[name] for name in names]) for _, _, losses in looked])
        wishes = values.new_tensor([float(stop.wished), float(self.kept.due)])
        together = self.ranks.total(torch.cat([wishes, values.flatten()])).cpu()
        stopping, saving, rows = *together[:2].tolist(), together[2:].view(len(looked), len(names))
        for (step, index, _), row in zip(looked, rows, strict=True):
            if not torch.isfinite(row).all():
                self._not_finite(step, index, dict(zip(names, row.tolist(), strict=True)))
        return stopping > 0, saving > 0, dict(zip(names, rows[-1].tolist(), strict=True))

    def _not_finite(self, step: int, index: Tensor, losses: dict[str, float]) -> None:
        rate = self._rate(step)
        names = ", ".join(self.data.names(index.cpu().numpy()))
        raise NotFinite(
            f"step {step}: the loss is not finite {losses}, learning rate {rate:.2e}, {self.data.unit} of rank "
            f"{self.ranks.rank}: {names}. The last good state is kept in {self.folder}. Lower the learning rate, "
            f"set compute.clip_norm, or look at these {self.data.unit}"
        )

    def _validate(self, done: int) -> None:
        self.kept.check_weights(done)
        with self.average.applied():
            self.task.network.eval()
            found = self.task.validate()
            self.log.log(done, {f"validation/{name}": value for name, value in found.items()})
            self.kept.scored(found.get(self.task.select or ""), done)
