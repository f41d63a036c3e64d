"""A stage's training in the test's own process, without a run store, that a signal can stop at a step."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluemap.stages.stage import Stage
from cluemap.tracking import NoRun


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, task: type, drawing: str, stop: int | None) -> Iterator[None]:
    """In it a stage opens no run and draws nothing (`drawing`, the function's full name); SIGTERM comes in step `stop`
    of a training of `task` (None: never).
    """

    @contextmanager
    def run(self, upstream=(), experiment="training", resume=None):
        yield NoRun()

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "run", run)
        patch.setattr(drawing, lambda *_: None)
        real = task.losses

        def losses(self, forward, batch, step):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, forward, batch, step)

        patch.setattr(task, "losses", losses)
        yield
