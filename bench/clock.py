"""Timing: the ceiling of the machine and the thing that is measured, in turns, so that both see the same load."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is the ceiling
COPIED = 2**26  # numbers in the copied array


class Clock:
    """`wall`: the clock on the wall. `cpu`: seconds of this process's one thread, for machines that do other work."""

    def __init__(self, device: str, kind: str = "wall", side: int = 0):
        """side: of the matrices of the ceiling; 0 = as usual on this kind of device."""
        self.device, self.read = device, time.process_time if kind == "cpu" else time.perf_counter
        self.side = side or SIDE[device]

    def seconds(self, work: Callable[[], object]) -> float:
        self._wait()
        start = self.read()
        work()
        self._wait()
        return self.read() - start

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def product_rate(self, dtype: torch.dtype) -> float:
        """GFLOP/s of one matrix product."""
        left, right = torch.randn(2, self.side, self.side, device=self.device).to(dtype)
        left @ right
        repeats = 10 if self.device == "cuda" else 1
        return 2 * repeats * self.side**3 / 1e9 / self.seconds(lambda: [left @ right for _ in range(repeats)])

    def copy_rate(self) -> float:
        """GB/s read and written by one copy."""
        source = torch.zeros(COPIED, device=self.device)
        target = torch.empty_like(source).copy_(source)
        return 2 * source.nbytes / 1e9 / self.seconds(lambda: target.copy_(source))

    def in_turns(self, work: Callable[[], object], rounds: int) -> tuple[float, float]:
        """Median seconds of `work`, and the median fp32 ceiling beside it in GFLOP/s.

        Two tries before are not measured: in them the process gets its memory, which a long run gets once.
        """
        for _ in range(2):
            work()
        times, ceilings = [], []
        for _ in range(rounds):
            ceilings.append(self.product_rate(torch.float32))
            times.append(self.seconds(work))
        return statistics.median(times), statistics.median(ceilings)


def peak_memory(device: str) -> float:
    """GB: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent's memory before this process was its own
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
