"""A .npy file that is written piece by piece, so that no more than a piece is ever in memory."""

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cluemap.errors import DataError

READ_BYTES = 1 << 24  # of an unfinished file are read at once


@dataclass(frozen=True)
class Extent:
    """How far a growing file had come: enough to open it again, and to see that it still holds the same."""

    dtype: str
    row: tuple[int, ...]
    length: int
    digest: str


class GrowingArray:
    """An array (n, *row) on disk whose n grows with every `append`; the header is put right by `close`."""

    def __init__(self, path: Path, dtype: DTypeLike, row: tuple[int, ...] = (), before: Extent | None = None) -> None:
        self.path, self.dtype, self.row, self.length = path, np.dtype(dtype), tuple(row), 0
        self.digest = blake2b(digest_size=16)
        self._file = open(path, "r+b" if before else "wb", buffering=0)  # noqa: SIM115 (closed by close and discard)
        self._write_header()
        self._first = self._file.tell()
        if before:
            self._take(before)

    @classmethod
    def reopened(cls, path: Path, before: Extent) -> "GrowingArray":
        """Go on with an unfinished file after its first `before.length` rows; what follows them is cut off.

        Raises:
            DataError: the file is missing or cut short, or those rows are not what they were.
        """
        if not path.exists():
            raise DataError(f"{path} is missing")
        return cls(path, before.dtype, before.row, before)

    @property
    def extent(self) -> Extent:
        return Extent(self.dtype.str, self.row, self.length, self.digest.hexdigest())

    def append(self, rows: NDArray) -> int:
        """Add rows (m, *row) at the end; returns the position of the first of them."""
        rows = np.ascontiguousarray(rows)
        if rows.dtype != self.dtype or rows.shape[1:] != self.row:
            raise ValueError(f"{self.path} takes {self.dtype} (n, *{self.row}), not {rows.dtype} {rows.shape}")
        content = rows.reshape(-1).view(np.uint8).data
        self.digest.update(content)
        while content:  # an unbuffered file may take a part at a time
            content = content[self._file.write(content) :]
        self.length += len(rows)
        return self.length - len(rows)

    def content(self) -> bytes:
        """All rows so far."""
        return self.path.read_bytes()[self._first :]

    def sync(self) -> None:
        """Make sure that the rows so far are on disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write the final header and make sure that all of it is on disk."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._first:  # numpy leaves room for a growing first axis; be sure it still does
            raise RuntimeError(f"the header of {self.path} grew")
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Let the file go as it is, after a failure."""
        self._file.close()

    def _take(self, before: Extent) -> None:
        """Read the rows of before once, for the digest, which cannot be saved half done."""
        left = before.length * self.dtype.itemsize * int(np.prod(self.row))
        end = self._first + left
        while left and (content := self._file.read(min(left, READ_BYTES))):
            self.digest.update(content)
            left -= len(content)
        if left or self.digest.hexdigest() != before.digest:
            self._file.close()
            raise DataError(f"{self.path} is {'cut short' if left else 'damaged'}")
        self._file.truncate(end)
        self.length = before.length

    def _write_header(self) -> None:
        shape = (self.length, *self.row)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
