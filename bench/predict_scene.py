"""A whole Sentinel-2 tile (10,980 x 10,980 px, 20 dates, 10 bands): memory of prepare and predict, windows a second.

Every date is a small VRT that stretches one file of noise over the tile, so nothing of that size is written. Only a
part is worked on: `--tiles` tiles of the map, `--blocks` blocks of the split. Time is extrapolated.

    OMP_NUM_THREADS=1 python bench/predict_scene.py --tiles 2 --blocks 5
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cluemap.data.cutting import cut
from cluemap.data.patches import CropClass, Legend
from cluemap.data.scene.reader import open_scene
from cluemap.mapping.blending import tiles
from cluemap.mapping.canvas import Canvas
from cluemap.mapping.predicting import Settings, predict
from cluemap.mapping.sources import open_source
from cluemap.model.segmenter import Segmenter
from cluemap.params import load_params
from cluemap.training.models import Card

SIDE, SOURCE, DATES = 10980, 1098, 20
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
LEFT, TOP = 600000.0, 5800020.0
CLASSES = 18


def write_scene(folder: Path, blocks: int) -> None:
    """The images, and one field of corn in each of the first `blocks` blocks."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    transform = rasterio.Affine(10, 0, LEFT, 0, -10, TOP)
    with rasterio.open(
        folder / "noise.tif", "w", driver="GTiff", width=SOURCE, height=SOURCE, count=len(BANDS), dtype="uint16",
        crs="EPSG:32632", transform=transform, tiled=True,
    ) as file:  # fmt: skip
        file.write(generator.integers(200, 4000, (len(BANDS), SOURCE, SOURCE), dtype=np.uint16))
        wkt = file.crs.to_wkt()
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{n}"><Description>{band}</Description><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">../noise.tif</SourceFilename><SourceBand>{n}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{SOURCE}" ySize="{SOURCE}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/></SimpleSource></VRTRasterBand>'
        for n, band in enumerate(BANDS, 1)
    )
    head = f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{wkt.replace(chr(34), "&quot;")}</SRS>'
    place = f"<GeoTransform>{LEFT},10,0,{TOP},0,-10</GeoTransform>"
    for date in range(DATES):
        name = f"2019{date // 2 + 1:02d}{5 + 14 * (date % 2):02d}.vrt"
        (folder / "images" / name).write_text(f"{head}{place}{bands}</VRTDataset>")
    fields = [shapely.box(LEFT + 4800 * i, TOP - 4560, LEFT + 4800 * i + 4560, TOP) for i in range(max(5, blocks))]
    gpd.GeoDataFrame({"crop": ["corn"] * len(fields)}, geometry=fields, crs="EPSG:32632").to_file(folder / "f.gpkg")
    (folder / "scene.yaml").write_text(
        f"images: {{kind: files, path: images, bands: [{', '.join(BANDS)}]}}\nclasses: [{{name: corn}}]\n"
        "labels: {kind: polygons, file: f.gpkg, column: crop}\n"
    )


def measure_prepare(folder: Path, blocks: int) -> None:
    params = load_params("pastis").windows
    reader, start, count = open_scene(folder, params), time.perf_counter(), 0
    names = list(dict.fromkeys(piece.block for piece in reader.pieces))[:blocks]
    for index, piece in enumerate(reader.pieces):
        if piece.block in names:
            count += len(cut(reader.read(index), params))
    seconds = time.perf_counter() - start
    print(
        f"prepare: {count} windows of {len(names)} blocks in {seconds:.0f} s, {count / seconds:.0f} a second; {peak()}"
    )


def measure_predict(folder: Path, number: int, dataset: str, device: torch.device, settings: Settings) -> None:
    params = load_params(dataset).segmenter
    legend = Legend(BANDS, (2, 1, 0), tuple(CropClass(f"crop {k}", "#112233") for k in range(CLASSES)), True)
    card = Card("bench", "0", legend, 24, 60, np.full(10, 2000, np.float32), np.full(10, 1000, np.float32))
    network = Segmenter(len(BANDS), CLASSES + 1, 24, params).eval().to(device)
    imagery = open_source(folder, legend)
    canvas = Canvas(folder / "canvas", SIDE, SIDE, {"classes": 1, "confidence": 1}, {})
    every = list(tiles(SIDE, SIDE, settings.tile, 24, settings.overlap))
    canvas.done |= {tile.number for tile in every[number:]}
    start = time.perf_counter()
    count = predict(network, card, imagery, canvas, settings, device)
    rate, total = count / (time.perf_counter() - start), sum(len(tile.windows) for tile in every)
    print(
        f"predict: {count} windows, {rate:.1f} a second on {device.type} with {torch.get_num_threads()} threads "
        f"({dataset}'s segmenter); extrapolated to the tile's {total}: {total / rate / 3600:.1f} h; {peak()}"
    )


def peak() -> str:
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2, help="tiles of the map to make")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of the split to read")
    parser.add_argument(
        "--dataset", default="demo", help="whose segmenter's sizes: demo (width 32), pastis (width 128)"
    )
    parser.add_argument("--overlap", type=int, default=Settings().overlap)
    parser.add_argument("--side", type=int, default=Settings().tile, help="pixels a side of a tile of the map")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_scene(Path(folder), given.blocks)
        measure_prepare(Path(folder), given.blocks)
        settings = Settings(
            tile=given.side, overlap=given.overlap, precision="bf16" if device.type == "cuda" else "fp32"
        )  # fmt: skip
        measure_predict(Path(folder), given.tiles, given.dataset, device, settings)


if __name__ == "__main__":
    main()
