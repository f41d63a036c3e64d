"""What a map of a whole tile costs: a real run of src/predict.py's work on generated files, decode included.

A scene of `--width` x `--height` px and `--dates` dates, one file a band and date as Sentinel-2 products have them
(four bands of 10 m in blocks of 1,024 px, six of 20 m in blocks of 640; COG: 512), is written and mapped with random
weights. A few images are drawn, the other files are links to them: each is opened and decoded by itself. CPU time of
all threads, extrapolated by pixels to 10,980 x 10,980 px: core-minutes, which a busy machine changes little. Decoding
(with bringing 20 m to 10 m) is what is not the main thread's; writing is what comes after the last tile.

    python bench/whole_tile.py --width 5490 --height 5490 --kind jp2
    python bench/whole_tile.py --networks     # the network's part for each network, overlap and precision, one batch
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import cluemap  # noqa: F401  (before torch: it says how threads wait)

# isort: split
import numpy as np
import rasterio
import torch
from scipy.ndimage import gaussian_filter
from work import params

from cluemap.data.patches import CropClass, Legend
from cluemap.mapping import map_products, raster_prediction
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.overlap_blending import window_starts
from cluemap.mapping.raster_prediction import Settings, Window, infer, layout
from cluemap.model.networks.segmenter import Segmenter, build_segmenter
from cluemap.model.storage.trained_models import Card
from cluemap.runtime.memory import peak

TILE, DRAWN = 10980, 3  # images drawn of each resolution
COARSE = ("B05", "B06", "B07", "B8A", "B11", "B12")  # 20 m
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
LEGEND = Legend(BANDS, (2, 1, 0), tuple(CropClass(f"crop {k}", "#112233") for k in range(18)), True)
CARD = Card("bench", "0", LEGEND, 24, 60, np.full(10, 2000, np.float32), np.full(10, 1000, np.float32))
CASES = (("ltae", None), ("tsvit", 0.5), ("tsvit", 0.25), ("tsvit", 0.0))


def write_scene(folder: Path, height: int, width: int, dates: int, kind: str) -> tuple[int, float]:
    """The scene; the bytes of all its files, and the CPU seconds in which GDAL alone decodes each of them once."""
    (folder / "drawn").mkdir()
    size, alone = 0, 0.0
    for date in range(dates):
        home = folder / "images" / f"2019{date // 2 % 12 + 1:02d}{5 + 14 * (date % 2):02d}"
        home.mkdir(parents=True)
        for number, band in enumerate(BANDS):
            by = 2 if band in COARSE else 1
            drawn = folder / "drawn" / f"{by}_{(date + number) % DRAWN}.{kind}"
            seconds = drawn.with_suffix(".seconds")
            if not drawn.exists():
                _draw(drawn, height // by, width // by, by, kind)
                start = time.process_time()
                with rasterio.open(drawn) as file:
                    file.read(1)
                seconds.write_text(str(time.process_time() - start))
            alone += float(seconds.read_text())
            size += drawn.stat().st_size
            os.link(drawn, home / f"{band}.{kind}")
    (folder / "scene.yaml").write_text(f"images: {{kind: folders, path: images, bands: [{', '.join(BANDS)}]}}\n")
    return size, alone


def _draw(path: Path, height: int, width: int, by: int, kind: str) -> None:
    """Smooth fields with noise, 12 bits of it."""
    draws = np.random.default_rng([by, int(path.stem[-1])])
    field = gaussian_filter(draws.normal(size=(height, width)).astype(np.float32), 8 / by)
    values = 2500 + 900 * field / field.std() + draws.normal(0, 60, field.shape)
    block = 1024 if by == 1 else 640
    written: dict[str, Any] = {"driver": "COG", "COMPRESS": "DEFLATE", "PREDICTOR": "YES"}
    if kind == "jp2":
        written = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": block,
                   "BLOCKYSIZE": block}  # fmt: skip
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10 * by, 0, 600000.0, 0, -10 * by, 5800020.0)}
    shape = {"width": width, "height": height, "count": 1, "dtype": "uint16"}
    with rasterio.open(path, "w", **written, **place, **shape) as target:
        target.write(values.clip(1, 10000).astype(np.uint16), 1)


def network_of(kind: str, size: str, precision: str) -> Segmenter:
    told = params(size, precision)
    torch.manual_seed(0)
    return build_segmenter(10, 19, 24, told.segmenter.model_copy(update={"kind": kind}), told.ltae).eval()


def map_with(kind: str, scene: Path, given: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of a map by part, and seconds of the clock."""
    network = network_of(kind, given.size, given.precision)
    inside, last, predict = 0.0, (0.0, 0.0), map_products.predict

    def timed(*more: Any) -> Any:
        nonlocal inside
        start = time.thread_time()
        found = infer(*more)
        inside += time.thread_time() - start
        return found

    def predicted(*more: Any) -> int:
        nonlocal last
        found = predict(*more)
        last = time.process_time(), time.thread_time()
        return found

    settings = Settings(given.tile, overlap=given.overlap, precision=given.precision)
    order = Order(str(scene / "scene.yaml"), scene, scene / f"{kind}.tif", settings=settings)
    with (
        patch.object(raster_prediction, "infer", timed),
        patch.object(map_products, "predict", predicted),
        patch.object(map_products, "load_segmenter", lambda _: (network, CARD)),
        patch.object(map_products, "compare", lambda *_: []),  # with the training data: there are none
    ):
        clock, start, main = time.perf_counter(), time.process_time(), time.thread_time()
        make_map(order, progress=False)
        total = time.process_time() - start
    writing = start + total - last[0]
    decoding = last[0] - start - (last[1] - main)
    rest = total - inside - decoding - writing
    parts = {"network": inside, "decoding": decoding, "writing": writing, "rest": rest}
    return {"all": total, **parts, "clock": time.perf_counter() - clock}


