"""What other jobs on the machine cost a training: its rate beside none, one and two single-threaded jobs.

Every way of choosing threads is a process of its own that takes steps of the demo's classifier in short bursts, in
turns with the others, so that all see the same machine. The table shows each way's median rate as a ratio to that of
one thread beside no job. CPU time that neither the training nor the jobs used is other people's: no burst begins while
they use more than `--foreign` cores, and one during which they do is thrown away. On a machine that is never quiet,
`--foreign 99` measures all the same: the columns then say what so many jobs more cost.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from cluemap.runtime import threads

WAYS = {  # how a process waits and in how many threads: its environment
    "one thread": {"OMP_NUM_THREADS": "1"},
    "OpenMP's own": {"OMP_NUM_THREADS": str(os.cpu_count()), "GOMP_SPINCOUNT": "300000"},
    "cluemap, started on a quiet machine": {"GOMP_SPINCOUNT": threads.QUIET, "OMP_NUM_THREADS": str(os.cpu_count())},
    "cluemap, started on a busy machine": {"GOMP_SPINCOUNT": threads.BUSY, "OMP_NUM_THREADS": str(os.cpu_count())},
    "passive": {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "PASSIVE"},
}
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
JOB = "while True: pass"
JOBS = (0, 1, 2)
Burst = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="at most so long (default: 2)")
    parser.add_argument("--burst", type=float, default=0.7, help="seconds of one measurement (default: 0.7)")
    parser.add_argument(
        "--foreign", type=float, default=0.15, help="cores that others may use meanwhile (default: 0.15)"
    )
    parser.add_argument("--jobs", type=int, nargs="+", default=JOBS, help="jobs beside it (default: 0 1 2)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="WAY", help=f"of: {', '.join(WAYS)}")
    parser.add_argument("--spin", type=int, nargs="*", default=[], help="also with these GOMP_SPINCOUNTs")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child()
        return
    ways = {name: WAYS[name] for name in ("one thread", *given.ways)}
    ways |= {f"spin {count}": {**WAYS["OpenMP's own"], "GOMP_SPINCOUNT": str(count)} for count in given.spin}
    print(table(rounds(ways, given), list(ways), given))


def child() -> None:
    """Take steps for as many seconds as each line of stdin says; print how many, and the CPU seconds they cost."""
    from work import CLASSIFIER, SIZES, batch, params, ranks, training

    from cluemap.runtime.memory import keep_freed

    # isort: split
    import torch

    keep_freed()
    size, told, here = SIZES["demo"], params("demo", "fp32"), ranks("cpu")
    take, made = training(CLASSIFIER, size, told, here), batch(size, here.device)
    step = lambda: take(made, told.clues.start_step)
    for _ in range(5):
        step()
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        start, used, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < float(line):
            step()
            steps += 1
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
        print(json.dumps({"rate": steps / seconds, "cpu": cpu, "steps": steps}), flush=True)


def rounds(ways: dict[str, dict[str, str]], given: argparse.Namespace) -> list[dict[tuple[str, int], Burst]]:
    """Every way beside every number of jobs, again and again until the time is over; what was disturbed is left out."""
    found: list[dict[tuple[str, int], Burst]] = []
    with ExitStack() as stack:
        trainings = {name: stack.enter_context(training(more)) for name, more in ways.items()}
        for process in trainings.values():
            wait_until_ready(process)
        jobs = [stack.enter_context(job()) for _ in range(max(given.jobs))]
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end:
            found.append({})
            for count in given.jobs:
                for name in ways:
                    while disturbed(given.foreign) and time.monotonic() < end:
                        time.sleep(0.5)
                    burst = measured(trainings[name], jobs[:count], given.burst)
                    if burst["foreign"] <= given.foreign:
                        found[-1][name, count] = burst
    return found


def disturbed(foreign: float) -> bool:
    """Whether others use more than so many cores just now."""
    start, busy = time.monotonic(), busy_seconds()
    time.sleep(0.2)
    return (busy_seconds() - busy) / (time.monotonic() - start) > foreign


def measured(process: subprocess.Popen, jobs: list[subprocess.Popen], seconds: float) -> Burst:
    """One burst of this training beside these jobs."""
    for other in jobs:
        other.send_signal(signal.SIGCONT)
    start, busy, used = time.monotonic(), busy_seconds(), [cpu_seconds(other) for other in jobs]
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    burst = json.loads(process.stdout.readline())
    wall, busy = time.monotonic() - start, busy_seconds() - busy
    beside = sum(cpu_seconds(other) - before for other, before in zip(jobs, used, strict=True))
    for other in jobs:
        other.send_signal(signal.SIGSTOP)
    return {**burst, "foreign": max(0.0, busy - burst["cpu"] - beside) / wall}


@contextmanager
def training(more: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is ready to take steps."""
    clean = {name: value for name, value in os.environ.items() if name not in OPENMP}
    line = [sys.executable, __file__, "--child"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env={**clean, **more}, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    if not process.stdout.readline():
        sys.exit("the training to measure did not start")


@contextmanager
def job() -> Iterator[subprocess.Popen]:
    """A single-threaded job of somebody else's (a session of its own), stopped for now."""
    process = subprocess.Popen([sys.executable, "-S", "-c", JOB], start_new_session=True)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used."""
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)


def cpu_seconds(process: subprocess.Popen) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def table(found: list[dict[tuple[str, int], Burst]], ways: list[str], given: argparse.Namespace) -> str:
    """One row a way, one column a number of jobs: median ratio to one thread beside none, and how many rounds."""
    lines = ["| threads | " + " | ".join(f"{count} jobs beside" for count in given.jobs) + " |"]
    lines.append("|---" * (len(given.jobs) + 1) + "|")
    quiet = [burst["rate"] for each in found if (burst := each.get(("one thread", 0)))]
    for name in ways:
        cells = []
        for count in given.jobs:
            rates = [burst["rate"] for each in found if (burst := each.get((name, count)))]
            share = f"{statistics.median(rates) / statistics.median(quiet):.2f}" if rates and quiet else "-"
            cells.append(f"{share} ({len(rates)} of {len(found)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
