"""One study, many parents, trouble: are trials lost or doubled, and what does the 200th `ask` cost against the 10th?

    python bench/tune_at_scale.py                   # 200 trials, 4 parents, 6 kills, PostgreSQL away for 60 s

Parents are `src/tune.py` as people start it; the stage is the stand-in of the tests, which trains nothing in a second.
At random moments a parent is killed (SIGKILL) amid a trial and started again; in the middle the database is stopped as
by a crash. Then the study in the database is held against what the stand-ins wrote down: numbers without a gap, each
trial finished once, each score that of its params, no two trials with the same params. The cost of `ask` is measured
afterwards, on a study of its own, in one process: TPE looks at all trials so far. Needs PostgreSQL's programs.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tuned
from servers import Postgresql, postgresql_server

from cluemap.tuning.search_space import read_tuning
from cluemap.tuning.study import Row, Study
from cluemap.tuning.tuner import identity

NEAR = 5  # asks on either side of the one whose cost is given


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, text in (
        ("trials", 200, "finished trials that the study shall have"),
        ("parents", 4, "processes of src/tune.py"),
        ("kills", 6, "parents killed on the way"),
        ("outage", 60, "seconds that the database is away in the middle"),
        ("seed", 0, "of the moments of the kills"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgresql_server() as server:
        found = measure(Path(folder), server, given.trials, given.parents, given.kills, given.outage, given.seed)
    print(json.dumps(found, indent=2))
    return 0 if not found["problems"] else 1


def measure(
    folder: Path, server: Postgresql, trials: int, parents: int, kills: int, outage: float, seed: int = 0
) -> dict[str, Any]:
    """Run the study through its trouble; gives what became of its trials, and seconds of an `ask`."""
    tuned.make_project(folder, {"pace": 0.03})
    start = time.monotonic()
    with ExitStack() as stack:
        killed = trouble(folder, server, trials, parents, kills, outage, random.Random(seed), stack)
    seconds = time.monotonic() - start
    rows = opened(folder, server.address, "study").rows()
    events = tuned.events(folder)
    return {
        "trials": len(rows),
        "states": dict(Counter(row.state for row in rows)),
        "killed parents": killed,
        "seconds": round(seconds),
        "started more than once": sum(count > 1 for count in words(events, "start").values()),
        "problems": problems(rows, events, trials) + [f"process {pid} is left" for pid in tuned.alive(folder)],
        "seconds of an ask": asks(folder, server.address, trials),
    }


def trouble(
    folder: Path, server: Postgresql, trials: int, parents: int, kills: int, outage: float, dice: random.Random,
    stack: ExitStack,
) -> int:  # fmt: skip
    """Keep the parents going until all end by themselves; gives how many were killed."""
    command = tuned.command("--trials", str(trials), "--storage", server.address)
    environment = tuned.environment(folder, CLUEMAP_TRACKING="off")
    log = stack.enter_context((folder / "parents.txt").open("wb"))

    def parent() -> subprocess.Popen[bytes]:
        made = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        stack.callback(made.kill)
        return made

    running = [parent() for _ in range(parents)]
    shots = sorted(dice.sample(range(1, trials - parents), kills))  # by trials that have ended
    back, killed = 0.0, 0  # when the database was there again
    while any(one.poll() != 0 for one in running):
        time.sleep(0.2)
        for index, one in enumerate(running):
            unlucky = one.poll() == 2 and time.monotonic() < back + 30  # started while the database was away
            if one.poll() == -9 or unlucky:
                running[index] = parent()
            elif one.poll() not in (None, 0):
                raise RuntimeError(f"a parent ended with {one.returncode}:\n{(folder / 'parents.txt').read_text()}")
        events = tuned.events(folder)
        ended = sum((words(events, "done") + words(events, "stopped")).values())
        if not back and ended >= trials // 2:
            server.stop()
            time.sleep(outage)
            server.start()
            back = time.monotonic()
        if shots and ended >= shots[0] and (hit := busy(events, running)):
            shots.pop(0)
            hit.kill()
            killed += 1
    return killed


def busy(events: list[list[str]], running: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes] | None:
    """A parent whose trial is under way: that of the stand-in which reported last."""
    last = {trial: (word, int(process)) for trial, word, process, *_ in events}
    for word, process in reversed(last.values()):
        if word.startswith("report") and psutil.pid_exists(process):
            above = psutil.Process(process).ppid()
            return next((one for one in running if one.pid == above and one.poll() is None), None)
    return None


def words(events: list[list[str]], word: str) -> Counter[str]:
    """Trial -> how often its stand-in said so."""
    return Counter(event[0] for event in events if event[1] == word)


def problems(rows: list[Row], events: list[list[str]], trials: int) -> list[str]:
    """What is wrong with the study; [] = every trial is there once."""
    found = []
    finished = [row for row in rows if row.finished]
    if len(finished) != trials or len(rows) != trials:
        found.append(f"{len(rows)} trials, {len(finished)} finished, {trials} wanted")
    if [row.number for row in rows] != list(range(len(rows))):
        found.append("numbers with gaps or twice")
    twice = [number for number, count in words(events, "done").items() if count > 1]
    found += [f"trial {number} was run to its end twice" for number in twice]
    alike = Counter(json.dumps(row.params, sort_keys=True) for row in rows)
    found += [f"{count} trials with {params}" for params, count in alike.items() if count > 1]
    for row in finished:
        score = 0.9 - abs(row.params["clues.count"] - 4) / 10  # the stand-in's
        reported = set(row.reports.values()) or {row.values[0]}
        if any(abs(value - score) > 1e-9 for value in (*row.values, *reported)):
            found.append(f"trial {row.number} has another trial's score")
        if row.state == "COMPLETE" and f"{row.number:04d}" not in words(events, "done"):
            found.append(f"trial {row.number} is complete and was never run to its end")
    return found


def asks(folder: Path, url: str, trials: int) -> dict[str, float]:
    """Seconds of the 10th and of the last `ask` of a study (the median of the asks around it), and the worst."""
    study = opened(folder, url, "asks")
    taken = []
    for index in range(trials):
        start = time.perf_counter()
        asked = study.next(trials)
        taken.append(time.perf_counter() - start)
        assert asked is not None
        for step in range(1, 10):
            study.report(asked, step, 0.5 + 0.001 * index)
        study.complete(asked, [0.9 - abs(asked.values["clues.count"] - 4) / 10])
    around = {f"ask {number}": taken[max(0, number - 1 - NEAR) : number + NEAR] for number in (10, trials)}
    return {name: round(statistics.median(some), 4) for name, some in around.items()} | {"worst": round(max(taken), 4)}


def opened(folder: Path, url: str, name: str) -> Study:
    read = read_tuning("tiny", folder / "params.yaml")
    return Study(url, name, read, identity(read, folder / "out" / "tiny" / "prepare"), "tpe", 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
