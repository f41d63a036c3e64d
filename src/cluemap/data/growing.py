"""A .npy file that is written piece by piece, so that no more than a piece is ever in memory."""

import os
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray


class GrowingArray:
    """An array (n, *row) on disk whose n grows with every `append`; the header is put right by `close`."""

    def __init__(self, path: Path, dtype: DTypeLike, row: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.row, self.length = path, np.dtype(dtype), row, 0
        self.digest = blake2b(digest_size=16)
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed by close and discard)
        self._write_header()
        self._first = self._file.tell()

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

    def _write_header(self) -> None:
        shape = (self.length, *self.row)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
