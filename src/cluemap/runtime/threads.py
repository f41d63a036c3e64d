"""How many threads compute, and how they wait for each other: decided once, before torch is loaded.

OpenMP's threads meet at the end of every parallel loop. By default those that come first spin there for milliseconds:
good on a quiet machine, but where another job wants the core, the spinning keeps it from the very thread that is waited
for. The shorter the spin, the less a busy machine suffers and the more a quiet one loses, and OpenMP reads its
environment only when it is loaded. So `import cluemap` looks whether others use the cores just then, and chooses for
this process (bench/busy_machine.py measures what it is worth, docs/speed.md has the ratios).

The count of threads does not follow the load: sums would be rounded otherwise, and results are to be the same bits.
"""

import math
import os
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

COUNT = "OMP_NUM_THREADS"
POLICY = "OMP_WAIT_POLICY"
SPIN = "GOMP_SPINCOUNT"  # read by GNU's OpenMP, which torch's Linux wheels hold
QUIET, BUSY = "3000", "300"  # turns of its waiting loop before a thread sleeps; its own default is 300,000
LOAD = Path("/proc/loadavg")  # its fourth field: how many threads of the whole machine run or could run just now
LOOKS, APART = 5, 0.002  # seconds; what is there at each look is a job, not a process that happened to start
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and in how many of the clock


def settle(environment: MutableMapping[str, str]) -> None:
    """Choose how long threads that wait spin, unless the user said it; children that import cluemap choose anew."""
    if POLICY not in environment and environment.get(SPIN, QUIET) in (QUIET, BUSY):
        environment[SPIN] = BUSY if crowded(environment) else QUIET


def crowded(environment: Mapping[str, str], load: Path = LOAD) -> bool:
    """Whether this process's threads and what others run now are more than the machine has cores."""
    if not load.exists():  # not Linux, where torch holds another OpenMP
        return False
    given = environment.get(COUNT, "").partition(",")[0].strip()
    threads = int(given) if given.isdecimal() else cores()
    for look in range(LOOKS):  # a quiet machine needs one
        if look:
            time.sleep(APART)
        running = int(load.read_text().split()[3].partition("/")[0])
        if running - 1 + threads <= (os.cpu_count() or 1):
            return False
    return True


def share(processes: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of each of so many processes at once: the user's count of threads, else its part of the cores."""
    return {COUNT: environment.get(COUNT) or str(max(1, cores() // processes))}


def cores(quota: Path = QUOTA) -> int:
    """How many cores this process may use: not those that Slurm, taskset or a container keep from it."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return seen if allowed == "max" else max(1, min(seen, math.ceil(int(allowed) / int(period))))
