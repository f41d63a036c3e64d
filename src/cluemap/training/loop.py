"""The training loop of every network: steps, validation, saves, clean stops, exact resume, one process or many.

Nothing random is remembered: the batch of a step and every draw in it are functions of (seed, step, rank). So a run
that is killed and resumed gives the weights of one that never stopped.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from cluemap.data.batches import Batch, batch_indexes, stream
from cluemap.data.resident import resident
from cluemap.data.windows import Windows
from cluemap.errors import Interrupted, NotFinite, TrainingError
from cluemap.params import CheckpointParams, ComputeParams, NetworkParams
from cluemap.training import checkpoint
from cluemap.training.distributed import Ranks
from cluemap.training.system import system

logger = logging.getLogger(__name__)
LOG_EVERY = 10  # steps between two points of a curve
LOOK_EVERY_ON_GPU = 10  # steps between two looks at the loss: each look waits for the GPU


class Task(Protocol):
    """What is trained: a network, its losses, and what moves beside it."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def select(self) -> str | None:
        """Score of `validate` that chooses the best weights; None = the last ones."""

    def losses(self, forward: Callable[[Batch], Any], batch: Batch, step: int) -> dict[str, Tensor]:
        """This rank's shares (the ranks' shares sum to the batch's loss); "total" is what is minimised.

        Moves the state beside the network, if there is one. The same names at every step.
        """

    def points(self) -> dict[str, float]:
        """What else belongs on the curves now."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: dict[str, Tensor]) -> None: ...

    def validate(self) -> dict[str, float]: ...


class Log(Protocol):
    """Where points go (a tracked run, or nothing)."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Data:
    """The windows trained on; `masks` (n h w) one row per window of their split, or None for image labels only."""

    windows: Windows
    indexes: NDArray[np.int64]
    masks: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Settings:
    course: NetworkParams
    compute: ComputeParams
    checkpoint: CheckpointParams
    seed: int
    identity: dict[str, Any]  # flat: what must be the same for a run to be resumed
    about: dict[str, Any] = field(default_factory=dict)  # kept in the state beside it (the run's id)


class Trained(dict[str, Tensor]):
    """The chosen weights (network and what belongs to it) by name."""

    step: int
    score: float | None


def learning_rate(step: int, course: NetworkParams) -> float:
    """Linear warm-up from `final_learning_rate`, then cosine back to it; a function of the step alone."""
    warm = round(course.warmup * course.steps)
    low, high = course.final_learning_rate, course.learning_rate
    if step < warm:
        return low + (high - low) * (step + 1) / warm
    done = (step - warm) / max(1, course.steps - warm)
    return low + (high - low) * (1 + math.cos(math.pi * done)) / 2


class Stop:
    """Turns the first SIGTERM or SIGINT into a wish to stop; a second one (1 s or more later) exits at once."""

    def __init__(self) -> None:
        self.wished = False
        self._since = math.inf
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _frame: object) -> None:
        if self.wished and time.monotonic() - self._since > 1.0:  # torchrun and a terminal may both pass one Ctrl-C on
            os._exit(128 + number)
        self.wished, self._since = True, min(self._since, time.monotonic())


