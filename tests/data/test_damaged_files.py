"""A small share of bench/fuzz_readers.py: damaged files end in a clear error or in arrays."""

import sys

import pytest
from locations import PROJECT

sys.path.insert(0, str(PROJECT / "bench"))

import fuzz_readers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by /proc")


def test_no_traceback_no_hang():
    counts, faults = fuzz_readers.fuzz(66, seed=5)
    assert not faults, "\n".join(faults)
    assert len(counts) == 11
    assert sum(found["refused"] for found in counts.values()) > 10


def test_a_reader_that_fails_is_found():
    """The bench itself can see a fault."""
    kind = fuzz_readers.Kind(fuzz_readers.Path("a/b"), 0, lambda folder: 1 / 0)
    found, said = fuzz_readers.outcome(kind, fuzz_readers.Path("/"), b"")
    assert found == "traceback"
    assert "ZeroDivisionError" in said
