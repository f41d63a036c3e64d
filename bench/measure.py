"""One measurement in a process of its own (its peak memory is then its own): prints one line of JSON."""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from work import (  # first: it loads cluemap, which says how threads wait, before torch
    BANDS,
    CLASSIFIER,
    SIZES,
    WINDOW,
    Size,
    batch,
    classifier_operations,
    operations,
    params,
    ranks,
    task_of,
    training,
)

# isort: split
import torch
from clock import Clock, peak_memory
from table import WITH_CSCL

from cluemap.model.cpu.tiled_block import ONEDNN
from cluemap.runtime.memory import keep_freed
from cluemap.training.inference import cams, maps

Found = dict[str, Any]
BATCH_ON_GPU = 192  # windows, where no other number is asked for


def ceiling(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """The machine's own rates."""
    single = max(clock.product_rate(torch.float32) for _ in range(given.rounds))
    half = max(clock.product_rate(torch.bfloat16) for _ in range(given.rounds))
    found = {"fp32_gflops": single, "bf16_gflops": half, "copy_gbps": clock.copy_rate(), "ceiling": single}
    if given.device == "cpu" and ONEDNN is not None:
        left, right = torch.randn(2, clock.side, clock.side)
        ONEDNN(left, right, None, "none", [], "")
        found["onednn_gflops"] = (
            2 * clock.side**3 / 1e9 / clock.seconds(lambda: ONEDNN(left, right, None, "none", [], ""))
        )
    return found


def network_step(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """Windows a second of training, CAMs or maps on one batch."""
    told, here = params(given.size, given.precision, given.compile), ranks(given.device)
    made = batch(size, here.device)
    network = CLASSIFIER if given.what.startswith(("classifier", "cams")) else "tsvit"
    if given.what.startswith("ltae"):
        network = "ltae"
    if given.what.endswith(WITH_CSCL):
        told = told.model_copy(update={"cscl": told.cscl.model_copy(update={"kind": "joint"})})
    work: Callable[[], object]
    if given.what == "cams":
        task: Any = task_of(network, size, told, here)
        work = lambda: cams(task.network, task.clues, made, ["clue"], told)
        cost = classifier_operations(size, told.classifier, spatial=False)
    elif given.what == "maps":
        task = task_of(network, size, told, here)
        work, cost = lambda: maps(task.network, made, told, True), operations(network, size, told)
    else:
        number = told.clues.start_step if given.what == "classifier after clues" else 0
        step = training(network, size, told, here)
        work, cost = lambda: step(made, number), 3 * operations(network, size, told)
    seconds, peak = clock.in_turns(work, given.rounds)
    rate = size.batch / seconds
    return {"windows_per_second": rate, "gflops": rate * cost / 1e9, "ceiling": peak}


def loader(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """Windows a second out of the prepared files, normalised.

    loader cold: the system's cache has forgotten them; resident: they lie on the device as a whole.
    """
    import os

    from builders import write_prepared

    from cluemap.data.batches import stream
    from cluemap.data.windows import Windows
    from cluemap.training.device_windows import DeviceWindows

    counts, batch_size = {"train": 192, "validation": 2, "test": 2}, 48
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        longest = size.dates
        write_prepared(Path(folder), counts, size.classes, WINDOW, (longest * 2 // 3, longest), BANDS)
        os.sync()
        windows = Windows.open(folder)
        held = (
            DeviceWindows(windows, windows.indexes("train"), given.device) if given.what == "loader resident" else None
        )

        def once() -> None:
            order = windows.indexes("train").reshape(-1, batch_size)
            for got in held.stream(order) if held else stream(windows, order, given.device):
                got.images[0, 0, 0, 0, 0].item()

        def forget() -> None:
            for file in Path(folder).glob("*.npy"):
                with file.open("rb") as handle:
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        if given.what != "loader cold":
            seconds, peak = clock.in_turns(once, given.rounds)
        else:
            once()
            peak, times = clock.product_rate(torch.float32), []
            for _ in range(given.rounds):
                forget()
                times.append(Clock(given.device, "wall").seconds(once))  # waiting for the disk is no CPU time
            seconds = sorted(times)[len(times) // 2]
    return {"windows_per_second": counts["train"] / seconds, "ceiling": peak}


def masks(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """Scores of one CAM source at the threshold, and its whole curve, windows a second in one process."""
    import numpy as np
    from builders import write_prepared

    from cluemap.data.windows import Windows
    from cluemap.stages.make_cams import cam_file
    from cluemap.stages.make_masks import score_source

    told, counts = params(given.size, "fp32"), {"train": 2048, "validation": 1, "test": 1}
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        write_prepared(Path(folder), counts, size.classes, WINDOW, (1, 1), 1)
        windows = Windows.open(folder)
        labels, side = windows.image_labels[windows.indexes("train")], WINDOW // told.classifier.patch
        maps_ = np.random.default_rng(0).random((*labels.shape, side, side)).astype(np.float16)
        np.save(cam_file(Path(folder), "clue", "train"), maps_ * labels[:, :, None, None])
        work = lambda: score_source(windows, Path(folder), "clue", "train", 0.3, told)
        seconds, peak = clock.in_turns(work, given.rounds)
    return {"windows_per_second": counts["train"] / seconds, "ceiling": peak}


def prepare(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """MB of published images a second through stage prepare."""
    import shutil

    from builders import write_pastis

    from cluemap.data.preparation import prepare as work_of
    from cluemap.data.readers import open_reader

    told = params("demo", "fp32")
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        raw = write_pastis(Path(folder) / "raw", patches=10, size=128, dates=size.dates, classes=(1, 2, 3))
        told = told.model_copy(update={"root": str(raw)})
        told = told.model_copy(update={"source": told.source.model_copy(update={"classes": [1, 2, 3]})})
        bytes_ = sum(file.stat().st_size for file in raw.rglob("S2_*.npy"))

        def work() -> None:
            shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            work_of(open_reader(told), told, Path(folder) / "out", progress=False, workers=torch.get_num_threads())

        seconds, peak = clock.in_turns(work, given.rounds)
    return {"mb_per_second": bytes_ / 1e6 / seconds, "ceiling": peak}


def tracking(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """Microseconds that one logged step costs: ten curves, written to the journal."""
    from cluemap.tracking.journal import Journal

    values = {f"loss/{number}": 0.5 for number in range(10)}
    with tempfile.TemporaryDirectory(dir=given.scratch) as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        work = lambda: [journal.write("points", step=step, values=values) for step in range(100)]
        seconds, peak = clock.in_turns(work, given.rounds)
    return {"microseconds_per_step": seconds / 100 * 1e6, "ceiling": peak}


def long_run(given: argparse.Namespace, clock: Clock, size: Size) -> Found:
    """2,000 steps of a tiny classifier: growth of memory and of the step's time from the first to the last quarter."""
    told = params("demo", "fp32")
    small = told.classifier.model_copy(
        update={"width": 8, "temporal_depth": 1, "spatial_depth": 1, "heads": 1, "head_width": 4}
    )
    told = told.model_copy(update={"classifier": small})
    size, here = Size(5, 3, 2), ranks(given.device)
    step, made = training(CLASSIFIER, size, told, here), batch(size, here.device)
    work = lambda: step(made, told.clues.start_step)
    times, peaks = [], []
    for _ in range(4):
        times.append(clock.seconds(lambda: [work() for _ in range(500)]))
        peaks.append(peak_memory(given.device))
    return {
        "steps_per_second": 2000 / sum(times),
        "slower": times[-1] / times[1] - 1,
        "memory_growth_mb": 1e3 * (peaks[-1] - peaks[0]),
        "ceiling": clock.product_rate(torch.float32),
    }


WORK: dict[str, Callable[[argparse.Namespace, Clock, Size], Found]] = {
    "ceiling": ceiling,
    "classifier before clues": network_step,
    "classifier after clues": network_step,
    "cams": network_step,
    "segmenter": network_step,
    f"segmenter{WITH_CSCL}": network_step,
    "ltae": network_step,
    f"ltae{WITH_CSCL}": network_step,
    "maps": network_step,
    "masks": masks,
    "loader cold": loader,
    "loader warm": loader,
    "loader resident": loader,
    "prepare": prepare,
    "tracking": tracking,
    "long run": long_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=WORK)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for files (default: the system's)")
    parser.add_argument("--compile", action="store_true", help="networks through torch.compile")
    for name in ("dates", "classes", "batch"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    if given.clock == "cpu":
        torch.set_num_threads(1)
    keep_freed()
    asked = {name: value for name in ("dates", "classes", "batch") if (value := getattr(given, name))}
    if given.device == "cuda":
        asked.setdefault("batch", BATCH_ON_GPU)
    size = replace(SIZES[given.size], **asked)
    found = WORK[given.what](given, Clock(given.device, given.clock), size)
    compiled = {"compiled": True} if given.compile else {}
    about = {"what": given.what, "precision": given.precision, **vars(size), **compiled}
    print(json.dumps({**about, **found, "memory_gb": peak_memory(given.device)}))


if __name__ == "__main__":
    main()
