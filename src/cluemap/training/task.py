"""What the training loop is given: a task, its data, its settings; and what it gives back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluemap.data.batches import Batch, stream
from cluemap.data.windows import Windows
from cluemap.params import CheckpointParams, ComputeParams, CourseParams
from cluemap.training.device_windows import windows_on_device


class Task(Protocol):
    """What is trained: a network, its losses, and what moves beside it."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def select(self) -> str | None:
        """Score of `validate` that chooses the best weights; None = the last ones."""

    def losses(self, forward: Callable[[Any], Any], batch: Any, step: int) -> dict[str, Tensor]:
        """This rank's shares (the ranks' shares sum to the batch's loss); "total" is what is minimised.

        Moves the state beside the network, if there is one. The same names at every step.
        """

    def points(self) -> dict[str, float]:
        """What else belongs on the curves now."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: dict[str, Tensor]) -> None: ...

    def validate(self) -> dict[str, float]: ...


class NetworkAlone:
    """The part of a task that has nothing beside its network: no curves of its own, no state to keep."""

    def points(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        pass


class Log(Protocol):
    """Where points go (a tracked run, or nothing)."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


class TrainingData(Protocol):
    """What the loop draws its batches from."""

    @property
    def unit(self) -> str:
        """What `indexes` count: windows, parcels."""

    @property
    def stage(self) -> str:
        """The stage that made them."""

    @property
    def output(self) -> str:
        """The output of that stage."""

    @property
    def digest(self) -> str: ...

    @property
    def indexes(self) -> NDArray[np.int64]: ...

    def names(self, indexes: NDArray[np.int64]) -> list[str]: ...

    def batches(self, order: Iterable[tuple[int, NDArray[np.int64]]], device: torch.device) -> Iterator[Any]:
        """One batch per step and its indexes; what is drawn in it depends on the step alone."""


@dataclass(frozen=True)
class Data:
    """The windows trained on; `masks` (n h w) one row per window of their split, or None for image labels only;
    `probabilities` (n h w s) too, in 255ths, where masks are not sure.
    """

    windows: Windows
    indexes: NDArray[np.int64]
    masks: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.uint8] | None = None
    unit: ClassVar[str] = "windows"
    stage: ClassVar[str] = "prepare"
    output: ClassVar[str] = "windows"

    @property
    def digest(self) -> str:
        return self.windows.card.digest

    def names(self, indexes: NDArray[np.int64]) -> list[str]:
        return list(self.windows.table["name"].iloc[indexes])

    def batches(self, order: Iterable[tuple[int, NDArray[np.int64]]], device: torch.device) -> Iterator[Batch]:
        chosen = (indexes for _, indexes in order)
        held = windows_on_device(self.windows, self.indexes, device)
        if held:
            return held.stream(chosen, self.masks, self.probabilities)
        return stream(self.windows, chosen, device, self.masks, probabilities=self.probabilities)


@dataclass(frozen=True)
class Settings:
    course: CourseParams
    compute: ComputeParams
    checkpoint: CheckpointParams
    seed: int
    identity: dict[str, Any]  # flat: what must be the same for a run to be resumed
    about: dict[str, Any] = field(default_factory=dict)  # kept in the state beside it (the run's id)
    rate: Callable[[int], float] | None = None  # learning rate of a step; None: the course's warm-up and cosine


@dataclass(frozen=True)
class Pretraining:
    """A training that comes before another one of the same weights; it keeps its own state, so both resume."""

    task: Task
    course: CourseParams
    rate: Callable[[int], float]
    frozen: nn.Module  # takes no part in it


class Trained(dict[str, Tensor]):
    """The chosen weights (network and what belongs to it) by name."""

    step: int
    score: float | None
