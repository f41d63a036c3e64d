"""What a classifier step after clues spends its time on, at the paper's size on one thread.

CPU time by kind of operation: each is timed by the thread's own clock, which other jobs on the machine change little;
beside them the rates of products in the shapes of a tile (src/cluemap/model/cpu), and of a large one, the ceiling.

    python bench/step_profile.py --precision bf16
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import work
from work import CLASSIFIER, SIZES

# isort: split
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

ROWS, WIDTH, WIDE, LARGE = 4100, 128, 512, 4096
KINDS = {
    "products with weights": ("mm", "addmm", "_linear_pointwise"),
    "attention's products": ("bmm", "baddbmm"),
    "GELU": ("gelu", "gelu_backward"),
    "layer norm": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "casts": ("_to_copy",),
    "copies": ("clone", "copy_"),
    "sums and additions": ("add", "add_", "sum", "mean", "sub"),
}


class Timed(TorchDispatchMode):
    """Seconds of the thread in each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.thread_time()
        found = operation(*args, **(kwargs or {}))
        self.seconds[operation.overloadpacket.__name__] += time.thread_time() - start
        return found


def rate(work_: Callable[[], object], operations: float) -> float:
    """GFLOP/s, the best of 20."""
    best = float("inf")
    for _ in range(20):
        start = time.thread_time()
        work_()
        best = min(best, time.thread_time() - start)
    return operations / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--batch", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    told, size = work.params("paper", given.precision), replace(SIZES["paper"], batch=given.batch)
    here = work.ranks("cpu")
    step, batch = work.training(CLASSIFIER, size, told, here), work.batch(size, here.device)
    first = told.clues.start_step + 10
    seconds = []
    for number in range(3):  # the first warms up
        start = time.thread_time()
        step(batch, first + number)
        seconds.append(time.thread_time() - start)
    with Timed() as timed:
        step(batch, first + 3)
    total = sum(timed.seconds.values())
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    shares: Counter[str] = Counter()
    for name, spent in timed.seconds.items():
        shares[kind_of.get(name, "the rest")] += spent / total
    print(
        f"a step of {given.batch} windows, {given.precision}: {min(seconds[1:]):.2f} s\n\n"
        "| operation | share |\n|---|---:|"
    )
    for kind, share in shares.most_common():
        print(f"| {kind} | {100 * share:.0f} % |")
    dtype = torch.bfloat16 if given.precision == "bf16" else torch.float32
    x, weight, above = (torch.randn(*shape).to(dtype) for shape in ((ROWS, WIDTH), (WIDE, WIDTH), (ROWS, WIDE)))
    large, turned, tile = torch.randn(LARGE, LARGE).to(dtype), weight.t().contiguous(), 2 * ROWS * WIDTH * WIDE
    rates = {
        f"{LARGE} x {LARGE}": rate(lambda: large @ large, 2 * LARGE**3),
        "forward": rate(lambda: F.linear(x, weight), tile),
        "gradient of the input": rate(lambda: F.linear(above, weight.t()), tile),
        "the same, a turned copy of the weight": rate(lambda: F.linear(above, turned), tile),
        "gradient of the weight": rate(lambda: F.linear(x.t(), above.t()), tile),
    }
    print("\n| product | GFLOP/s |\n|---|---:|")
    for name, found in rates.items():
        print(f"| {name} | {found:.0f} |")
    operations = 3 * given.batch * work.classifier_operations(size, told.classifier)
    share = operations / min(seconds[1:]) / 1e9 / rates[f"{LARGE} x {LARGE}"]
    print(f"\nthe step reaches {100 * share:.0f} % of the large product's rate")


if __name__ == "__main__":
    main()
