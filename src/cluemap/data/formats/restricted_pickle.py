"""Reading pickles without trusting them: numpy arrays and plain containers only, rebuilt by our own code.

None of numpy's own unpickling functions is reached: they would hand a file's bytes to C code as array and type
descriptions. The stand-ins below take the few shapes that numpy's pickles have and refuse everything else.
"""

import io
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluemap.errors import DataError

_TYPES = re.compile(r"b1|[iuf][1248]")


class _Refused(pickle.UnpicklingError):
    """The file holds something that is not admitted; the message says what."""


class _Type:
    """Stands in for numpy.dtype: a plain number type and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _TYPES.fullmatch(code):
            raise _Refused(f"an array of type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise _Refused(f"an array type with state {state!r}")
        self.order = state[1]

    def __call__(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for numpy.ndarray while its pickle is read; `content` is the array."""

    content: NDArray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.content = _from_bytes(raw, kind, shape, "F" if fortran else "C").content


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_bytes(raw: Any, kind: Any, shape: Any, order: str) -> _Array:
    if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Type) or order not in ("C", "F"):
        raise _Refused(f"an array made of {type(raw).__name__} and {type(kind).__name__}")
    array = _Array()
    array.content = np.frombuffer(raw, kind()).reshape(shape, order=order)  # type: ignore[call-overload]
    return array


def _scalar(kind: Any, raw: Any) -> Any:
    return _from_bytes(raw, kind, (1,), "C").content[0]


def _encode(text: str, coding: str) -> bytes:
    """How pickles of protocol 2 and older hold bytes."""
    if coding != "latin1":
        raise _Refused(f"bytes in the coding {coding!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        now = re.sub(r"^numpy\.core\b", "numpy._core", module)  # numpy 1 wrote numpy.core, numpy 2 writes numpy._core
        if (now, name) not in _ADMITTED:
            raise _Refused(f"the foreign global {module}.{name}")
        return _ADMITTED[now, name]


def load_pickle(path: Path) -> dict[str, Any]:
    """The dict in a pickle file, its arrays as numpy arrays.

    Raises:
        DataError: missing, damaged, no dict, or holding anything but arrays and plain containers. Names the file and
            the global that was refused; nothing of it has run.
    """
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes())).load()
        plain = {str(key): _plain(value) for key, value in content.items()}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: fetch it again") from None
    except _Refused as error:
        raise DataError(
            f"{path} was refused, it holds {error}: only number arrays may be in it; fetch it again"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way; whatever it is, the file is at fault
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} is damaged or holds no dict ({what}): fetch it again") from None
    return plain


def _plain(value: Any) -> Any:
    return value.content if isinstance(value, _Array) else value
