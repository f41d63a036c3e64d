"""What the allocator keeps, seen as resident memory of a process of its own."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
KEPT_AND_GIVEN_BACK = """
import ctypes, numpy as np
from cluemap.runtime.memory import give_back_freed, keep_freed
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
keep_freed()
before = resident()
held = [np.ones(2**20 // 8) for _ in range(200)]  # 1 MB each
del held[::2], held[:50]
kept = resident() - before
give_back_freed()
print(kept, resident() - before, len(held), sum(one.sum() for one in held) == len(held) * 2**17)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator alone"
)
def test_freed_memory_is_kept_until_it_is_given_back():
    found = subprocess.run(
        [sys.executable, "-c", KEPT_AND_GIVEN_BACK], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
    ).stdout.split()  # fmt: skip
    kept, left, held, whole = int(found[0]), int(found[1]), int(found[2]), found[3]
    assert kept > 190  # MB: nothing of the 150 that were freed
    assert left < held + 20  # the 50 in use, among gaps
    assert whole == "True"
