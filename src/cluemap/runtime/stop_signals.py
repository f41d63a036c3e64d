"""What signals do: a training stops at the end of a step, with its state saved; a stage closes what it has open."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises SystemExit with 128 + its number, so that open files and runs are closed."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
