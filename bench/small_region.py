"""Network from image labels, network from true masks, trees and the majority class on a small region, cross-validated.

Writes a region of the demo generator as a user would bring it (GeoTIFFs, polygons, scene.yaml with `kind: auto`), then
runs src/crossvalidate.py on it with the demo's params. Goes on where it was stopped; no run is sent to the store.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
os.environ["CLUEMAP_TRACKING"] = "off"

import geopandas as gpd  # noqa: E402
import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import rasterio.features  # noqa: E402
import shapely  # noqa: E402
from rasterio.transform import Affine  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

import crossvalidate  # noqa: E402
from cluemap.data.formats.pastis import BANDS, CLASSES  # noqa: E402
from cluemap.data.splits.field_split import propose_split  # noqa: E402
from cluemap.data.synthetic.region import Scene, make_tile, render  # noqa: E402

CRS, LEFT, TOP, PIXEL = "EPSG:32632", 600_000.0, 5_790_240.0, 10.0
DEMO = (1, 2, 3, 4, 5, 7, 9, 13)  # PASTIS's ids of the demo's crops


def write_region(folder: Path, side: int, dates: int, seed: int) -> int:
    """Images, polygons and scene.yaml; gives the number of fields, and keeps what is there."""
    days = np.linspace(0, 220, dates).round().astype(int) + np.datetime64("2019-03-01")
    scene = render(side, side, make_tile(days, (seed, 0)), (seed, 1))
    fields = _fields(scene)
    if (folder / "scene.yaml").exists():
        return len(fields)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    transform = Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    for day, image in zip(days, scene.images, strict=True):
        with rasterio.open(
            folder / "images" / f"{day}.tif", "w", driver="GTiff", height=side, width=side, count=len(BANDS),
            dtype="uint16", crs=CRS, transform=transform, nodata=0,
        ) as file:  # fmt: skip
            file.write(np.clip(image, 0, None).astype(np.uint16))
            for number, band in enumerate(BANDS, 1):
                file.set_band_description(number, band)
    fields.to_file(folder / "fields.gpkg")
    present = [CLASSES[k].name for k in DEMO if CLASSES[k].name in set(fields["crop"])]
    content = {
        "images": {"kind": "files", "path": "images", "bands": list(BANDS), "scale": 0.0001},
        "classes": [{"name": name} for name in present],
        "labels": {"kind": "polygons", "file": "fields.gpkg", "column": "crop", "outside": "background"},
        "split": {"kind": "auto", "seed": 0},
    }
    with (folder / "scene.yaml").open("w") as handle:
        YAML().dump(content, handle)
    return len(fields)


def _fields(scene: Scene) -> gpd.GeoDataFrame:
    kept = np.isin(scene.labels, DEMO)
    transform = Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    parts: dict[int, list[Any]] = {}
    for shape, number in rasterio.features.shapes(scene.parcels, mask=kept, transform=transform):
        parts.setdefault(int(number), []).append(shapely.geometry.shape(shape))
    crops = [CLASSES[int(scene.labels[kept & (scene.parcels == number)][0])].name for number in parts]
    return gpd.GeoDataFrame({"crop": crops}, geometry=[shapely.union_all(one) for one in parts.values()], crs=CRS)


def write_params(folder: Path, share: float) -> Path:
    """The demo's params for this region, with a share of its steps."""
    yaml = YAML()
    tree = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    plan = propose_split(np.asarray(gpd.read_file(folder / "fields.gpkg").geometry.values), PIXEL)
    block = tree["demo"]
    block["source"] = {"format": "scene"}
    block["windows"] = {"size": plan.window, "stride": plan.stride}
    block["checkpoint"] = {"minutes": 10.0}
    for name in ("classifier", "segmenter"):
        for key in ("steps", "validate_every"):
            block[name][key] = max(1, round(share * block[name][key]))
    block["clues"]["start_step"] = round(share * block["clues"]["start_step"])
    tree["small"], tree["datasets"] = block, {"small": str(folder.resolve())}
    del tree["demo"]
    file = folder.parent / "params.yaml"
    with file.open("w", encoding="utf-8") as handle:
        yaml.dump(tree, handle)
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for region and results")
    parser.add_argument("--side", type=int, default=240, help="pixels a side (240: about 120 fields)")
    parser.add_argument("--dates", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the demo's training steps")
    parser.add_argument("--jobs", type=int, default=1, help="folds at once")
    given = parser.parse_args()
    count = write_region(given.out / "region", given.side, given.dates, given.seed)
    file = write_params(given.out / "region", given.share)
    print(f"{count} fields on {given.side} x {given.side} pixels, {given.dates} dates, {given.share:g} of the steps")
    return crossvalidate.main(
        ["--dataset", "small", "--params", str(file), "--out", str(given.out / "out"), "--jobs", str(given.jobs)]
    )


if __name__ == "__main__":
    sys.exit(main())
