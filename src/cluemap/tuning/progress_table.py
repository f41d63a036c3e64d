"""What tuning says while it runs: one line a trial that ended."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluemap.tuning.search_space import Tuning
from cluemap.tuning.study import Row


class Table:
    """Prints a line for each trial: number, what became of it, score, best score, minutes left, its values."""

    def __init__(self, tuning: Tuning, say: Callable[[str], None]):
        self.tuning, self.say = tuning, say
        self.wanted, self.before, self.since = 0, -1, time.monotonic()

    def begin(self, wanted: int, jobs: int) -> None:
        self.wanted, self.since = wanted, time.monotonic()
        self.say(
            f"{wanted} trials of {self.tuning.budget:g} x the steps, {jobs} at once, score {self.tuning.scores[0]}"
        )
        self.say(f"{'trial':>5} {'state':<10} {'score':>7} {'best':>7} {'done':>7} {'left':>8}  values")

    def line(self, row: Row, rows: Sequence[Row], values: Mapping[str, Any], error: str) -> None:
        """Say what became of one trial; `error` is shown by its last line."""
        complete = [row.values[0] for row in rows if row.state == "COMPLETE"]
        score = row.values[0] if row.values else max(row.reports.items(), default=(0, float("nan")))[1]
        done = sum(row.finished for row in rows)
        state = "infeasible" if row.infeasible else row.state.lower()
        said = f"  ({error.strip().splitlines()[-1]})" if error.strip() else ""
        best = max(complete, default=float("nan"))
        self.say(
            f"{row.number:>5} {state:<10} {100 * score:>7.2f} {100 * best:>7.2f} {done:>3}/{self.wanted:<3} "
            f"{self._left(done):>8}  {shown(values)}{said}"
        )

    def _left(self, done: int) -> str:
        if self.before < 0:  # the first trial to end: no rate yet, and an earlier start's trials do not count
            self.before, self.since = done, time.monotonic()
            return ""
        if done <= self.before:
            return ""
        minutes = (time.monotonic() - self.since) / (done - self.before) * max(0, self.wanted - done) / 60
        return f"{minutes:.0f} min"


def shown(values: Mapping[str, Any]) -> str:
    """Values in few words: `count=3 kind=power sharpness=1.2`; the block stays where the name alone is not enough."""
    names = [key.rpartition(".")[2] for key in values]
    short = [name if names.count(name) == 1 else key for key, name in zip(values, names, strict=True)]
    plain = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values.values()]
    return " ".join(f"{name}={value}" for name, value in zip(short, plain, strict=True))