class Trainer:
    """Trains one task; see `train`."""

    def __init__(
        self,
        task: Task,
        data: Data,
        settings: Settings,
        ranks: Ranks,
        log: Log,
        folder: Path,
        found: checkpoint.Checkpoint | None = None,
    ):
        """`folder` keeps the state; `found` is the state to go on from, of the same settings (see `checkpoint`)."""
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
        self.best_score, self.best_step = -math.inf, 0
        self.saved = time.monotonic()

    def train(self) -> Trained:
        """Run to the last step, from the state that was found if there is one.

        Raises:
            Interrupted: told to stop; the state is saved.
            NotFinite: a loss or a weight that is not finite; the state before it is kept.
        """
        first = self._resume(self.found) if self.found else 0
        if not self.found:
            self._save(0)  # so that a kill in the first minutes is resumed too, in the same tracked run
        course = self.settings.course
        bar = tqdm(total=course.steps, initial=first, disable=not self.ranks.first, unit="step", mininterval=1.0)
        with Stop() as stop, bar:
            self._steps(first, stop, bar)
        self._save(course.steps)
        return self._chosen()

    def _steps(self, first: int, stop: Stop, bar: tqdm) -> None:
        looked, since, timed = [], time.monotonic(), 0
        course = self.settings.course
        for step, batch in enumerate(self._batches(first), start=first):
            seed_draws(self.settings.seed, step, self.ranks.rank)
            losses = self._step(batch, step)
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
                rates = {"learning_rate": learning_rate(step, course), "windows_per_second": rate}
                self.log.log(done, {**named, **rates, **self.task.points(), **system(self.ranks.device)})
            if validate:
                self._validate(done)
            if saving or stopping:
                self._save(done)
            if done % LOG_EVERY == 0:
                since, timed = time.monotonic(), 0  # validation and saves are not training speed
            if stopping and done < course.steps:
                raise Interrupted(f"stopped after step {done} of {course.steps}, saved: run the same command to go on")

    def _batches(self, first: int) -> Iterator[Batch]:
        course, ranks, data = self.settings.course, self.ranks, self.data
        order = (
            data.indexes[
                batch_indexes(len(data.indexes), course.batch, step, self.settings.seed, ranks.rank, ranks.world)
            ]
            for step in range(first, course.steps)
        )
        held = resident(data.windows, data.indexes, ranks.device)
        return held.stream(order, data.masks) if held else stream(data.windows, order, ranks.device, data.masks)

    def _step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.settings.course)
        self.task.network.train()
        losses = self.task.losses(self._forward, batch, step)
        self.optimiser.zero_grad(set_to_none=True)
        (losses["total"] * self.ranks.world).backward()  # DDP takes the mean over ranks, the shares want the sum
        if self.settings.compute.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.task.network.parameters(), self.settings.compute.clip_norm)
        self.optimiser.step()
        return {name: value.detach() for name, value in losses.items()}

    def _forward(self, batch: Batch) -> Any:
        with autocast(self.settings.compute, self.ranks.device):
            return self.forward(batch.images, batch.day, batch.valid)

    def _look_every(self) -> int:
        return LOOK_EVERY_ON_GPU if self.ranks.device.type == "cuda" else 1

    def _look(self, looked: list[tuple[int, Tensor, dict[str, Tensor]]], stop: Stop) -> tuple[bool, bool, dict]:
        """Losses of the steps since the last look, checked and summed over ranks; whether to stop and to save."""
        names = list(looked[-1][2])
        values = torch.stack([torch.stack([losses[name] for name in names]) for _, _, losses in looked])
        due = self.ranks.first and time.monotonic() - self.saved > 60 * self.settings.checkpoint.minutes
        wishes = values.new_tensor([float(stop.wished), float(due)])
        together = self.ranks.total(torch.cat([wishes, values.flatten()])).cpu()
        stopping, saving, rows = *together[:2].tolist(), together[2:].view(len(looked), len(names))
        for (step, index, _), row in zip(looked, rows, strict=True):
            if not torch.isfinite(row).all():
                self._not_finite(step, index, dict(zip(names, row.tolist(), strict=True)))
        return stopping > 0, saving > 0, dict(zip(names, rows[-1].tolist(), strict=True))

    def _not_finite(self, step: int, index: Tensor, losses: dict[str, float]) -> None:
        rate = learning_rate(step, self.settings.course)
        windows = ", ".join(self.data.windows.table["name"].iloc[index.cpu().numpy()])
        raise NotFinite(
            f"step {step}: the loss is not finite {losses}, learning rate {rate:.2e}, windows of rank "
            f"{self.ranks.rank}: {windows}. The last good state is kept in {self.folder}. Lower the learning rate, "
            "set compute.clip_norm, or look at these windows"
        )

    def _check_weights(self, done: int) -> None:
        """A finite loss can have a gradient that is not: such weights are never scored or saved."""
        for name, weight in self.task.network.named_parameters():
            if not torch.isfinite(weight).all():
                raise NotFinite(
                    f"step {done}: the weights {name} are not finite. The last good state is kept in {self.folder}. "
                    "Lower the learning rate or set compute.clip_norm"
                )

    def _validate(self, done: int) -> None:
        self._check_weights(done)
        self.task.network.eval()
        found = self.task.validate()
        self.log.log(done, {f"validation/{name}": value for name, value in found.items()})
        score = found.get(self.task.select or "")
        if score is not None and score > self.best_score:
            self.best_score, self.best_step = score, done
            if self.ranks.first:
                about = {"identity": self.settings.identity, "score": score, "step": done}
                checkpoint.save(self.folder / "best.safetensors", self._weights(), about)

    def _weights(self) -> dict[str, Tensor]:
        network = {f"network/{name}": value for name, value in self.task.network.state_dict().items()}
        return {**network, **self.task.state()}

    def _check_alike(self, done: int) -> None:
        """What moves beside the network must be the same on every rank, to the bit."""
        if not self.ranks.alike(self.task.state()):
            raise TrainingError(f"step {done}: the clues differ between the processes: this is a defect of ours")

    def _save(self, done: int) -> None:
        self._check_weights(done)
        self._check_alike(done)
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
        tensors = {**self._weights(), **checkpoint.optimiser_tensors(self.optimiser)}
        checkpoint.save_last(self.folder, tensors, about)

    def _resume(self, found: checkpoint.Checkpoint) -> int:
        self.task.network.load_state_dict(checkpoint.split(found.tensors, "network/"))
        self.task.restore(found.tensors)
        checkpoint.restore_optimiser(self.optimiser, found.tensors)
        score = found.about["best_score"]
        self.best_score, self.best_step = -math.inf if score is None else score, found.about["best_step"]
        return int(found.about["step"])

    def _chosen(self) -> Trained:
        if self.task.select is None:
            chosen = Trained(self._weights())
            chosen.step, chosen.score = self.settings.course.steps, None
            return chosen
        if self.best_score == -math.inf:
            raise TrainingError(
                f"{self.task.select} was never a number on the validation fold (does it hold every class?): "
                "choose the last weights with `select: last`"
            )
        self.ranks.barrier()  # rank 0 has written the best
        best = checkpoint.load(self.folder / "best.safetensors")
        chosen = Trained(best.tensors)
        chosen.step, chosen.score = best.about["step"], best.about["score"]
        return chosen


def wrapped(network: nn.Module, compute: ComputeParams, ranks: Ranks) -> Callable[..., Any]:
    """The network as the loop calls it: compiled (where that works) and data-parallel where asked."""
    wanted = compute.compile and compiles(ranks.device)
    module: nn.Module = torch.compile(network) if wanted else network  # type: ignore[assignment]
    if ranks.world == 1:
        return module
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices)


def compiles(device: torch.device) -> bool:
    """Whether torch.compile works here: a missing compiler shows only when a compiled function is first called."""
    try:
        torch.compile(lambda x: x.cos() + 1)(torch.zeros(2, device=device))
    except Exception as error:
        reason = [*str(error).splitlines(), type(error).__name__][0]
        logger.warning("compute.compile is set, but torch.compile does not work here (%s): going on without it", reason)
        return False
    return True


def autocast(compute: ComputeParams, device: torch.device) -> torch.autocast:
    """The context in which networks run under `compute.precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute.precision == "bf16")


def seed_draws(seed: int, step: int, rank: int) -> None:
    """Make every random draw of this step and rank a function of the three numbers."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))
