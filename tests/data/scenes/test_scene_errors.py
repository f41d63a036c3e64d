"""What users get wrong: one message each, that names the thing, what was found and the mend."""

import shutil

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from scenes import (
    BANDS,
    CRSS,
    DATES,
    LABELS,
    LEFT,
    SPLIT,
    TOP,
    Region,
    write_files,
    write_folders,
    write_raster,
    write_scene,
)

from cluemap.data.scenes.scene_reader import open_scene
from cluemap.errors import DataError
from cluemap.params import WindowParams

PARAMS = WindowParams(size=12, stride=12, flush_edge=False, max_dates=60, presence=0.01, fold=1)
FILES = {"kind": "files", "path": "images"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A scene of noise, one field of corn in every part of it."""
    root, generator = tmp_path_factory.mktemp("scene"), np.random.default_rng(0)
    values = generator.integers(500, 3000, (len(DATES), 10, 60, 72))
    region = Region(values, values[:, :6, ::2, ::2], np.full((len(DATES), 30, 36), 4, np.uint8), None, None)
    write_files(root / "images", region)
    write_folders(root / "folders", region)
    boxes = [
        shapely.box(LEFT + 120 * i, TOP - 120 * j - 90, LEFT + 120 * i + 90, TOP - 120 * j)
        for i in range(6)
        for j in range(5)
    ]
    gpd.GeoDataFrame({"crop": ["corn"] * 30}, geometry=boxes, crs=CRSS[0]).to_file(root / "fields.gpkg")
    write_scene(root, FILES, split={**SPLIT, "block": 240.0})
    return root


@pytest.fixture
def scene(original, tmp_path):
    return shutil.copytree(original, tmp_path / "scene")


def describe(scene, images=FILES, **blocks):
    return write_scene(scene, images, **{"split": {**SPLIT, "block": 240.0}, **blocks})


def refused(scene, *words):
    with pytest.raises(DataError) as error:
        list(open_scene(scene, PARAMS))
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, str(error.value)


def test_the_scene_is_good_before_it_is_spoilt(scene):
    assert len(list(open_scene(scene, PARAMS))) >= 5
    describe(scene, {"kind": "folders", "path": "folders"})
    assert len(list(open_scene(scene, PARAMS))) >= 5


def test_a_corrupt_jp2(scene):
    product = scene / "safe" / "S2A_MSIL2A_20190529T102031_N0208_R065_T32UQD_20190529T102031.SAFE" / "R10m"
    values = np.random.default_rng(0).integers(1, 3000, (60, 72)).astype(np.uint16)
    band = write_raster(product / "T32UQD_20190529T102031_B02_10m.jp2", values)
    content = band.read_bytes()
    images = {"kind": "safe", "path": "safe", "bands": ["B02"], "true_colour": ["B02"] * 3}
    describe(scene, images)
    assert len(list(open_scene(scene, PARAMS))) >= 5
    band.write_bytes(content[: len(content) // 3])  # a download that broke off
    refused(scene, "B02_10m.jp2", "fetch it again")
    band.write_bytes(content[:40])
    refused(scene, "B02_10m.jp2", "fetch it again")


def test_one_date_with_another_grid(scene):
    last = scene / "images" / f"region_{DATES[-1]}.tif"
    with rasterio.open(last, "r+") as file:
        file.transform = rasterio.Affine(10, 0, LEFT + 5, 0, -10, TOP)
    refused(scene, last.name, "600005", "grid.resample: true")
    describe(scene, grid={"resample": True})
    assert len(list(open_scene(scene, PARAMS))) >= 5


def test_a_band_that_some_or_all_images_lack(scene):
    """Missing on one date it is no data there; missing on all of them it is refused."""
    folders = [scene / "folders" / day.replace("-", "") for day in DATES]
    (folders[1] / "B11.tif").unlink()
    describe(scene, {"kind": "folders", "path": "folders"})
    reader = open_scene(scene, PARAMS)
    images, eleventh = next(iter(reader)).images, BANDS.index("B11")
    assert (images[1, eleventh] == -10000).all()
    assert (np.delete(images[1], eleventh, axis=0) != -10000).all()
    assert (images[[0, 2]] != -10000).all()
    assert any("B11 is missing from 1 of 3 images" in text for text in reader.imagery.notes)
    for folder in (folders[0], folders[2]):
        (folder / "B11.tif").unlink()
    refused(scene, "no image has band B11", "images.bands")


def test_an_unknown_class_name(scene):
    fields = gpd.read_file(scene / "fields.gpkg")
    fields.loc[3, "crop"] = "corm"
    fields.to_file(scene / "fields.gpkg")
    refused(scene, "fields.gpkg", "'corm'", "did you mean 'corn'", "labels.others")
    describe(scene, labels={**LABELS, "others": "unlabelled"})
    reader = open_scene(scene, PARAMS)
    assert (reader.labels.ids(reader.imagery.grid) == 255).sum() == 81


def test_labels_that_miss_the_images(scene):
    fields = gpd.read_file(scene / "fields.gpkg")
    fields.assign(geometry=fields.translate(xoff=50_000)).to_file(scene / "off.gpkg")
    describe(scene, labels={**LABELS, "file": "off.gpkg"})
    refused(scene, "off.gpkg", "none of its 30 features", "CRS right")
    fields.to_crs("EPSG:4326").set_crs("EPSG:32632", allow_override=True).to_file(scene / "degrees.gpkg")
    describe(scene, labels={**LABELS, "file": "degrees.gpkg"})
    refused(scene, "degrees.gpkg", "taken as EPSG:4326 they do", "labels.crs")


def test_labels_without_crs(scene):
    fields = gpd.read_file(scene / "fields.gpkg").set_crs(None, allow_override=True)
    fields.to_file(scene / "fields.shp")
    (scene / "fields.prj").unlink(missing_ok=True)
    describe(scene, labels={**LABELS, "file": "fields.shp"})
    refused(scene, "fields.shp", "labels.crs")
    describe(scene, labels={**LABELS, "file": "fields.shp", "crs": CRSS[0]})
    assert len(list(open_scene(scene, PARAMS))) >= 5


def test_duplicate_dates(scene):
    first = scene / "images" / f"region_{DATES[0]}.tif"
    shutil.copy(first, scene / "images" / f"again_{DATES[0].replace('-', '')}.tif")
    refused(scene, DATES[0], "twice", first.name, "again_")


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"splits": {}}, ["unknown key `splits`", "did you mean 'split'"]),
        ({"split": {"blok": 5.0}}, ["unknown key `split.blok`", "'block'"]),
        ({"labels": {**LABELS, "colum": "x"}}, ["unknown key `labels.colum`", "'column'"]),
        ({"labels": {"kind": "polygons", "file": "fields.gpkg"}}, ["missing key `labels.column`"]),
        ({"split": {"block": "big"}}, ["`split.block`", "'big'"]),
        ({"images": {**FILES, "bands": ["B02"]}}, ["images.true_colour names B04"]),
        ({"images": {**FILES, "path": "nowhere"}}, ["nowhere", "images.path"]),
        ({"images": {"kind": "safe", "path": "images", "bands": ["B04", "B03", "B02"]}}, ["*.SAFE"]),
        ({"classes": []}, ["classes"]),
        ({"classes": [{"name": "corn"}, {"name": "corn"}]}, ["'corn' comes twice"]),
        ({"classes": [{"name": "a", "values": ["corn"]}, {"name": "b", "values": ["corn"]}]}, ["belongs to two"]),
        ({"labels": None}, ["no `labels`"]),
        ({"labels": {**LABELS, "column": "crops"}}, ["no column 'crops'", "'crop'"]),
        ({"labels": {**LABELS, "file": "gone.gpkg"}}, ["gone.gpkg", "missing"]),
        ({"split": {**SPLIT, "block": 130.0}}, ["split.block", "140"]),
        ({"split": {**SPLIT, "block": 700.0}}, ["1 of the blocks", "split.block"]),
        ({"grid": {"crs": "EPSG:99"}}, ["EPSG:99"]),
        ({"grid": {"crs": "EPSG:4326", "resample": True}}, ["degrees", "grid.crs"]),
    ],
)  # fmt: skip
def test_descriptions_that_cannot_be(scene, blocks, words):
    describe(scene, **{"images": FILES, **blocks})
    refused(scene, *words)


def test_no_description_and_no_yaml(scene, tmp_path):
    (scene / "scene.yaml").write_text("images: [")
    refused(scene, "not YAML")
    refused(tmp_path, "scene.yaml is missing")


def test_names_without_dates(scene):
    odd = scene / "images" / "region.tif"
    (scene / "images" / f"region_{DATES[0]}.tif").rename(odd)
    refused(scene, "region.tif", "no date like", "images.dates")
    rest = [path.name for path in sorted((scene / "images").iterdir()) if path != odd]
    lines = [f"region.tif,{DATES[0]}", *(f"{name},{name[7:17]}" for name in rest)]
    (scene / "dates.csv").write_text("\n".join(["file,date", *lines]))
    describe(scene, {**FILES, "dates": "dates.csv"})
    assert len(list(open_scene(scene, PARAMS))) >= 5
    (scene / "dates.csv").write_text("\n".join(["file,date,offset", *(f"{line},x" for line in lines)]))
    refused(scene, "dates.csv", "'x'", "no number")
    (scene / "dates.csv").write_text("\n".join(["file,date", *lines[1:]]))
    refused(scene, "dates.csv", "region.tif")
