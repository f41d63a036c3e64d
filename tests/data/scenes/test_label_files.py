"""Label files as people have them: broken geometries, gaps, spellings, encodings, and far more than the scene."""

import struct
import subprocess
import sys
import unicodedata

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from locations import SOURCE
from scenes import LEFT, TOP, write_raster, write_scene

from cluemap.data.scenes.scene_reader import open_scene
from cluemap.errors import DataError
from cluemap.mapping.inspection.scene_inspection import inspect
from cluemap.params import WindowParams

PARAMS = WindowParams(size=12, stride=12, flush_edge=False, max_dates=60, presence=0.01, fold=1)
HEIGHT, WIDTH = 60, 72
SPLIT = {"block": 240.0, "gap": 0.0, "seed": 1}
CLASSES = [{"name": "corn"}, {"name": "wheat"}]


@pytest.fixture
def root(tmp_path):
    values = np.random.default_rng(0).integers(500, 3000, (3, HEIGHT, WIDTH)).astype(np.uint16)
    write_raster(tmp_path / "images" / "2019-05-01.tif", values, names=("B04", "B03", "B02"))
    return tmp_path


def box(row, column, height=6, width=6):
    return shapely.box(LEFT + 10 * column, TOP - 10 * (row + height), LEFT + 10 * (column + width), TOP - 10 * row)


def fields(**columns):
    """Thirty fields of 6 x 6 px, one in every 12 px."""
    places = [(row, column) for row in range(0, HEIGHT, 12) for column in range(0, WIDTH, 12)]
    table = gpd.GeoDataFrame({"crop": ["corn", "wheat"] * 15}, geometry=[box(*place) for place in places])
    return table.assign(**columns).set_crs("EPSG:32632")


def opened(root, file="fields.gpkg", classes=CLASSES, column="crop", **labels):
    spec = {"kind": "polygons", "file": file, "column": column, **labels}
    images = {"kind": "files", "path": "images", "bands": ["B04", "B03", "B02"]}
    write_scene(root, images, labels=spec, classes=classes, split=SPLIT)
    return open_scene(root, PARAMS)


def ids(reader):
    return reader.labels.ids(reader.imagery.grid)


def expected():
    found = np.full((HEIGHT, WIDTH), 255)
    for number, (row, column) in enumerate((r, c) for r in range(0, HEIGHT, 12) for c in range(0, WIDTH, 12)):
        found[row : row + 6, column : column + 6] = 1 + number % 2
    return found


def test_a_collapsed_spike_labels_nothing_outside_the_field(root):
    """The first field's outline runs out 40 px and back along the same line."""
    table = fields()
    x, y = LEFT + 60.0, TOP - 30.0
    ring = [(LEFT, TOP), (x, TOP), (x, y), (x + 405, y - 2), (x, y), (x, TOP - 60), (LEFT, TOP - 60)]
    table.loc[0, "geometry"] = shapely.Polygon(ring)
    table.to_file(root / "fields.gpkg")
    np.testing.assert_array_equal(ids(opened(root)), expected())


def test_lines_and_points_among_polygons_label_nothing(root):
    odd = [shapely.LineString([(LEFT + 5, TOP - 95), (LEFT + 600, TOP - 95)]), shapely.Point(LEFT + 105, TOP - 105)]
    extra = gpd.GeoDataFrame({"crop": ["corn", "corn"]}, geometry=odd, crs="EPSG:32632")
    pd.concat([fields(), extra]).to_file(root / "fields.gpkg")
    reader = opened(root)
    np.testing.assert_array_equal(ids(reader), expected())
    assert any("2 of 32 features are no polygons" in text for text in reader.notes)
    extra.to_file(root / "odd.gpkg")
    with pytest.raises(DataError, match=r"odd.gpkg holds no polygons.*labels.kind"):
        opened(root, "odd.gpkg")


def test_typing_errors_are_counted_where_others_are_unlabelled(root):
    crops = ["corn", "wheat"] * 15
    crops[0], crops[2], crops[3] = "korn", "korn", "hemp"
    fields(crop=crops).to_file(root / "fields.gpkg")
    said = " ".join(opened(root, others="unlabelled").notes)
    assert "3 features are of 2 classes" in said
    assert "'korn' (2: did you mean 'corn'?)" in said
    assert "'hemp' (1)" in said
    assert any("3 features are of 2 classes" in text for text in inspect(root, PARAMS, False).notes)


def test_fields_without_a_class_are_unlabelled_and_counted(root):
    crops = [None, *(["wheat", "corn"] * 15)[:29]]
    fields(crop=crops).to_file(root / "fields.gpkg")
    reader = opened(root)
    wanted = expected()
    wanted[:6, :6] = 255
    np.testing.assert_array_equal(ids(reader), wanted)
    assert any("1 of 30 features have no class" in text for text in reader.notes)


def test_features_without_geometry_are_told_from_those_off_the_images(root):
    table = fields()
    table.loc[[0, 1], "geometry"] = None
    table.loc[2, "geometry"] = shapely.box(0, 0, 10, 10)
    table.to_file(root / "fields.gpkg")
    reader = opened(root)
    assert any("2 of 30 features have no geometry" in text for text in reader.notes)
    assert reader.labels.missed == 1
    table.assign(geometry=None).to_file(root / "none.gpkg")
    with pytest.raises(DataError, match="none of its 30 features has a geometry") as error:
        opened(root, "none.gpkg")
    assert "CRS" not in str(error.value)


