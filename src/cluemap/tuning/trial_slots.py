"""What tuning holds while it runs: its places, its shares of the machine, and the trial on each."""

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluemap.tracking import NoRun, Run
from cluemap.tuning.objectives import Objective
from cluemap.tuning.study import Asked
from cluemap.tuning.trial import Running


@dataclass(frozen=True)
class Place:
    """Where a study's trials lie, and what they start from."""

    dataset: str
    folder: Path  # of the study
    base: Path  # the params file they change
    prepared: Path
    state: Path  # folder of the runs' journals


@dataclass
class Trial:
    """A trial under way."""

    asked: Asked
    running: Running
    aim: Objective
    tracked: AbstractContextManager[Run | NoRun]
    run: Run | NoRun
    reported: set[int] = field(default_factory=set)
    why: str = ""  # pruned | stopped | lost: why it was told to end
    alive: float = field(default_factory=time.monotonic)

    def end(self, why: str) -> None:
        self.why = why
        self.running.stop(*([10.0] if why == "pruned" else []))

    def report(self, point: dict[str, Any], reports: int) -> tuple[int, float] | None:
        """A point's (number of the report, score), if it is one that the study does not have."""
        value = point["values"].get(f"validation/{self.aim.curve}")
        index = round((point["step"] - self.aim.first) * reports / max(1, self.aim.steps - self.aim.first))
        if self.why or value is None or not math.isfinite(value) or index < 1 or index in self.reported:
            return None
        self.reported.add(index)
        return index, value


@dataclass
class Slot:
    """A share of the machine, and the trial on it."""

    share: dict[str, str]
    trial: Trial | None = None

    @property
    def busy(self) -> bool:
        return self.trial is not None