def pieces(dates: int) -> None:
    """Core-minutes of the network alone for a whole tile: seconds of one batch, times the windows of the tile."""
    days = np.linspace(20, 340, dates).astype(np.int16)
    print(f"{dates} dates; core-minutes of the network for a whole tile\n\n| network | overlap | size | fp32 | bf16 |")
    print("|---|---:|---|---:|---:|")
    draws = np.random.default_rng(0)
    for size, batch in (("demo", 48), ("paper", 8)):
        for kind in ("ltae", "tsvit"):
            seconds = {}
            for precision in ("fp32", "bf16"):
                network = network_of(kind, size, precision)
                plan = layout(Settings(), 24, getattr(network, "reach", None), TILE)
                images = draws.integers(500, 4000, (dates, 10, plan.size, plan.size)).astype(np.int16)
                windows = [Window((0, 0), images, days, np.ones(dates, bool))] * batch
                settings, spent = Settings(precision=precision), []
                for _ in range(4):  # the first warms up
                    start = time.process_time()
                    infer(network, CARD, windows, settings, torch.device("cpu"))
                    spent.append((time.process_time() - start) / batch)
                seconds[precision] = float(np.median(spent[1:]))
            for named, overlap in CASES:
                if named == kind:
                    plan = layout(Settings(overlap=overlap), 24, getattr(network, "reach", None), TILE)
                    count = len(window_starts(TILE, plan.size, plan.shared)) ** 2
                    costs = " | ".join(f"{count * one / 60:.0f}" for one in seconds.values())
                    print(f"| {kind} | {'' if overlap is None else overlap} | {size} | {costs} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1098)
    parser.add_argument("--height", type=int, default=1098)
    parser.add_argument("--dates", type=int, default=20)
    parser.add_argument("--kind", choices=("jp2", "tif"), default="jp2")
    parser.add_argument("--tile", type=int, default=0, help="pixels a side that are read at once (default: as predict)")
    parser.add_argument("--network", choices=("ltae", "tsvit"), default="ltae")
    parser.add_argument("--overlap", type=float, help="as predict's")
    parser.add_argument("--size", choices=("demo", "paper"), default="demo", help="whose sizes of the networks")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--networks", action="store_true", help="no map: the network's part for each network")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.networks:
        return pieces(given.dates)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder)
        size, alone = write_scene(scene, given.height, given.width, given.dates, given.kind)
        share = TILE**2 / given.height / given.width
        print(f"{given.height} x {given.width} px, {given.dates} dates, {given.kind}, {size / 1e9:.2f} GB")
        print(f"{given.network}, {given.size}'s sizes, {given.precision}")
        print(f"GDAL alone, every file once: {alone:.0f} s, {alone * share / 60:.0f} core-minutes a whole tile")
        found = map_with(given.network, scene, given)
        total, clock = found.pop("all"), found.pop("clock")
        print(f"a map: {total:.0f} s of CPU time, {clock:.0f} s by the clock, peak memory {peak() / 2**30:.2f} GB")
        print(f"a whole tile: {total * share / 60:.0f} core-minutes")
        for name, part in found.items():
            print(f"  {name}: {part * share / 60:.0f} core-minutes, {100 * part / total:.0f} %")


if __name__ == "__main__":
    main()
