"""How fast parcels are prepared, trained on and predicted, and in how much memory.

    taskset -c 0,1 python bench/parcels.py --parcels 100000 --out parcels.json

Makes parcels of random pixels in PSE-TAE's layout (not timed): sizes spread about 60 pixels, 24 dates, 10 bands.
Seconds are of the clock and, beside them, of the processor: on a busy machine only the latter say anything.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cluemap.data.parcels.batches import Loading, ParcelData, Scaling
from cluemap.data.parcels.parcels import Parcels
from cluemap.data.parcels.preparation import prepare_parcels
from cluemap.data.parcels.sources import open_parcels
from cluemap.params import load_params
from cluemap.runtime.distributed import Ranks, join
from cluemap.runtime.memory import peak
from cluemap.training.parcels.parcel_task import ParcelTask, new_parcel_network, predict

DATES, CLASSES, BATCH = 24, 12, 128


def write_layout(root: Path, count: int) -> None:
    """`count` parcels in PSE-TAE's layout."""
    generator = np.random.default_rng(0)
    for name in ("DATA", "META"):
        (root / name).mkdir(parents=True)
    sizes = np.clip(np.exp(generator.normal(np.log(60), 0.8, count)), 2, 2000).astype(int)
    noise = generator.integers(200, 4000, (DATES, 10, 2000), np.int16)
    for number, size in enumerate(sizes.tolist()):
        np.save(root / "DATA" / f"{number}.npy", noise[:, :, :size] + np.int16(number % 97))
    names = [str(number) for number in range(count)]
    tables = {
        "labels": {"CODE_GROUP": {name: number % CLASSES for number, name in enumerate(names)}},
        "dates": {str(date): 20190100 + 1 + date for date in range(DATES)},
        "geomfeat": {name: [float(size), 1.0, 0.5, 0.1] for name, size in zip(names, sizes, strict=True)},
    }
    for name, table in tables.items():
        (root / "META" / f"{name}.json").write_text(json.dumps(table))


@contextmanager
def timed(found: dict, name: str, parcels: int) -> Iterator[None]:
    """Seconds, CPU seconds and parcels a second of what is done within."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, used = time.perf_counter() - clock, time.process_time() - cpu
    found[name] = {
        "seconds": round(seconds, 1), "cpu_seconds": round(used, 1), "parcels_per_second": round(parcels / seconds, 1),
        "parcels_per_cpu_second": round(parcels / used, 1),
        "peak_memory_mb": round(peak(resource.RUSAGE_SELF) / 2**20), **held(),
    }  # fmt: skip
    print(name, found[name], flush=True)


def held() -> dict[str, int]:
    """What the process holds now: memory of its own, and pages of mapped files, which the system takes back when it
    wants them. Linux alone knows.
    """
    status = Path("/proc/self/status")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    names = {"own_memory_mb": "RssAnon", "file_pages_mb": "RssFile"}
    return {name: int(lines[key].split()[0]) // 1024 for name, key in names.items() if key in lines}


def measure(count: int, steps: int, kinds: list[str], place: Path) -> dict:
    """All measurements on `count` parcels."""
    params = load_params("karnataka")
    source = params.source.model_copy(update={"folder": str(place), "scale": 10000.0})
    params = params.model_copy(update={"source": source, "root": str(place)})
    ranks = join()
    found: dict = {"parcels": count, "threads": torch.get_num_threads(), "device": str(ranks.device)}
    with timed(found, "prepare", count):
        prepare_parcels(open_parcels(params), params, place / "prepared", progress=False)
    parcels = Parcels.open(place / "prepared")
    found["bytes"] = sum(file.stat().st_size for file in (place / "prepared").iterdir())
    for kind in kinds:
        course = params.parcels.model_copy(update={"kind": kind, "batch": BATCH, "steps": steps, "published": False})
        _of_network(found, parcels, params.model_copy(update={"parcels": course}), ranks)
    return found


def _of_network(found: dict, parcels: Parcels, params, ranks: Ranks) -> None:
    """Training steps with pixels drawn and loaded, and a prediction from all pixels of all parcels."""
    indexes, kind = np.arange(len(parcels)), params.parcels.kind
    loading = Loading(parcels, Scaling.of(parcels, indexes), parcels.truth().astype(np.int64) - 1, masks=True)
    network = new_parcel_network(parcels, params, indexes).to(ranks.device)
    task = ParcelTask(network, loading, indexes[:0], params, ranks)
    data = ParcelData(loading, indexes, params.parcels.pixels, params.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    chosen = np.random.default_rng(1).permutation(len(parcels))
    order = ((step, chosen[step * BATCH : (step + 1) * BATCH]) for step in range(params.parcels.steps))
    network.train()
    with timed(found, f"train {kind}", BATCH * params.parcels.steps):
        for step, batch in enumerate(data.batches(order, ranks.device)):
            optimiser.zero_grad(set_to_none=True)
            task.losses(lambda given: network(*given.inputs), batch, step)["total"].backward()
            optimiser.step()
        if ranks.device.type == "cuda":
            torch.cuda.synchronize()
    with timed(found, f"predict {kind}", len(parcels)):
        predict(network, loading, indexes, params.compute, ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parcels", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=50, help="training steps of 128 parcels that are timed")
    parser.add_argument("--kinds", nargs="+", default=["pse_tae", "pse_ltae"])
    parser.add_argument("--place", type=Path, help="folder for the data (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="results as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.place) as temporary:
        place = Path(temporary)
        write_layout(place, given.parcels)
        found = measure(given.parcels, min(given.steps, given.parcels // BATCH), given.kinds, place)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
