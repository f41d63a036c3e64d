"""Scenes: the same windows from every form and CRS; labels of every kind; a split that keeps its distance."""

import shutil
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.warp import transform
from scenes import (
    BANDS,
    CROPS,
    CRSS,
    DATES,
    LABELS,
    LEFT,
    SPLIT,
    TOP,
    day_numbers,
    make_region,
    write_fields,
    write_files,
    write_folders,
    write_points,
    write_raster,
    write_safe,
    write_scene,
)  # fmt: skip

import inspect_scene
from cluemap.data.patches import SPLITS
from cluemap.data.preparation import prepare
from cluemap.data.readers import open_reader
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.windowing import cut
from cluemap.data.windows import Windows
from cluemap.mapping.inspection.inspection_page import write_page
from cluemap.mapping.inspection.scene_inspection import inspect
from cluemap.params import SceneSource, WindowParams, load_params

SIZE = 12
PARAMS = WindowParams(size=SIZE, stride=SIZE, flush_edge=False, max_dates=60, presence=0.01, fold=1)
WRITERS = {"safe": write_safe, "files": write_files, "folders": write_folders}
NAMES = list(CROPS.values())
NARROW = {"block": 360.0, "gap": 20.0, "seed": 1}


@pytest.fixture(scope="module")
def region():
    return make_region()


@pytest.fixture(scope="module")
def scenes(region, tmp_path_factory):
    """Every form of images in two CRSs, with polygons: kind and CRS -> folder."""
    root = tmp_path_factory.mktemp("scenes")
    folders = {}
    for kind, write in WRITERS.items():
        for crs in CRSS:
            folders[kind, crs] = root / f"{kind}_{crs[-5:]}"
            write(folders[kind, crs] / "images", region, crs)
            write_scene(folders[kind, crs], {"kind": kind, "path": "images"})
            write_fields(folders[kind, crs] / "fields.gpkg", region, crs)
    return folders


@pytest.fixture
def scene(scenes, tmp_path):
    """A copy of the one with files, to spoil."""
    return shutil.copytree(scenes["files", CRSS[0]], tmp_path / "scene")


def truth(region):
    """t c h w, as METHOD and the builder have it: values, and -10000 under the cloud shadow."""
    hidden = (region.clouds == 3).repeat(2, 1).repeat(2, 2)
    return np.where(hidden[:, None], -10000, region.values)


@pytest.mark.slow
def test_every_form_and_crs_gives_the_same_windows(region, scenes):
    expected, days = truth(region), day_numbers()
    seen = set()
    for (kind, crs), folder in scenes.items():
        reader = open_scene(folder, PARAMS)
        assert reader.imagery.grid.name == crs
        for patch in reader:
            top, left = round((TOP - patch.corner[1]) / 10), round((patch.corner[0] - LEFT) / 10)
            height, width = patch.labels.shape
            here = np.s_[top : top + height, left : left + width]
            wanted = expected[:, :, *here]
            kept = (wanted != -10000).any(axis=(1, 2, 3))
            np.testing.assert_array_equal(patch.images, wanted[kept], err_msg=f"{kind} {crs} {patch.name}")
            assert patch.days.tolist() == [day for day, keep in zip(days, kept, strict=True) if keep]
            labels = np.where(region.labels[here] == 255, 0, region.labels[here])  # land without a polygon
            np.testing.assert_array_equal(patch.labels, labels)
            seen.add((patch.name, patch.fold, patch.offset, patch.first_window, height, width))
    assert len(seen) == len(reader)  # the same pieces and folds in all


def test_reading_piece_by_piece_is_reading_at_once(scenes):
    imagery = open_scene(scenes["folders", CRSS[0]], PARAMS).imagery
    whole = imagery.read(slice(0, 96), slice(0, 120))
    for rows, columns in ((slice(7, 18), slice(3, 60)), (slice(90, 96), slice(101, 120)), (slice(0, 1), slice(0, 1))):
        np.testing.assert_array_equal(imagery.read(rows, columns), whole[:, :, rows, columns])


