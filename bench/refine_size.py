"""Memory and time of refine_masks at PASTIS's size: 60 dates, 18 crops, made-up windows whose series repeat on disk.

A table row may point at any series, so that 36,000 windows need no 25 GB: memory and arithmetic are those of as many
different windows, only the page cache is kinder.
"""

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from work import ROOT  # first: it loads cluemap, which says how threads wait, before torch

# isort: split
import numpy as np
import pandas as pd
import torch

from cluemap.data.patches import CropClass
from cluemap.data.windows import Windows
from cluemap.files import write_json
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks
from cluemap.stages.make_masks import write_masks
from cluemap.stages.refine_masks import refine_masks
from cluemap.stages.stage import Stage

DATES, BANDS, SIZE, CROPS, SERIES = 60, 10, 24, 18, 64


def write_windows(folder: Path, count: int) -> Windows:
    """`count` training windows and 7 of each other split, in the common form."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    counts = {"train": count, "validation": 7, "test": 7}
    np.save(folder / "images_0000.npy", draw.integers(0, 9000, (SERIES * DATES, BANDS, SIZE, SIZE), dtype=np.int16))
    total = sum(counts.values())
    days = np.sort(draw.choice(np.arange(1, 366), DATES, replace=False)).astype(np.int16)
    np.save(folder / "days.npy", np.tile(days, total))
    np.save(folder / "valid.npy", np.ones(total * DATES, bool))
    rows = []
    for split, number in counts.items():
        np.save(folder / f"masks_{split}.npy", np.zeros((number, SIZE, SIZE), np.uint8))
        rows += [{"split": split, "mask_row": row} for row in range(number)]
    labels = [draw.permutation(CROPS)[:3] for _ in rows]
    table = pd.DataFrame(rows).assign(
        name=[f"{row}_0" for row in range(total)], patch=[str(row // 25) for row in range(total)], fold=1, tile="t",
        row=0, column=0, x=0.0, y=0.0, crs="EPSG:32630", pixel=10.0, dates=DATES, shard=0,
        start=[row % SERIES * DATES for row in range(total)], day_start=[row * DATES for row in range(total)],
        labels=[np.isin(np.arange(CROPS), present).tolist() for present in labels],
    )  # fmt: skip
    table.to_parquet(folder / "windows.parquet")
    classes = [CropClass(f"crop {k}", "#00ff00").__dict__ for k in range(CROPS)]
    legend = {
        "bands": [f"B{c}" for c in range(BANDS)],
        "true_colour": [2, 1, 0],
        "classes": classes,
        "background": True,
    }
    statistics = {"mean": [4500.0] * BANDS, "std": [2600.0] * BANDS}
    card = {"dataset": "size", "legend": legend, "window": SIZE, "statistics": statistics, "counts": counts,
            "max_dates": DATES, "digest": "0" * 32}  # fmt: skip
    write_json(folder / "card.json", card)
    return Windows.open(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=3600)
    parser.add_argument("--learner", default="linear", choices=["linear", "trees", "network"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="of the network (default: 300)")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        root, draw = Path(name), np.random.default_rng(1)
        windows = write_windows(root / "prepared/windows", given.windows)
        masks = {split: draw.integers(0, CROPS + 1, (len(windows.indexes(split)), SIZE, SIZE), dtype=np.uint8)
                 for split in ("train", "validation")}  # fmt: skip
        write_masks(root / "demo/make_masks/masks", masks, windows, {})
        params = load_params("demo", ROOT / "params.yaml")
        told = {"learner": given.learner, "rounds": given.rounds, "steps": given.steps, "keep_probabilities": True}
        params = params.model_copy(update={"refine": params.refine.model_copy(update=told)})
        ranks = Ranks(0, 1, torch.device("cpu"))
        stage = Stage("refine_masks", params, ranks, root, root / "prepared")
        before, since, cpu = peak(), time.monotonic(), time.process_time()
        found = refine_masks(stage, windows)
        seconds, used = time.monotonic() - since, time.process_time() - cpu
        kept = (stage.folder / "masks/probabilities_train.npy").stat().st_size / 1e6
        print(
            f"{given.learner}: {given.windows} windows, {found['rounds']} rounds: {seconds:.0f} s, "
            f"{used:.0f} s of a core, peak {peak():.0f} MB ({before:.0f} before), probabilities {kept:.0f} MB"
        )


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
