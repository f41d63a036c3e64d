"""describe_scene: from images and labels alone to a scene.yaml that prepare can use."""

import sys

import numpy as np
import pandas as pd
import pytest
from scenes import BANDS, make_region, write_fields, write_files, write_points, write_raster, write_safe
from test_real_products import PRODUCTS, labelled

import describe_scene
from cluemap.data.scenes.scene_file import read_scene
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.windowing import cut
from cluemap.mapping.inspection.scene_description import describe
from cluemap.params import WindowParams


@pytest.fixture(scope="module")
def region():
    return make_region()


def params_of(plan):
    return WindowParams(size=plan.size, stride=plan.stride, flush_edge=False, max_dates=60, presence=0.01, fold=1)


def opened(root, plan):
    return open_scene(root, params_of(plan))


def check_windows(plan, reader, least):
    """As many as the proposal says fit, of which those without a label are not kept."""
    cut_out = sum(len(cut(patch, params_of(plan))) for patch in reader)
    assert least <= cut_out <= plan.windows
    assert len(reader.blocks) >= 20  # four a fold


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_safe, write_files])
def test_a_described_scene_can_be_read(region, tmp_path, write):
    write(tmp_path / "images", region)
    write_fields(tmp_path / "fields.gpkg", region)
    plan = describe(tmp_path / "images", tmp_path / "fields.gpkg", tmp_path, size=12)
    scene = read_scene(tmp_path)
    assert scene.images.bands == list(BANDS)
    assert scene.labels.column == "crop"
    reader = opened(tmp_path, plan)
    check_windows(plan, reader, 20)  # 96 x 120 pixels hold 20 blocks of 24 x 24
    assert {one.name for one in scene.classes} == {reader.legend.class_names[k] for k in range(len(scene.classes))}
    known = reader.labels.ids(reader.imagery.grid)
    assert (known != 255).sum() == ((region.labels > 0) & (region.labels < 255)).sum()


def test_floats_in_degrees_and_points_in_a_table(region, tmp_path):
    """Scale, grid and coordinates are found out."""
    values = np.random.default_rng(0).uniform(0.02, 0.4, (4, 400, 600)).astype(np.float32)
    options = {"crs": "EPSG:4326", "left": 9.9, "top": 52.2, "pixel": 1e-4}
    write_raster(tmp_path / "images" / "20190501.tif", values, **options)
    generator = np.random.default_rng(1)
    lon, lat = generator.uniform(9.901, 9.959, 300), generator.uniform(52.161, 52.199, 300)
    pd.DataFrame({"lon": lon, "lat": lat, "crop": generator.choice(["corn", "wheat"], 300)}).to_csv(
        tmp_path / "points.csv", index=False
    )
    plan = describe(tmp_path / "images", tmp_path / "points.csv", tmp_path, size=12)
    scene, text = read_scene(tmp_path), (tmp_path / "scene.yaml").read_text()
    assert (scene.images.scale, scene.grid.crs, scene.labels.kind) == (1.0, "EPSG:32632", "points")
    assert scene.images.file_bands == ["B02", "B03", "B04", "B08"]
    assert "guessed, please check: file_bands" in text
    assert len(opened(tmp_path, plan)) > 5


@pytest.mark.skipif(not PRODUCTS, reason="the genuine products are not in this checkout (shared/real/safe)")
def test_the_genuine_products(tmp_path):
    root = labelled(tmp_path, PRODUCTS)
    (root / "scene.yaml").unlink()
    plan = describe(root / "images", root / "fields.gpkg", root)
    reader = opened(root, plan)
    check_windows(plan, reader, 30)  # fields lie on 5 x 7 blocks of 48 x 48 pixels
    assert len(reader.dates) == 3


def test_the_script(region, tmp_path, monkeypatch, capsys):
    write_files(tmp_path / "images", region)
    write_points(tmp_path / "points.csv", region, np.argwhere((region.labels > 0) & (region.labels < 255))[::20])

    def call(*more):
        line = ["describe_scene.py", str(tmp_path / "images"), str(tmp_path / "points.csv"), *more]
        monkeypatch.setattr(sys, "argv", line)
        return describe_scene.main(), capsys.readouterr()

    status, said = call("--window", "12")
    assert status == 0, said.err
    assert "scene.yaml" in said.out
    status, said = call()
    assert status == 2
    assert "is there already" in said.err
    (tmp_path / "scene.yaml").unlink()
    status, said = call("--column", "corp")
    assert status == 2
    assert "did you mean 'crop'" in said.err
