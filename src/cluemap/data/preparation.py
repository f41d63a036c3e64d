"""Stage prepare: a published data set in, the common form out, in one pass over the raw data."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cluemap.data.patches import SPLITS, Reader
from cluemap.data.preparation_state import ARRAYS, Progress, identity_of, publish, workplace
from cluemap.data.window_writer import Writer, moments
from cluemap.data.windowing import CutWindow, cut, date_choice
from cluemap.errors import DataError
from cluemap.params import Params, WindowParams
from cluemap.runtime import threads

MOST_WORKERS = 8  # more only wait for the one that writes
Result = TypeVar("Result")
Piece = tuple[CutWindow, np.ndarray]  # a window and the moments of its images
log = logging.getLogger(__name__)


def prepare(
    reader: Reader,
    params: Params,
    folder: Path | str,
    progress: bool = True,
    workers: int | None = None,
    state: Path | None = None,
) -> dict[str, Any]:
    """Write the common form of `reader`'s patches to `folder`, whole or not at all; returns the stage's metrics.

    `workers`: how many threads read and cut patches (default: one a core). The result does not depend on it.
    `state`: the folder where unfinished work is kept, for the next call to continue (default: nothing is kept).

    Raises:
        DataError: bad raw data, two windows of one name, a split without windows, or no room on the disk.
    """
    folder = Path(folder)
    for text in getattr(reader, "notes", ()):
        log.warning("%s", text)
    with _full_disk_named(folder, state), workplace(folder, state) as place:
        open_writer = partial(Writer, place / ARRAYS, reader.legend, params.windows.size, params.windows.presence)
        work = Progress(place, identity_of(reader, params), open_writer)
        try:
            _write(work, reader, params, progress, workers or min(MOST_WORKERS, threads.cores()))
            _check(work.writer, params)
            _check_known(work.writer)
            card = work.writer.finish(params.dataset, date_choice(params.windows, reader.legend))
            _note_unseen(reader, place / ARRAYS)
        finally:
            work.discard()
        written = sum(file.stat().st_size for file in (place / ARRAYS).iterdir())
        publish(place, folder)
    counts = {**card["counts"], "all": len(work.writer.rows)}
    return {**_metrics(work.writer), **_absent(reader), "bytes": written, "windows": counts}


def _write(work: Progress, reader: Reader, params: Params, progress: bool, workers: int) -> None:
    """Read, cut and write the patches that are left."""
    pieces = ordered(partial(read_pieces, reader, params.windows), len(reader), workers, work.patches)
    bar = {"total": len(reader), "initial": work.patches, "desc": "prepare", "unit": "patch"}
    for patch in tqdm(pieces, **bar, disable=not progress):
        for window, sums in patch:
            work.writer.add(window, sums)
        work.done()
    work.save()


def read_pieces(reader: Reader, params: WindowParams, index: int) -> list[Piece]:
    """The windows of one patch and their moments: the part of the work that threads can do."""
    return [(window, moments(window.images)) for window in cut(reader.read(index), params, reader.legend)]


def ordered(work: Callable[[int], Result], count: int, workers: int, first: int = 0) -> Iterator[Result]:
    """work(first), ..., work(count - 1) in this order, done by threads that stay only a little ahead of the caller.

    Threads, since reading, cutting and summing leave the interpreter free: 22 patches a second with two of them,
    where two processes, which must send every window back, made 14.
    """
    with ThreadPoolExecutor(workers, "cluemap-prepare") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for index in range(first, count):
                waiting.append(pool.submit(work, index))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _full_disk_named(folder: Path, state: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kept = f", what was done is kept in {state} and need not be done again" if state else ""
        raise DataError(
            f"{folder} cannot be written ({error}): free some room and run `dvc repro` again; "
            f"nothing half-written was left there{kept}"
        ) from error


def _check(writer: Writer, params: Params) -> None:
    names: set[str] = set()
    for row in writer.rows:
        if row["name"] in names:
            raise DataError(
                f"two windows are called {row['name']}: windows of {params.windows.size} px cannot be cut from pieces "
                "that are windows themselves; set windows.size to the pieces' size"
            )
        names.add(row["name"])
    for split in SPLITS:
        if not any(row["split"] == split for row in writer.rows):
            raise DataError(f"the {split} split of {params.dataset} is empty: {_why_empty(writer, params)}")


def _why_empty(writer: Writer, params: Params) -> str:
    """What decides about the splits of this data set, and so mends them."""
    source, folds = params.source, sorted({row["fold"] for row in writer.rows})
    if source.format == "mtlcc":
        return (
            f"no tile that its list names (`{params.dataset}.source.fold` = {source.fold}) gives a window; add tiles, "
            "or set another fold there"
        )
    if folds == [-1]:
        return "no patch belongs to it; add some, or mend the data set's lists of splits"
    found = f"official split windows.fold = {params.windows.fold} wants other folds than the data's {folds}; "
    if source.format == "scene":
        return found + "set a smaller split.block or another split.seed in scene.yaml, or label more land"
    return found + "set another windows.fold in params.yaml, or add patches"


def _absent(reader: Reader) -> dict[str, int]:
    """How many patches a reader's lists name that are not here; nothing of readers without such lists."""
    absent = getattr(reader, "absent", None)
    if absent:
        log.warning("%d of the %d listed patches have no file here and are left out", absent, absent + len(reader))
    return {} if absent is None else {"absent": absent}


