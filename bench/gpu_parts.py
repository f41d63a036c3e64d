"""What bench/gpu.py measures beside parity: the card's rates, training, CAMs, maps, the loader, the stages' loops."""

import os
import platform
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from clock import Clock, peak_memory
from work import (
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

from cluemap.data.patches import CropClass, Legend
from cluemap.data.windows import Windows
from cluemap.training.inference import cams, maps

Found = dict[str, Any]
LEAST = 1.0  # seconds that one figure is taken over, in ROUNDS parts of which the middle one counts
ROUNDS = 3
COSTLIEST = 25  # kernels that a profile names


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    told: str  # whose params
    size: Size
    batches: tuple[int, ...]  # of training
    compiled: int  # the batch that is measured compiled; 0 = none
    inference: int  # batch of CAMs and maps
    side: int  # of the matrices of the card's rate
    copied: int  # MB of the copied array
    prepared: int  # windows in files
    masks: int  # windows whose masks are scored
    steps: int  # of the whole training loop
    scene: int  # pixels a side


SCALES = {
    "paper": Scale("paper", SIZES["paper"], (48, 128, 384), 128, 192, 8192, 2000, 240, 2048, 60, 960),
    "tiny": Scale("demo", Size(7, 5, 2), (2,), 0, 2, 64, 1, 8, 8, 4, 48),
}


@dataclass(frozen=True)
class Bench:
    """Where and how large it is measured, and what was found of the card so far."""

    device: str
    scale: Scale
    scratch: Path
    rates: Found

    def per_second(self, work: Callable[[], object]) -> float:
        """Calls a second; the first ones, in which kernels are chosen and memory is fetched, are left out."""
        clock = Clock(self.device)
        for _ in range(2):
            work()
        once = clock.seconds(work)
        least = LEAST if self.scale.told == "paper" else 0.0
        calls = max(1, round(least / ROUNDS / max(once, 1e-6)))
        times = sorted(clock.seconds(lambda: [work() for _ in range(calls)]) for _ in range(ROUNDS))
        return calls / times[ROUNDS // 2]

    def windows(self) -> Path:
        """Prepared windows with series of two thirds of the dates to all, made once."""
        from builders import write_prepared

        folder, size, count = self.scratch / "windows", self.scale.size, self.scale.prepared
        if not folder.exists():
            counts = {"train": count, "validation": 3, "test": 2}
            write_prepared(folder, counts, size.classes, WINDOW, (size.dates * 2 // 3, size.dates), BANDS)
        return folder

    def share(self, rate: float, cost: float, precision: str) -> Found:
        """Rate of windows, TFLOP/s of the networks' arithmetic alone, and their share of the card's matrix rate."""
        flops = rate * cost
        name = "bf16" if precision == "bf16" else "fp32"
        top = self.rates.get(f"{name}_tflops")
        return {
            "windows_per_second": rate,
            "tflops": flops / 1e12,
            "share": flops / 1e12 / top if top else None,
            "memory_gb": peak_memory(self.device),
        }


def card(bench: Bench) -> Found:
    """Facts of the machine, and its own rates; they go into `bench.rates`."""
    gpu, size = bench.device == "cuda", bench.scale
    clock = Clock(bench.device, side=size.side)
    with suppress(OSError, ValueError):
        bench.rates["machine_memory_gb"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    bench.rates.update({"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()})
    if gpu:
        about = torch.cuda.get_device_properties(0)
        bench.rates.update({"name": about.name, "memory_gb": about.total_memory / 1e9, "cuda": torch.version.cuda})
    bench.rates["bf16_tflops"] = clock.product_rate(torch.bfloat16) / 1e3
    bench.rates["fp32_tflops"] = clock.product_rate(torch.float32) / 1e3
    if gpu:
        torch.backends.cuda.matmul.allow_tf32 = True
        bench.rates["tf32_tflops"] = clock.product_rate(torch.float32) / 1e3
        torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(size.copied * 250_000, device=bench.device)
    target = torch.empty_like(source)
    bench.rates["copy_gb_per_second"] = 2e-9 * source.nbytes * bench.per_second(lambda: target.copy_(source))
    return dict(bench.rates)


def step(bench: Bench, network: str, count: int, precision: str, compiled: bool) -> Found:
    """The training loop's own step on one batch that lies on the device; the classifier after its clues started."""
    told, here = params(bench.scale.told, precision, compiled), ranks(bench.device)
    size = replace(bench.scale.size, batch=count)
    take, made = training(network, size, told, here), batch(size, here.device)
    number = told.clues.start_step
    rate = count * bench.per_second(lambda: take(made, number))
    return bench.share(rate, 3 * operations(network, size, told), precision)


def profile(bench: Bench, network: str, precision: str) -> Found:
    """Where a training step's time goes: milliseconds of the costliest kernels, of all, and of the whole step."""
    told, here = params(bench.scale.told, precision), ranks(bench.device)
    size = replace(bench.scale.size, batch=bench.scale.batches[0])
    take, made = training(network, size, told, here), batch(size, here.device)
    for _ in range(3):
        take(made, told.clues.start_step)
    whole = Clock(bench.device).seconds(lambda: take(made, told.clues.start_step))
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds[: 1 + (bench.device == "cuda")]) as found:
        take(made, told.clues.start_step)
        if bench.device == "cuda":
            torch.cuda.synchronize()
    own = "self_device_time_total" if bench.device == "cuda" else "self_cpu_time_total"
    events = [event for event in found.key_averages() if bench.device == "cpu" or event.device_type.name == "CUDA"]
    costs = sorted(((getattr(event, own) / 1e3, event.count, event.key[:90]) for event in events), reverse=True)
    kernels = [{"ms": round(ms, 3), "calls": calls, "kernel": name} for ms, calls, name in costs[:COSTLIEST]]
    return {"step_ms": 1e3 * whole, "kernels_ms": sum(ms for ms, _, _ in costs), "kernels": kernels}


def clue_cams(bench: Bench, precision: str) -> Found:
    size, told, here = replace(bench.scale.size, batch=bench.scale.inference), *_told(bench, precision)
    task: Any = task_of(CLASSIFIER, size, told, here)
    made = batch(size, here.device)
    rate = size.batch * bench.per_second(lambda: cams(task.network, task.clues, made, ["clue"], told))
    return bench.share(rate, classifier_operations(size, told.classifier, spatial=False), precision)


def maps_of(bench: Bench, network: str, precision: str) -> Found:
    size, told, here = replace(bench.scale.size, batch=bench.scale.inference), *_told(bench, precision)
    segmenter, made = task_of(network, size, told, here).network, batch(size, here.device)
    rate = size.batch * bench.per_second(lambda: maps(segmenter, made, told, True))  # type: ignore[arg-type]
    return bench.share(rate, operations(network, size, told), precision)


def _told(bench: Bench, precision: str) -> tuple[Any, Any]:
    return params(bench.scale.told, precision), ranks(bench.device)


def predict_scene(bench: Bench, network: str, precision: str) -> Found:
    """src/predict.py's own loop over a scene of 20 dates in memory: windows cut, run, blended, written to the canvas.

    pixels: of the map. Decoding of images is not in it.
    """
    from cluemap.mapping.map_canvas import Canvas
    from cluemap.mapping.map_sources import PatchImagery
    from cluemap.mapping.raster_prediction import Settings, predict
    from cluemap.model.storage.trained_models import Card

    told, here = _told(bench, precision)
    side, dates, classes = bench.scale.scene, min(20, bench.scale.size.dates), bench.scale.size.classes
    bands, crops = (
        tuple(f"B{n}" for n in range(BANDS)),
        tuple(CropClass(f"crop {k}", "#112233") for k in range(classes)),
    )
    legend = Legend(bands, (2, 1, 0), crops, True)
    about = Card("bench", "0", legend, WINDOW, 60, np.full(BANDS, 2000, np.float32), np.full(BANDS, 1000, np.float32))
    images = np.random.default_rng(0).integers(200, 4000, (dates, BANDS, side, side), dtype=np.int16)
    grid: Any = SimpleNamespace(height=side, width=side)
    imagery = PatchImagery(grid, np.arange(10, 10 + 7 * dates, 7, dtype=np.int16), [], images)
    segmenter: Any = task_of(network, bench.scale.size, told, here).network.eval()
    settings, clock, counts = (
        Settings(tile=side, precision=precision, batch=bench.scale.inference),
        Clock(bench.device),
        [],
    )
    for name in ("warm", "measured"):
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            canvas = Canvas(Path(folder) / name, side, side, {"classes": 1, "confidence": 1}, {})
            work = lambda: counts.append(predict(segmenter, about, imagery, canvas, settings, here.device, False))  # noqa: B023
            seconds = clock.seconds(work)
    rate = {"windows_per_second": counts[-1] / seconds, "pixels_per_second": side**2 / seconds}
    return {**rate, "memory_gb": peak_memory(bench.device)}


def loader(bench: Bench, resident: bool) -> Found:
    """Batches of prepared windows, normalised on the device: read from files, or gathered where they lie as a whole."""
    from cluemap.data.batches import stream
    from cluemap.training.device_windows import DeviceWindows

    windows = Windows.open(bench.windows())
    indexes = windows.indexes("train")
    order = indexes.reshape(-1, min(48, len(indexes)))
    held = DeviceWindows(windows, indexes, bench.device) if resident else None

    def once() -> None:
        for made in held.stream(order) if held else stream(windows, order, bench.device):
            made.images.flatten()[0].item()

    return {"windows_per_second": len(indexes) * bench.per_second(once), "memory_gb": peak_memory(bench.device)}


def loop(bench: Bench, network: str, precision: str) -> Found:
    """A whole training by the training loop, from prepared windows: batches, steps, looks at the loss, curves."""
    from cluemap.training.classifier_task import ClassifierTask, new_classifier
    from cluemap.training.segmenter_task import SegmenterTask, new_segmenter
    from cluemap.training.task import Data, Settings
    from cluemap.training.trainer import Trainer

    told, here = _told(bench, precision)
    windows, steps = Windows.open(bench.windows()), bench.scale.steps
    told = told.model_copy(update={"clues": told.clues.model_copy(update={"start_step": steps // 4})})
    rates: list[float] = []
    log: Any = SimpleNamespace(log=lambda _step, values: rates.append(values.get("windows_per_second", np.nan)))
    task: Any
    if network == CLASSIFIER:
        task, course = ClassifierTask(*new_classifier(windows, told), windows, told, here), told.classifier
        data = Data(windows, windows.indexes("train"))
    else:
        kind = told.segmenter.model_copy(update={"kind": network})
        task = SegmenterTask(new_segmenter(windows, told.model_copy(update={"segmenter": kind})), windows, told, here)
        data, course = Data(windows, windows.indexes("train"), windows.masks("train")), told.segmenter
    course = course.model_copy(update={"steps": steps, "validate_every": steps, "batch": min(48, len(data.indexes))})
    settings = Settings(course, told.compute, told.checkpoint, told.seed, {})
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        Trainer(task, data, settings, here, log, Path(folder)).train()
    rate = float(np.nanmedian(rates[len(rates) // 3 :]))
    return bench.share(rate, 3 * operations(network, replace(bench.scale.size, batch=course.batch), told), precision)


def scored_masks(bench: Bench) -> Found:
    """Scores of one CAM source with its whole threshold curve (a process on the CPU)."""
    from builders import write_prepared

    from cluemap.stages.make_cams import cam_file
    from cluemap.stages.make_masks import score_source

    told, classes = params(bench.scale.told, "fp32"), bench.scale.size.classes
    folder = bench.scratch / "masks"
    write_prepared(folder, {"train": bench.scale.masks, "validation": 1, "test": 1}, classes, WINDOW, (1, 1), 1)
    windows = Windows.open(folder)
    labels, side = windows.image_labels[windows.indexes("train")], WINDOW // told.classifier.patch
    drawn = np.random.default_rng(0).random((*labels.shape, side, side)).astype(np.float16)
    np.save(cam_file(folder, "clue", "train"), drawn * labels[:, :, None, None])
    work = lambda: score_source(windows, folder, "clue", "train", 0.3, told)
    return {"windows_per_second": bench.scale.masks * bench.per_second(work)}


def refined_round(bench: Bench) -> Found:
    """One round of refine_masks with the linear learner: features, fit, answers (on the CPU, all cores)."""
    from cluemap.data.series_features import SeriesFeatures
    from cluemap.stages.refine_masks import one_round

    told = params(bench.scale.told, "fp32").refine.model_copy(update={"learner": "linear"})
    windows = Windows.open(bench.windows())
    masks = {split: np.asarray(windows.masks(split)) for split in ("train", "validation")}
    seconds = Clock("cpu").seconds(lambda: one_round(SeriesFeatures(windows), masks, told, 0))
    return {"windows_per_second": sum(map(len, masks.values())) / seconds}