def test_names_and_columns_are_the_same_however_their_accents_are_written(root):
    crop, column = "Blé tendre", "espèce"
    table = fields(crop=["corn", crop] * 15).rename(columns={"crop": unicodedata.normalize("NFD", column)})
    table[unicodedata.normalize("NFD", column)] = ["corn", unicodedata.normalize("NFD", crop)] * 15
    table.to_file(root / "fields.gpkg")
    classes = [{"name": "corn"}, {"name": unicodedata.normalize("NFC", crop)}]
    np.testing.assert_array_equal(ids(opened(root, classes=classes, column=column)), expected())


def test_blanks_in_a_table_of_classes(root):
    fields(crop=["CO ", " WH"] * 15).to_file(root / "fields.gpkg")
    (root / "classes.csv").write_text("\ufeffvalue ; name\r\n CO ; corn \r\nWH;wheat\r\n", encoding="utf-8")
    np.testing.assert_array_equal(ids(opened(root, classes="classes.csv")), expected())


def write_shapefile(root, names, encoding):
    """A Shapefile in `encoding` whose .dbf names none and that has no .cpg."""
    fields(crop=names).to_file(root / "fields.shp", encoding=encoding)
    (root / "fields.cpg").unlink(missing_ok=True)
    table = root / "fields.dbf"
    content = bytearray(table.read_bytes())
    content[29] = 0
    table.write_bytes(bytes(content))


@pytest.mark.parametrize(("encoding", "given"), [("UTF-8", {}), ("cp1250", {"encoding": "cp1250"}), ("ISO-8859-1", {})])
def test_a_shapefile_without_cpg(root, encoding, given):
    crop = "žito" if encoding == "cp1250" else "blé"
    write_shapefile(root, ["corn", crop] * 15, encoding)
    reader = opened(root, "fields.shp", classes=[{"name": "corn"}, {"name": crop}], **given)
    np.testing.assert_array_equal(ids(reader), expected())


def test_geoparquet(root):
    far = fields().assign(geometry=fields().translate(xoff=90_000))
    pd.concat([fields(), far]).to_parquet(root / "fields.parquet")
    reader = opened(root, "fields.parquet")
    np.testing.assert_array_equal(ids(reader), expected())
    assert reader.labels.missed == 30
    (root / "fields.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(DataError, match=r"fields.parquet cannot be read"):
        opened(root, "fields.parquet")


def test_the_crs_of_a_points_file_and_of_a_layer_are_named(root):
    fields().to_file(root / "fields.gpkg", layer="fields_2019")
    with pytest.raises(DataError, match=r"no layer 'fields_2018'.*did you mean 'fields_2019'"):
        opened(root, layer="fields_2018")


def national_file(file, count=400_000):
    """A GeoPackage of fields over 140 x 180 km, thirty of them on the scene; by rows of small batches."""
    batch = 50_000
    for start in range(0, count, batch):
        number = np.arange(start, start + batch)
        x, y = 800_000 + 220.0 * (number % 640), 5_000_000 + 220.0 * (number // 640)
        angle = np.linspace(0, 2 * np.pi, 60)
        rings = np.stack([x[:, None] + 100 * np.cos(angle), y[:, None] + 100 * np.sin(angle)], axis=2)
        table = gpd.GeoDataFrame({"crop": ["corn"] * batch, "owner": [f"farm {n}" for n in number]},
                                 geometry=shapely.polygons(rings), crs="EPSG:32632")  # fmt: skip
        table.to_file(file, driver="GPKG", mode="a" if start else "w")
    fields(owner="here").to_file(file, driver="GPKG", mode="a")


# VmHWM and not getrusage: on Linux ru_maxrss of a child starts with what its parent held at the fork.
MEASURE = """
import sys
from pathlib import Path
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.params import WindowParams
root = Path(sys.argv[1])
reader = open_scene(root, WindowParams(size=12, stride=12, flush_edge=False, max_dates=60, presence=0.01, fold=1))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(reader.labels.missed, int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
def test_of_a_national_file_only_the_scene_is_read(root):
    national_file(root / "fields.gpkg")
    opened(root)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(root)], cwd=SOURCE, capture_output=True, text=True,
                          check=True)  # fmt: skip
    missed, megabytes = map(int, done.stdout.split())
    assert missed == 400_000
    assert megabytes < 350, f"{megabytes} MB"


def test_only_the_columns_that_are_used_are_read(root, monkeypatch):
    fields(owner="somebody", junk=1.0).to_file(root / "fields.gpkg")
    asked, read = [], pyogrio.read_dataframe

    def watched(*args, **options):
        asked.append((options["columns"], options["bbox"]))
        return read(*args, **options)

    monkeypatch.setattr(pyogrio, "read_dataframe", watched)
    opened(root)
    assert asked
    assert asked[0][0] == ["crop"]
    np.testing.assert_allclose(asked[0][1], (LEFT, TOP - 600, LEFT + 720, TOP), atol=0.01)


def test_a_dbf_header_is_no_text(root):
    """The number of records may hold bytes that are no UTF-8."""
    write_shapefile(root, ["corn", "blé"] * 15, "UTF-8")
    assert struct.unpack("<I", (root / "fields.dbf").read_bytes()[4:8])[0] == 30
    assert opened(root, "fields.shp", classes=[{"name": "corn"}, {"name": "blé"}])