def _note_unseen(reader: Reader, arrays: Path) -> None:
    """Say which dates of a scene no window has any data on: they are in no series."""
    days, valid = (np.load(arrays / f"{name}.npy", mmap_mode="r") for name in ("days", "valid"))
    seen = set(np.unique(days[valid]).tolist())
    dropped = [str(day) for day in getattr(reader, "dates", ()) if day.timetuple().tm_yday not in seen]
    if dropped:
        log.info("dates without any data on labelled land were dropped: %s", ", ".join(dropped))


def _metrics(writer: Writer) -> dict[str, Any]:
    rows, names = writer.rows, writer.legend.class_names
    labels = {split: np.array([row["labels"] for row in rows if row["split"] == split]) for split in SPLITS}
    known = {split: np.array([row["known"] for row in rows if row["split"] == split]) for split in SPLITS}
    seen, _, _, every = np.sum(list(writer.moments.values()), axis=(0, 2))  # over splits and bands
    return {
        "windows_per_class": {
            split: dict(zip(names, held.sum(axis=0).tolist(), strict=True)) for split, held in labels.items()
        },
        "image_labels": {split: _states(labels[split], known[split]) for split in SPLITS},
        "mean_dates": float(np.mean([row["dates"] for row in rows])),
        "mean_classes_per_window": float(np.mean([sum(row["labels"]) for row in rows])),
        "no_data_share": 1 - seen / every,
    }


def _states(held: NDArray[np.bool_], known: NDArray[np.bool_]) -> dict[str, int]:
    """n k, n k -> how many labels say that a class is there, that it is not, and nothing."""
    return {"present": int(held.sum()), "absent": int((known & ~held).sum()), "unknown": int((~known).sum())}


def _check_known(writer: Writer) -> None:
    """Say how much is known, where not all is.

    Raises:
        DataError: no training window is known to lack any class: a classifier would learn to say yes to everything.
    """
    rows = [row for row in writer.rows if row["split"] == "train"]
    held, known = (np.array([row[name] for row in rows]) for name in ("labels", "known"))
    if known.all():
        return
    lacking = (known & ~held).any(axis=0)
    if not lacking.any():
        raise DataError(
            "no training window is known to lack any class, so a classifier would learn to say yes to everything: set "
            "labels.silence: absent in scene.yaml, or label some windows completely"
        )
    states = _states(held, known)
    log.info(
        "image labels of the training windows: %(present)d present, %(absent)d absent, %(unknown)d unknown", states
    )
    if not lacking.all():
        names = [name for name, one in zip(writer.legend.class_names, lacking, strict=True) if not one]
        log.warning("no training window is known to lack %s: nothing tells them from others", ", ".join(names))
