"""What the bench works on: synthetic windows of the paper's or the demo's size, and the arithmetic they cost."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import cluemap  # noqa: E402, F401  (before torch: it says how threads wait)

# isort: split
import numpy as np  # noqa: E402
import torch  # noqa: E402

from cluemap.data.batches import Batch  # noqa: E402
from cluemap.model.method.clues import random_clues  # noqa: E402
from cluemap.model.networks.classifier import Classifier  # noqa: E402
from cluemap.model.networks.context import ContextSegmenter  # noqa: E402
from cluemap.model.networks.segmenter import build_segmenter  # noqa: E402
from cluemap.params import LtaeParams, NetworkParams, Params, load_params  # noqa: E402
from cluemap.runtime.distributed import Ranks  # noqa: E402
from cluemap.training.classifier_task import ClassifierTask  # noqa: E402
from cluemap.training.context_task import JointTask  # noqa: E402
from cluemap.training.segmenter_task import SegmenterTask  # noqa: E402
from cluemap.training.task import Data, Settings  # noqa: E402
from cluemap.training.trainer import Trainer  # noqa: E402

BANDS, WINDOW = 10, 24
CLASSIFIER, SEGMENTERS = "classifier", ("tsvit", "ltae")


@dataclass(frozen=True)
class Size:
    dates: int
    classes: int
    batch: int


SIZES = {"paper": Size(60, 18, 4), "demo": Size(34, 8, 8)}
PARAMS_OF = {"paper": "pastis", "demo": "demo"}  # whose block of params.yaml


def params(size: str, precision: str, compiled: bool = False) -> Params:
    """params.yaml at that size; the paper's block need not be switched on there."""
    import tempfile

    from ruamel.yaml import YAML

    yaml = YAML()
    tree = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["datasets"].setdefault(PARAMS_OF[size], "data/bench")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        with file.open("w", encoding="utf-8") as handle:
            yaml.dump(tree, handle)
        found = load_params(PARAMS_OF[size], file)
    compute = found.compute.model_copy(update={"precision": precision, "compile": compiled})
    return found.model_copy(update={"compute": compute})


def batch(size: Size, device: torch.device) -> Batch:
    """Normalised noise; every series has all dates, every window about a quarter of the classes and a mask."""
    draws = torch.Generator().manual_seed(0)
    shape = (size.batch, size.dates)
    labels = torch.rand(size.batch, size.classes, generator=draws) < 0.25
    labels[:, 0] = True
    return Batch(
        images=torch.randn(*shape, BANDS, WINDOW, WINDOW, generator=draws),
        day=torch.randint(1, 367, shape, generator=draws),
        valid=torch.ones(shape, dtype=torch.bool),
        image_labels=labels,
        index=torch.arange(size.batch),
        mask=torch.randint(0, size.classes + 1, (size.batch, WINDOW, WINDOW), generator=draws),
    ).to(device)


def classifier_operations(size: Size, course: NetworkParams, spatial: bool = True) -> float:
    """Floating-point operations of one window's forward pass; a training step costs three times as many."""
    grid = (WINDOW // course.patch) ** 2
    whole = encoder_operations(grid, size.classes + size.dates, course.temporal_depth, course)
    return whole + spatial * encoder_operations(size.classes, grid + 1, course.spatial_depth, course)


def segmenter_operations(size: Size, course: NetworkParams) -> float:
    grid, classes = (WINDOW // course.patch) ** 2, size.classes + 1
    temporal = encoder_operations(grid, classes + size.dates, course.temporal_depth, course)
    return temporal + encoder_operations(classes, grid, course.spatial_depth, course)


def encoder_operations(sequences: int, tokens: int, depth: int, course: NetworkParams) -> float:
    inner = course.heads * course.head_width
    weights = 4 * course.width * inner + 2 * course.feed_forward * course.width**2
    return sequences * tokens * depth * (2 * weights + 4 * tokens * inner)


def ranks(device: str) -> Ranks:
    return Ranks(0, 1, torch.device(device, 0) if device == "cuda" else torch.device(device))


def ltae_operations(size: Size, course: LtaeParams) -> float:
    """One window's forward pass: a pixel's dates, then its values and convolutions."""
    d, a = course.width, course.heads
    dates = size.dates * 2 * d * (BANDS + d + 2 * a)
    values = 2 * a * course.value_width * 2 * d + 2 * d * d
    return WINDOW**2 * (dates + values + course.convolutions * 2 * 9 * d * d + 2 * d * (size.classes + 1))


def operations(network: str, size: Size, told: Params) -> float:
    """One window's forward pass of the classifier, or of a kind of segmenter."""
    if network == CLASSIFIER:
        return classifier_operations(size, told.classifier)
    return ltae_operations(size, told.ltae) if network == "ltae" else segmenter_operations(size, told.segmenter)


def task_of(network: str, size: Size, told: Params, here: Ranks) -> ClassifierTask | SegmenterTask:
    """The network with random weights (seed 0), on its device, as the training loop is given it."""
    torch.manual_seed(0)
    task: ClassifierTask | SegmenterTask
    windows: Any = some_windows(size)
    if network == CLASSIFIER:
        clues = random_clues(size.classes, told.clues.count, told.classifier.width, torch.Generator().manual_seed(0))
        task = ClassifierTask(Classifier(BANDS, size.classes, WINDOW, told.classifier), clues, windows, told, here)
    else:
        kind = told.segmenter.model_copy(update={"kind": network})
        segmenter = build_segmenter(BANDS, size.classes + 1, WINDOW, kind, told.ltae)
        if told.cscl.kind == "joint":
            task = JointTask(ContextSegmenter(segmenter, size.classes + 1, told.cscl), windows, told, here)
        else:
            task = SegmenterTask(segmenter, windows, told, here)
    task.network.to(here.device)
    return task


def training(network: str, size: Size, told: Params, here: Ranks) -> Callable[[Batch, int], object]:
    """The training loop's own step: batch and number of the step -> losses."""
    task = task_of(network, size, told, here)
    course = told.classifier if network == CLASSIFIER else told.segmenter
    settings = Settings(course, told.compute, told.checkpoint, told.seed, {})
    data, nowhere = Data(task.windows, np.arange(course.batch)), Path(os.devnull)  # nothing is read or saved
    return Trainer(task, data, settings, here, SimpleNamespace(log=print), nowhere).step


def some_windows(size: Size) -> Any:
    """As much of prepared windows as a task looks at outside validation."""
    legend = SimpleNamespace(background=True, classes=range(size.classes))
    card = SimpleNamespace(legend=legend, size=WINDOW)
    return SimpleNamespace(card=card, masks=lambda split: np.arange(3 * WINDOW**2).reshape(3, WINDOW, -1) % 2)
