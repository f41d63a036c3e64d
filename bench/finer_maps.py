"""Maps of 5 m from images of 10 m on a synthetic region: what they bring at borders, against the truth at 5 m.

The demo's generator draws land and images at 5 m; images become 10 m by 2 x 2 means, fields polygons of the 5 m truth.
A segmenter learns them at 10 m, another one at 5 m (scene.yaml: grid.pixel 5, resample). Both map a region that was not
trained on: the first at 10 m (each pixel then counts as four) and with `predict.py --scale 2`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from work import ROOT  # first: it loads cluemap, which says how threads wait, before torch

# isort: split
import geopandas as gpd
import numpy as np
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.transform import Affine
from ruamel.yaml import YAML
from scenes import BANDS, CROPS, CRSS, LEFT, TOP, write_raster, write_scene

from cluemap.data.patches import NODATA
from cluemap.data.synthetic.generator_params import STANDARD
from cluemap.data.synthetic.region import Tile, make_tile, render
from cluemap.training.map_scores import map_counts, named_map_scores
from cluemap.training.metrics import Ids

SIDE = 576  # pixels of 5 m
DATES = np.arange("2018-10-03", "2019-09-20", 20, dtype="datetime64[D]")
NAMES = ["background", *CROPS.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for regions, models and maps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="of each training (default: 500)")
    given = parser.parse_args()
    tile = make_tile(DATES, (given.seed, 0), STANDARD)
    write_region(given.out / "trained", tile, (given.seed, 1))
    truth = write_region(given.out / "mapped", tile, (given.seed, 2))
    models = {pixel: trained(given, pixel) for pixel in (10, 5)}
    maps = {
        "10 m, each pixel as four": mapped(given, models[10], 10).repeat(2, axis=0).repeat(2, axis=1),
        "10 m, --scale 2": mapped(given, models[10], 10, "--scale", "2"),
        "learned at 5 m": mapped(given, models[5], 5),
    }
    print("| map | mIoU | boundary IoU | within 1 px of 5 m | within 2 px | away |\n|---|---:|---:|---:|---:|---:|")
    for name, found in maps.items():
        scores = named_map_scores(map_counts(truth[None], found[None], Ids(len(CROPS), True)), NAMES)
        columns = ("miou", "boundary_iou", "border_1px_miou", "border_miou", "interior_miou")
        print(f"| {name} | " + " | ".join(f"{100 * scores[column]:.1f}" for column in columns) + " |")


def write_region(folder: Path, tile: Tile, seed: tuple[int, int]) -> NDArray[np.uint8]:
    """Images at 10 m, fields, and a scene.yaml for either grid (`10` and `5` below `folder`); h w, the truth at 5 m."""
    scene = render(SIDE, SIDE, tile, seed, difficulty=STANDARD)
    ids = np.full(256, 255, np.uint8)
    ids[[0, *CROPS]] = np.arange(len(NAMES))
    truth = ids[scene.labels]
    halves = scene.images.astype(np.float32).reshape(len(DATES), len(BANDS), SIDE // 2, 2, SIDE // 2, 2)
    seen = (halves != NODATA).all(axis=(3, 5))
    images = np.where(seen, np.maximum(halves.mean(axis=(3, 5)), 1), 0).round().astype(np.uint16)
    crops = rasterio.features.shapes(
        truth, mask=(truth > 0) & (truth < 255), transform=Affine(5, 0, LEFT, 0, -5, TOP)
    )  # fmt: skip
    shapes, numbers = zip(*[(shapely.geometry.shape(shape), int(number)) for shape, number in crops], strict=True)
    fields = gpd.GeoDataFrame({"crop": [NAMES[number] for number in numbers]}, geometry=list(shapes), crs=CRSS[0])
    for pixel in (10, 5):
        here = folder / str(pixel)
        for day, bands in zip(DATES, images, strict=True):
            write_raster(here / "images" / f"{day}.tif", bands, names=BANDS)
        fields.to_file(here / "fields.gpkg")
        grid = {"pixel": float(pixel), "resample": True}
        write_scene(here, {"kind": "files", "path": "images"}, grid=grid, split={"block": 480.0, "gap": 0.0, "seed": 1})
    return truth


def trained(given: argparse.Namespace, pixel: int) -> Path:
    """The model of true masks at this grid: stages prepare and train_reference, with the demo's recipe."""
    name, out = f"region_{pixel}", given.out / "out"
    yaml = YAML()
    tree = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["datasets"] = {name: str((given.out / "trained" / str(pixel)).resolve())}
    tree["seed"] = given.seed
    tree[name] = {**tree["demo"], "source": {"format": "scene"}}
    tree[name]["segmenter"].update(steps=given.steps, validate_every=given.steps, select="last")
    file = given.out / f"{name}.yaml"
    with file.open("w", encoding="utf-8") as handle:
        yaml.dump(tree, handle)
    for stage in ("prepare", "train_reference"):
        if not (out / name / stage / "metrics.json").exists():
            run(f"{stage}.py", "--dataset", name, "--params", str(file), "--out", str(out))
    return out / name / "train_reference"


def mapped(given: argparse.Namespace, model: Path, pixel: int, *more: str) -> NDArray[np.uint8]:
    """The map of the other region."""
    file = given.out / f"map_{pixel}{''.join(more)}.tif"
    scene = given.out / "mapped" / str(pixel)
    run("predict.py", "--model", str(model), "--scene", str(scene), "--out", str(file), *more)
    with rasterio.open(file) as content:
        return content.read(1)


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / "src" / script), *arguments], check=True)


if __name__ == "__main__":
    main()
