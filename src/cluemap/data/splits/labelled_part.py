"""Few labels: which training windows keep theirs where the params block `labelled` hides the others'.

What is hidden is hidden from every stage (`Windows.hiding`); the images stay, for methods that learn from them.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.params import LabelledParams


def with_known_labels(windows: Windows, params: LabelledParams, root: Path, masks: bool = True) -> Windows:
    """The windows as `labelled` lets them be known; the same ones where it hides nothing. `root`: of `labelled.file`.

    `masks`: for those who learn from true masks; without it `labelled.kind: masks` hides nothing.

    Raises:
        DataError: the file is missing or names a window that is not in the training split, or no window has labels.
    """
    if params.all or (params.kind == "masks" and not masks):
        return windows
    train = windows.indexes("train")
    if params.file:
        known = named_windows(windows, root / params.file)
    else:
        count = params.count or max(1, round(params.share * len(train)))
        if count > len(train):
            raise DataError(f"labelled.count is {count}, the training split holds {len(train)} windows: give fewer")
        known = train[even_order(windows.image_labels[train], params.seed)[:count]]
    return windows.hiding(np.setdiff1d(train, known), image_labels=params.kind == "image_labels")


def even_order(labels: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """n k -> the n windows in an order whose every beginning holds about the same share of each class.

    The next window is one of the class of which the smallest share was taken, the rarest first; windows without any
    class are a class of their own. So few windows hold every class, and more labels keep those that fewer have.
    """
    labels = np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1)
    labels = labels[:, labels.any(axis=0)]
    held = labels.sum(axis=0)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    waiting = [shuffled[labels[shuffled, k]] for k in range(len(held))]
    place, taken = np.zeros(len(held), np.int64), np.zeros(len(held), np.int64)
    free, order = np.ones(len(labels), bool), []
    for _ in range(len(labels)):
        share = np.where(taken < held, taken / held, np.inf)
        k = np.lexsort((held, share))[0]
        while not free[waiting[k][place[k]]]:
            place[k] += 1
        window = waiting[k][place[k]]
        free[window] = False
        taken += labels[window]
        order.append(window)
    return np.array(order, np.int64)


def named_windows(windows: Windows, file: Path) -> NDArray[np.int64]:
    """The training windows that a text file names, one a line: windows ("10000_3") or whole patches ("10000").

    Raises:
        DataError: it is missing, empty, or names what is not in the training split.
    """
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labelled.file: {file} cannot be read ({error}): give a text file, a name a line") from None
    if not names:
        raise DataError(f"labelled.file: {file} names no window: write one name a line, or leave labelled.file empty")
    train = windows.indexes("train")
    window, patch = (windows.table[column].to_numpy(object)[train] for column in ("name", "patch"))
    unknown = sorted(set(names) - set(window) - set(patch))
    if unknown:
        raise DataError(f"labelled.file: {file} names {unknown[0]!r}, no window or patch of the training split")
    return train[np.isin(window, names) | np.isin(patch, names)]
