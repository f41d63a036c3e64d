"""What the bench works on: synthetic windows of the paper's or the demo's size, and the arithmetic they cost."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from cluemap.data.batches import Batch  # noqa: E402
from cluemap.params import NetworkParams, Params, load_params  # noqa: E402
from cluemap.runtime.distributed import Ranks  # noqa: E402

BANDS, WINDOW = 10, 24


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
    return Ranks(0, 1, torch.device(device))
