"""A small share of bench/fuzz_readers.py: damaged files end in a clear error or in arrays."""

import sys

import numpy as np
import pytest
from locations import PROJECT

from cluemap.data.formats.pastis import load_array
from cluemap.errors import DataError
from cluemap.files import open_array

sys.path.insert(0, str(PROJECT / "bench"))

import fuzz_readers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by /proc")


@pytest.mark.slow
def test_no_traceback_no_hang():
    counts, faults = fuzz_readers.fuzz(84, seed=5)
    assert not faults, "\n".join(faults)
    assert len(counts) == 14
    assert sum(found["refused"] for found in counts.values()) > 10


def test_a_reader_that_fails_is_found():
    """The bench itself can see a fault."""
    kind = fuzz_readers.Kind(fuzz_readers.Path("a/b"), 0, lambda folder: 1 / 0)
    found, said = fuzz_readers.outcome(kind, fuzz_readers.Path("/"), b"")
    assert found == "traceback"
    assert "ZeroDivisionError" in said


@pytest.mark.parametrize(
    ("sound", "broken"),
    [
        (b"}", b" "),  # the text never ends
        (b"(2, 3)", b"(2, 3 "),
        (b"'shape'", b" shape "),
        (b"False", b"$$$$$"),
        (b"(2, 3), ", b"(90000,)"),
        (b"{'descr'", b"\n  \n{'d'"),
    ],
)
@pytest.mark.parametrize("read", [load_array, lambda path: open_array(path, np.int16, (2, 3), "run it again")])
def test_headers_of_arrays(tmp_path, read, sound, broken):
    """NumPy has many kinds of exceptions for them."""
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.int16))
    content = (tmp_path / "a.npy").read_bytes()
    assert sound in content
    (tmp_path / "a.npy").write_bytes(content.replace(sound, broken.ljust(len(sound))))
    with pytest.raises(DataError, match=r"a.npy"):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("read", [load_array, lambda path: open_array(path, np.int16, (2, 3), "run it again")])
def test_a_header_that_claims_more_than_there_is(tmp_path, read):
    with (tmp_path / "a.npy").open("wb") as handle:
        np.lib.format.write_array_header_1_0(
            handle, {"descr": "<i2", "fortran_order": False, "shape": (10**9, 10**9, 10)}
        )
    with pytest.raises(DataError, match=r"a.npy"):
        read(tmp_path / "a.npy")
