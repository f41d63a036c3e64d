"""How this process asks its system for memory, and how much it held."""

import ctypes
import resource
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt
KEPT = 2**31 - 1  # bytes, the largest that mallopt takes


def keep_freed() -> None:
    """glibc: keep large blocks for the next step instead of giving them back, since each new page costs a fault.

    Other systems' allocators are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        mallopt(MMAP_THRESHOLD, KEPT)
        mallopt(TRIM_THRESHOLD, KEPT)


def give_back_freed() -> None:
    """glibc: pages of which nothing is in use go back to the system, whatever `keep_freed` said (some milliseconds).

    For work in large pieces beside a cache that grows, where what was kept does not fit the next piece.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak(who: int = resource.RUSAGE_SELF) -> int:
    """The most bytes that this process (or, with RUSAGE_CHILDREN, the largest one it started) held at once."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(who).ru_maxrss * unit
