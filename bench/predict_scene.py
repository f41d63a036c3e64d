"""A whole Sentinel-2 tile (10,980 x 10,980 px, 20 dates, 10 bands): memory of prepare and predict, windows a second.

Every date is a small VRT that stretches one file of noise over the tile, so nothing of that size is written. Only a
part is worked on: `--tiles` tiles of the map, `--blocks` blocks of the split; hours are extrapolated from it. Rates on
the CPU are windows a second of CPU time, all threads together: a busy machine does not change them. Decoding of .jp2
is not in them: add 0.15 s a 1024 x 1024 px tile of a band.

    OMP_NUM_THREADS=1 python bench/predict_scene.py --tiles 1 --side 240         # rate
    OMP_NUM_THREADS=1 python bench/predict_scene.py --tiles 4 --overlap 0        # memory: tiles as large as by default
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cluemap.data.patches import CropClass, Legend
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.windowing import cut
from cluemap.mapping.area_tables import hectares
from cluemap.mapping.geotiff import write_cog
from cluemap.mapping.map_canvas import Canvas
from cluemap.mapping.map_sources import open_source
from cluemap.mapping.map_styling import write_preview
from cluemap.mapping.overlap_blending import tiles
from cluemap.mapping.raster_prediction import Settings, layout, predict
from cluemap.mapping.tile_reading import tiling
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.model.storage.trained_models import Card
from cluemap.params import SegmenterParams, WindowParams
from cluemap.paths import ROOT
from cluemap.runtime.memory import peak

PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
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
    params = WindowParams.model_validate(PARAMS["windows"])
    start, count = time.process_time(), 0
    reader = open_scene(folder, params)
    names = list(dict.fromkeys(piece.block for piece in reader.pieces))[:blocks]
    for index, piece in enumerate(reader.pieces):
        if piece.block in names:
            count += len(cut(reader.read(index), params))
    seconds = time.process_time() - start
    print(
        f"prepare: {count} windows of {len(names)} blocks in {seconds:.0f} s of CPU time, {count / seconds:.0f} a "
        f"second; {held()}"
    )


def measure_predict(folder: Path, number: int, dataset: str, device: torch.device, settings: Settings) -> None:
    params = SegmenterParams.model_validate(PARAMS["segmenter"] | PARAMS[dataset]["segmenter"])
    legend = Legend(BANDS, (2, 1, 0), tuple(CropClass(f"crop {k}", "#112233") for k in range(CLASSES)), True)
    card = Card("bench", "0", legend, 24, 60, np.full(10, 2000, np.float32), np.full(10, 1000, np.float32))
    network = TsvitSegmenter(len(BANDS), CLASSES + 1, 24, params).eval().to(device)
    imagery = open_source(folder, legend)
    canvas = Canvas(folder / "canvas", SIDE, SIDE, {"classes": 1, "confidence": 1}, {})
    plan = layout(settings, 24, None, SIDE)
    lines = tiling(settings.tile, imagery.blocks, DATES, len(BANDS))
    every = tiles(SIDE, SIDE, lines, plan.size, plan.shared)
    canvas.done |= {tile.number for tile in every[number:]}
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    count = predict(network, card, imagery, canvas, settings, device)
    rate = count / (clock() - start)
    plan = layout(Settings(), 24, None, SIDE)
    usual = tiles(SIDE, SIDE, tiling(0, imagery.blocks, DATES, len(BANDS)), plan.size, plan.shared)
    total = sum(len(tile.windows) for tile in usual)
    print(
        f"predict: {count} windows in tiles of {lines.height} x {lines.width} px, {rate:.1f} a second on {device.type} "
        f"({dataset}'s segmenter, batches of {settings.batch}); extrapolated to the {total} that predict.py runs for a "
        f"whole scene: {total / rate / 3600:.1f} h; {held()}"
    )
    start = time.process_time()
    hectares(canvas, imagery.grid, legend)
    for name in canvas.layers:
        write_cog(canvas, name, imagery.grid, folder / f"{name}.tif", [name], legend if name == "classes" else None)
    write_preview(folder / "classes.tif", legend, {})
    print(f"map written in {time.process_time() - start:.0f} s of CPU time; {held()}")


def held() -> str:
    return f"peak memory {peak() / 2**30:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2, help="tiles of the map to make")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of the split to read")
    parser.add_argument(
        "--dataset", default="demo", help="whose segmenter's sizes: demo (width 32), pastis (width 128)"
    )
    parser.add_argument("--overlap", type=float, default=Settings().overlap)
    parser.add_argument("--side", type=int, help="pixels a side of a tile of the map (default: as predict.py)")
    parser.add_argument("--batch", type=int, default=Settings().batch)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_scene(Path(folder), given.blocks)
        measure_prepare(Path(folder), given.blocks)
        precision = "bf16" if device.type == "cuda" else "fp32"
        settings = Settings(tile=given.side or 0, batch=given.batch, overlap=given.overlap, precision=precision)
        measure_predict(Path(folder), given.tiles, given.dataset, device, settings)


if __name__ == "__main__":
    main()
