"""Three genuine Sentinel-2 L2A products, trimmed to an odd size, of processing baselines 02.06, 02.07 and 02.08."""

import sys

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from locations import REAL
from rasterio.windows import Window
from scenes import BANDS, write_scene

import inspect_scene
from cluemap.data.preparation import prepare
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.windows import Windows
from cluemap.params import load_params

PRODUCTS = sorted((REAL / "safe").glob("*.SAFE"), key=lambda path: path.name[11:19])
pytestmark = pytest.mark.skipif(not PRODUCTS, reason="the genuine products are not in this checkout (shared/real/safe)")
LEFT, TOP, HEIGHT, WIDTH = 523560.0, 4832780.0, 353, 232
DAYS = {"0206": "2018-01-23", "0207": "2018-04-18", "0208": "2018-08-26"}
SPLIT = {"block": 720.0, "gap": 0.0, "seed": 1}


def scene_of(root, products, **blocks):
    (root / "images").mkdir(parents=True)
    for product in products:
        (root / "images" / product.name).symlink_to(product)
    return write_scene(root, {"kind": "safe", "path": "images"}, **{"labels": None, **blocks})


def labelled(root, products):
    """Fields of 200 m in two crops over the whole trim."""
    boxes = [(LEFT + x, TOP - y, LEFT + x + 200, TOP - y + 200) for x in range(0, 2200, 240)
             for y in range(200, 3500, 240)]  # fmt: skip
    table = gpd.GeoDataFrame(
        {"crop": ["vines", "cereals"] * (len(boxes) // 2)}, geometry=[shapely.box(*b) for b in boxes], crs="EPSG:32631"
    )
    labels = {"kind": "polygons", "file": "fields.gpkg", "column": "crop"}
    root = scene_of(root, products, labels=labels, split=SPLIT, classes=[{"name": "vines"}, {"name": "cereals"}])
    table.to_file(root / "fields.gpkg")
    return root


def stored_value(product, band, row, column):
    file = next(path for path in product.rglob(f"*_{band}_*.jp2"))
    with rasterio.open(file) as handle:
        return int(handle.read(1, window=Window(column, row, 1, 1))[0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("product", PRODUCTS, ids=lambda path: path.name[26:32])
def test_each_product_reads_alone(product, tmp_path):
    root = scene_of(tmp_path, [product])
    imagery = open_imagery(root, read_scene(root))
    grid, baseline = imagery.grid, product.name.split("_N")[1][:4]
    assert (grid.name, grid.left, grid.top, grid.height, grid.width) == ("EPSG:32631", LEFT, TOP, HEIGHT, WIDTH)
    assert [str(day) for day in imagery.dates] == [DAYS[baseline]]
    found = imagery.read(slice(0, HEIGHT), slice(0, WIDTH))[0]
    seen = found != -10000
    assert seen.any(axis=(1, 2)).all()
    rows, columns = np.nonzero(seen[BANDS.index("B04")])
    for place in range(0, len(rows), len(rows) // 20):  # 10 m bands: values as stored
        row, column = int(rows[place]), int(columns[place])
        for band in ("B02", "B04", "B08"):
            value = stored_value(product, band, row, column)
            assert found[BANDS.index(band), row, column] == (value or -10000)  # 0 is no data


def test_the_three_read_together(tmp_path):
    root = labelled(tmp_path, PRODUCTS)
    params = load_params("demo")
    reader = open_scene(root, params.windows)
    assert [str(day) for day in reader.dates] == list(DAYS.values())
    prepare(reader, params.model_copy(update={"dataset": "real"}), tmp_path / "windows", progress=False)
    windows = Windows.open(tmp_path / "windows")
    assert len(windows) > 80
    assert windows.card.counts["test"] > 0
    assert ((windows.card.mean > 200) & (windows.card.mean < 6000)).all()


def test_the_inspection_of_the_three(tmp_path, monkeypatch, capsys):
    root = labelled(tmp_path, PRODUCTS)
    monkeypatch.setattr(sys, "argv", ["inspect_scene.py", str(root), "--out", str(tmp_path / "page.html")])
    assert inspect_scene.main() == 0
    page = (tmp_path / "page.html").read_text()
    assert all(day in page for day in DAYS.values())
