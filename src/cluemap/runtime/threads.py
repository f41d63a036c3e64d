"""How many threads compute, and how they wait for each other: decided once, before torch is loaded.

OpenMP's threads meet at the end of every parallel loop. By default those that come first spin there for milliseconds:
good on a quiet machine, but where another job wants the core, the spinning keeps it from the very thread that is waited
for. A short spin and then sleep costs nothing on a quiet machine and leaves a busy one its cores. OpenMP reads its
environment when it is loaded, so `import cluemap` sets it (bench/busy_machine.py measures what it is worth).

The count of threads does not follow the load: sums would be rounded otherwise, and results are to be the same bits.
"""

import math
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
POLICY = "OMP_WAIT_POLICY"
SPIN = "GOMP_SPINCOUNT"  # read by GNU's OpenMP, which torch's Linux wheels hold
TURNS = "1000"  # of its waiting loop before a thread sleeps; its own default is 300,000
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and in how many of the clock


def settle(environment: MutableMapping[str, str]) -> None:
    """Have threads that wait go to sleep soon, unless the user said how they shall wait. Children inherit it."""
    if POLICY not in environment:
        environment.setdefault(SPIN, TURNS)


def share(processes: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of each of so many processes at once: the user's count of threads, else its part of the cores."""
    return {COUNT: environment.get(COUNT) or str(max(1, cores() // processes))}


def cores(quota: Path = QUOTA) -> int:
    """How many cores this process may use: not those that Slurm, taskset or a container keep from it."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return seen if allowed == "max" else max(1, min(seen, math.ceil(int(allowed) / int(period))))