def test_prepared_windows_and_their_place(region, scenes, tmp_path):
    params = load_params("demo").model_copy(update={"windows": PARAMS, "dataset": "mine"})
    prepare(open_scene(scenes["files", CRSS[0]], PARAMS), params, tmp_path / "windows", progress=False)
    windows = Windows.open(tmp_path / "windows")
    assert windows.card.legend.class_names == tuple(NAMES)
    assert windows.card.legend.background
    for index, row in windows.table.iterrows():
        top, left = round((TOP - row["y"]) / 10), round((row["x"] - LEFT) / 10)
        mask = region.labels[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(windows.masks(row["split"])[row["mask_row"]], np.where(mask == 255, 0, mask))
        assert row["year"] == int(DATES[len(DATES) // 2][:4])
        present = [int((mask == k).sum()) > 0.01 * SIZE * SIZE for k in range(1, len(NAMES) + 1)]
        assert windows.image_labels[index].tolist() == present


def test_windows_of_two_blocks_keep_the_gap(scenes):
    reader = open_scene(scenes["files", CRSS[0]], PARAMS)
    boxes = {piece.block: [] for piece in reader.pieces}
    for piece in reader.pieces:
        boxes[piece.block].append(
            (piece.rows.start, piece.rows.stop, piece.columns.start, piece.columns.stop, piece.fold)
        )
    gap = SPLIT["gap"] / 10
    for name, mine in boxes.items():
        assert len({box[4] for box in mine}) == 1
        for other, theirs in boxes.items():
            for a in mine if name != other else ():
                for b in theirs:
                    apart = max(a[0] - b[1], b[0] - a[1], a[2] - b[3], b[2] - a[3])
                    assert apart >= gap, (name, other)
    assert {box[4] for mine in boxes.values() for box in mine} == {1, 2, 3, 4, 5}


def test_folds_follow_the_seed(scene):
    def folds(seed):
        write_scene(scene, {"kind": "files", "path": "images"}, split={**SPLIT, "seed": seed})
        return {piece.block: piece.fold for piece in open_scene(scene, PARAMS).pieces}

    assert folds(1) == folds(1)
    assert any(folds(1) != folds(seed) for seed in (2, 3, 4))


@pytest.mark.parametrize("ending", ["shp", "geojson", "fgb"])
def test_polygons_of_other_formats_and_crs_give_the_same_labels(region, scene, ending):
    """WGS 84 moves corners by micrometres: pixel centres do not mind."""
    write_fields(scene / f"fields.{ending}", region, to="EPSG:4326")
    write_scene(scene, {"kind": "files", "path": "images"}, labels={**LABELS, "file": f"fields.{ending}"})
    grid = (reader := open_scene(scene, PARAMS)).imagery.grid
    labels = reader.labels.ids(grid)
    np.testing.assert_array_equal(labels, np.where(region.labels == 255, 0, region.labels))


def test_outside_unlabelled_leaves_out_what_is_unknown(region, scene):
    write_scene(scene, {"kind": "files", "path": "images"}, labels={**LABELS, "outside": "unlabelled"})
    reader = open_scene(scene, PARAMS)
    assert not reader.legend.background
    known = np.where((region.labels == 0) | (region.labels == 255), 255, region.labels)
    np.testing.assert_array_equal(reader.labels.ids(reader.imagery.grid), known)


def test_points_label_their_pixel_and_their_window(region, scene):
    known = np.argwhere((region.labels > 0) & (region.labels < 255))
    places = [tuple(place) for place in known[:: len(known) // 40].tolist()]
    write_points(scene / "points.csv", region, places)
    labels = {"kind": "points", "file": "points.csv", "column": "crop", "x": "lon", "y": "lat", "crs": "EPSG:4326"}
    write_scene(scene, {"kind": "files", "path": "images"}, labels=labels)
    reader = open_scene(scene, PARAMS)
    expected = np.full(region.labels.shape, 255)
    for row, column in places:
        expected[row, column] = region.labels[row, column]
    np.testing.assert_array_equal(reader.labels.ids(reader.imagery.grid), expected)
    windows = cut_all(reader)
    assert windows  # only those with a point, and one point is enough
    for window in windows:
        assert window.labels.tolist() == [(window.mask == k).any() for k in range(1, len(NAMES) + 1)]
        assert window.labels.any()


def cut_all(reader):
    return [window for index in range(len(reader)) for window in cut(reader.read(index), PARAMS)]


def test_areas_give_their_crops_to_the_windows_they_cover(region, scene):
    """Two villages, 57 columns wide and 33; of the third nothing is said. Some windows straddle: the share decides."""
    edges = {"A": (0, 57), "B": (57, 90), "no list": (90, 120)}
    boxes = [shapely.box(LEFT + 10 * a, TOP - 960, LEFT + 10 * b, TOP) for a, b in edges.values()]
    villages = gpd.GeoDataFrame({"village": list(edges)}, geometry=boxes, crs=CRSS[0]).to_crs("EPSG:4326")
    villages.to_file(scene / "villages.geojson")
    pd.DataFrame({"village": ["A", "B", "B"], "crops": ["meadow; corn", "beet", "corn"]}).to_csv(
        scene / "crops.csv", index=False
    )
    labels = {"kind": "areas", "file": "villages.geojson", "table": "crops.csv", "key": "village", "column": "crops"}
    write_scene(scene, {"kind": "files", "path": "images"}, labels=labels, truth=LABELS, split=NARROW)
    windows = cut_all(open_scene(scene, PARAMS))
    held = {"A": {"meadow", "corn"}, "B": {"beet", "corn"}, "no list": set()}
    assert {window.column for window in windows}
    for window in windows:
        left = round((window.x - LEFT) / 10)
        cover = {name: max(0, min(left + SIZE, b) - max(left, a)) / SIZE for name, (a, b) in edges.items()}
        expected = set().union(*(held[name] for name, share in cover.items() if share >= 0.5))
        assert {name for name, has in zip(NAMES, window.labels, strict=True) if has} == expected, (left, cover)
        assert expected  # windows of unknown land are left out
        top = round((TOP - window.y) / 10)
        mask = region.labels[top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(window.mask, np.where(mask == 255, 0, mask))  # truth, for scores alone


def test_areas_without_truth_have_no_mask(region, scene):
    cells = [
        shapely.box(LEFT + 240 * i, TOP - 240 * (j + 1), LEFT + 240 * (i + 1), TOP - 240 * j)
        for i in range(5)
        for j in range(4)
    ]
    gpd.GeoDataFrame({"crops": ["corn"] * 20}, geometry=cells, crs=CRSS[0]).to_file(scene / "cells.gpkg")
    write_scene(
        scene, {"kind": "files", "path": "images"}, labels={"kind": "areas", "file": "cells.gpkg", "column": "crops"}
    )
    for window in cut_all(open_scene(scene, PARAMS)):
        assert (window.mask == 255).all()
        assert window.labels.tolist() == [name == "corn" for name in NAMES]


def test_processing_baselines(region, tmp_path):
    """Before 04.00 values are as they are; the offset of the metadata beats the name's."""
    few = DATES[:1]
    write_safe(tmp_path / "old", region, baseline="0208", dates=few)
    write_scene(tmp_path, {"kind": "safe", "path": "old"}, labels=None)
    found = open_imagery(tmp_path, read_scene(tmp_path)).read(slice(0, 9), slice(0, 9))
    np.testing.assert_array_equal(found, truth(region)[:1, :, :9, :9])
    product = next((tmp_path / "old").iterdir())
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{i}">-7</BOA_ADD_OFFSET>' for i in range(13))
    (product / "MTD_MSIL2A.xml").write_text(
        f"<a><BOA_QUANTIFICATION_VALUE>5000</BOA_QUANTIFICATION_VALUE>{offsets}</a>"
    )
    found = open_imagery(tmp_path, read_scene(tmp_path)).read(slice(0, 9), slice(0, 9))
    np.testing.assert_array_equal(found, 2 * (truth(region)[:1, :, :9, :9] - 7))


def test_scale_offset_nodata_and_a_date_without_data(region, tmp_path, caplog):
    images = tmp_path / "images"
    real = (region.values[0, :2] / 10000 + 0.25).astype(np.float32)
    real[0, 30:40] = np.nan
    write_raster(images / "a_2019-03-01.tif", real)
    write_raster(images / "b_2019-04-01.tif", np.full_like(real, -9))
    settings = {"kind": "files", "path": "images", "bands": ["B02", "B03"], "file_bands": ["B02", "B03"]}
    settings |= {"scale": 1.0, "offset": -0.25, "nodata": -9, "true_colour": ["B02", "B03", "B02"]}
    write_scene(tmp_path, settings)
    write_fields(tmp_path / "fields.gpkg", region)
    params = load_params("demo").model_copy(update={"windows": PARAMS, "dataset": "mine"})
    with caplog.at_level("INFO"):
        prepare(open_scene(tmp_path, PARAMS), params, tmp_path / "windows", progress=False)
    assert "2019-04-01" in caplog.text
    assert "2019-03-01" not in caplog.text
    assert any("(SCL)" in text for text in inspect(tmp_path, PARAMS, progress=False).warnings)
    for patch in open_scene(tmp_path, PARAMS):
        top, left = round((TOP - patch.corner[1]) / 10), round((patch.corner[0] - LEFT) / 10)
        expected = region.values[:1, :2, top : top + patch.labels.shape[0], left : left + patch.labels.shape[1]].copy()
        expected[0, 0, max(0, 30 - top) : max(0, 40 - top)] = -10000
        np.testing.assert_array_equal(patch.images, expected)


def test_a_table_gives_dates_and_offsets(region, tmp_path):
    """Dates before and after baseline 04.00 in one folder: the offset stands in the table."""
    for name, added in (("a.tif", 0), ("b.tif", 1000)):
        write_raster(tmp_path / "images" / name, (region.values[0, :3] + added).astype(np.uint16), names=BANDS[:3])
    (tmp_path / "dates.csv").write_text("file,date,offset\nb.tif,2022-06-01,-0.1\na.tif,2021-06-01,\n")
    settings = {"kind": "files", "path": "images", "bands": list(BANDS[:3]), "dates": "dates.csv"}
    write_scene(tmp_path, settings | {"true_colour": list(BANDS[:3])}, labels=None)
    imagery = open_imagery(tmp_path, read_scene(tmp_path))
    assert [str(day) for day in imagery.dates] == ["2021-06-01", "2022-06-01"]
    found = imagery.read(slice(0, 96), slice(0, 120))
    np.testing.assert_array_equal(found, np.stack([region.values[0, :3]] * 2))


def test_tiles_of_one_date_are_joined_and_other_grids_resampled(region, tmp_path):
    """A second CRS is brought to the first: within a pixel's change of where it should be."""
    write_folders(tmp_path / "images", region, dates=DATES[:1])
    write_scene(tmp_path, {"kind": "folders", "path": "images"}, labels=None,
                grid={"crs": "EPSG:32633", "resample": True})  # fmt: skip
    imagery = open_imagery(tmp_path, read_scene(tmp_path))
    grid = imagery.grid
    assert grid.name == "EPSG:32633"
    found = imagery.read(slice(0, grid.height), slice(0, grid.width))[0, 2]
    rows, columns = np.mgrid[20:80, 20:100]
    xs, ys = transform("EPSG:32632", grid.crs, (LEFT + 10 * columns + 5).ravel(), (TOP - 10 * rows - 5).ravel())
    there = found[((grid.top - np.array(ys)) / 10).astype(int), ((np.array(xs) - grid.left) / 10).astype(int)]
    expected = truth(region)[0, 2, 20:80, 20:100].ravel()
    both = there != -10000
    assert both.mean() > 0.98
    assert np.corrcoef(there[both], expected[both])[0, 1] > 0.9


def test_params_open_a_scene(scenes):
    params = load_params("demo")
    source, root = SceneSource(format="scene"), str(scenes["files", CRSS[0]])
    mine = params.model_copy(update={"source": source, "root": root, "windows": PARAMS})
    assert len(open_reader(mine)) > 5


def test_inspection_counts_what_prepare_will_make(region, scenes, tmp_path):
    folder = scenes["files", CRSS[0]]
    found = inspect(folder, PARAMS, progress=False)
    reader = found.reader
    for number, name in enumerate(NAMES, 1):
        assert found.pixels[name] == (region.labels == number).sum()
    windows = cut_all(reader)
    for split in SPLITS:
        mine = [window.labels for window in windows if window.split == split]
        assert found.counts[split] == len(mine)
        held = np.sum(mine, axis=0) if mine else [0] * len(NAMES)
        assert [found.windows[split][name] for name in NAMES] == list(held)
    said = " ".join(found.warnings)
    assert f"of {len(DATES)} dates" in said
    assert "under 30" in said
    assert "(SCL)" not in said
    write_page(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png") == 3
    assert all(word in page for word in (*DATES, *NAMES))


def test_inspection_tells_of_labels_that_miss_the_images(scene, tmp_path):
    fields = gpd.read_file(scene / "fields.gpkg")
    off = fields[:7].assign(geometry=fields[:7].translate(xoff=90_000))
    pd.concat([fields, off]).to_file(scene / "some_off.gpkg")
    write_scene(scene, {"kind": "files", "path": "images"}, labels={**LABELS, "file": "some_off.gpkg"})
    assert any("7 of the labels' features lie outside" in text for text in inspect(scene, PARAMS, False).notes)
    fields.set_crs("EPSG:32633", allow_override=True).to_file(scene / "wrong.gpkg")
    write_scene(scene, {"kind": "files", "path": "images"}, labels={**LABELS, "file": "wrong.gpkg"})
    found = inspect(scene, PARAMS, False)
    assert "taken as EPSG:32632 they do" in found.errors[0]
    assert found.reader is None
    write_page(tmp_path / "page.html", found)
    assert "EPSG:32633" in (tmp_path / "page.html").read_text()


def test_the_inspection_script(scene, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inspect_scene.py", str(scene), "--out", str(scene / "a.html"), "--window", "12"])
    assert inspect_scene.main() == 0
    said = capsys.readouterr().out
    assert "warning: only" in said
    assert "a.html" in said
    (scene / "scene.yaml").unlink()
    assert inspect_scene.main() == 2
    assert "scene.yaml is missing" in capsys.readouterr().err
