"""Where the time of a map goes: a real run of src/predict.py's work on generated .jp2 or COG files, decode included.

A scene of `--side` pixels and `--dates` dates (10 bands, one file each, as Sentinel-2 products have them) is written,
then mapped with each network, random weights: what a whole tile of 10,980 x 10,980 px would take, extrapolated by its
pixels, and the shares of decoding (read alone, before), network, and writing (after the last tile); the rest cuts and
blends windows. All in CPU seconds of one torch thread, which a busy machine changes little: core-minutes. Decoding runs
in threads beside the network.

    python bench/whole_tile.py --side 1098 --kind jp2
    GDAL_CACHEMAX=128 python bench/whole_tile.py --dates 5 --tile 707 --networks    # how often blocks are decoded

A JPEG 2000 file has blocks of 1,024 px, larger than the map's tiles: GDAL's cache of 512 MB holds no block of each of
200 files, so every tile decodes all blocks that it touches. The last line shows it on a quarter of files and cache.
"""

import argparse
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
from cluemap.mapping.map_sources import open_source
from cluemap.mapping.overlap_blending import tiles
from cluemap.mapping.raster_prediction import Settings, fitting_tile, layout
from cluemap.model.networks.segmenter import build_segmenter
from cluemap.model.storage.trained_models import Card
from cluemap.runtime.memory import peak

TILE = 10980
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
LEGEND = Legend(BANDS, (2, 1, 0), tuple(CropClass(f"crop {k}", "#112233") for k in range(18)), True)
CARD = Card("bench", "0", LEGEND, 24, 60, np.full(10, 2000, np.float32), np.full(10, 1000, np.float32))
WRITTEN: dict[str, dict[str, Any]] = {
    "jp2": {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024},
    "tif": {"driver": "COG", "COMPRESS": "DEFLATE", "PREDICTOR": "YES"},
}


def write_scene(folder: Path, side: int, dates: int, kind: str) -> int:
    """Smooth fields with noise, 12 bits of it, one file a band and date; the bytes of all files."""
    (folder / "images").mkdir()
    draws = np.random.default_rng(0)
    field = gaussian_filter(draws.normal(size=(side, side)), 8)
    field = 2500 + 900 * field / field.std()
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 600000.0, 0, -10, 5800020.0)}
    shape = {"width": side, "height": side, "count": 1, "dtype": "uint16"}
    for date in range(dates):
        home = folder / "images" / f"2019{date // 2 % 12 + 1:02d}{5 + 14 * (date % 2):02d}"
        home.mkdir()
        for band in BANDS:
            values = (field + draws.normal(0, 60, field.shape)).clip(1, 10000).astype(np.uint16)
            file = home / f"{band}.{kind}"
            with rasterio.open(file, "w", **WRITTEN[kind], **place, **shape) as target:
                target.write(values, 1)
    (folder / "scene.yaml").write_text(f"images: {{kind: folders, path: images, bands: [{', '.join(BANDS)}]}}\n")
    return sum(file.stat().st_size for file in folder.rglob(f"*.{kind}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1098)
    parser.add_argument("--dates", type=int, default=20)
    parser.add_argument("--kind", choices=WRITTEN, default="jp2")
    parser.add_argument("--tile", type=int, default=0, help="pixels a side that are read at once (default: as predict)")
    parser.add_argument("--networks", nargs="*", choices=("ltae", "tsvit"), default=["ltae"])
    parser.add_argument("--size", choices=("demo", "paper"), default="demo", help="whose sizes of the networks")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder)
        size = write_scene(scene, given.side, given.dates, given.kind)
        once, decoded = decode_once(scene), decode_alone(scene, given.tile)
        whole = (TILE / given.side) ** 2
        about = f"{given.side} px, {given.dates} dates, {given.kind}, {size / 1e6:.0f} MB"
        print(f"{about}, {given.size}'s sizes, {given.precision}")
        print(f"every file decoded once: {once:.1f} s; tile by tile, as predict reads: {decoded:.1f} s;")
        print(f"a whole tile: {decoded * whole / 60:.0f} core-minutes")
        print("| network | a whole tile, core-minutes | network | writing | decoding alone | peak GB |")
        print("|---|---:|---:|---:|---:|---:|")
        for network in given.networks:
            total, inside, writing = map_with(network, scene, given)
            shares = " | ".join(f"{100 * part / total:.0f} %" for part in (inside, writing, decoded))
            print(f"| {network} | {total * whole / 60:.0f} | {shares} | {peak() / 2**30:.2f} |", flush=True)


def decode_once(scene: Path) -> float:
    """CPU seconds to read every file whole."""
    start = time.process_time()
    for path in (scene / "images").rglob("*.*"):
        with rasterio.open(path) as file:
            file.read(1)
    return time.process_time() - start


def decode_alone(scene: Path, side: int) -> float:
    """CPU seconds to read every tile that a map of ltae reads, without a network."""
    imagery = open_source(scene, LEGEND)
    plan = layout(Settings(), 24, 2, imagery.grid.height)
    start = time.process_time()
    side = side or fitting_tile(len(imagery.days), len(BANDS))
    for tile in tiles(imagery.grid.height, imagery.grid.width, side, plan.size, plan.shared):
        imagery.read(tile.reach_rows, tile.reach_columns)
    return time.process_time() - start


def map_with(kind: str, scene: Path, given: argparse.Namespace) -> tuple[float, float, float]:
    """CPU seconds in all, in the network, and after the last tile."""
    told = params(given.size, given.precision)
    torch.manual_seed(0)
    network = build_segmenter(10, 19, 24, told.segmenter.model_copy(update={"kind": kind}), told.ltae).eval()
    spent, last, infer, predict = [0.0], [0.0], raster_prediction.infer, map_products.predict

    def timed(*more: Any) -> Any:
        start = time.thread_time()
        found = infer(*more)
        spent[0] += time.thread_time() - start
        return found

    def predicted(*more: Any) -> int:
        found = predict(*more)
        last[0] = time.process_time()
        return found

    order = Order(
        str(scene / "scene.yaml"),
        scene,
        scene / f"{kind}.tif",
        settings=Settings(given.tile, precision=given.precision),
    )
    with (
        patch.object(raster_prediction, "infer", timed),
        patch.object(map_products, "predict", predicted),
        patch.object(map_products, "load_segmenter", lambda _: (network, CARD)),
        patch.object(map_products, "compare", lambda *_: []),  # with the training data: there are none
    ):
        start = time.process_time()
        make_map(order, progress=False)
        end = time.process_time()
    return end - start, spent[0], end - last[0]


if __name__ == "__main__":
    main()
