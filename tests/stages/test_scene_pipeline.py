"""A scene through every stage, in one process: from images and labels to map.tif and a report."""

import importlib
import json
import math
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from ruamel.yaml import YAML
from runs import database, root
from scenes import CRSS, LEFT, TOP, make_region, write_fields, write_files, write_scene
from tiny import write_params

import register
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.model_choice import find_model
from cluemap.model.storage.known_series import read_known_series
from cluemap.paths import STAGES
from cluemap.stages.stage import run_stage
from cluemap.tracking import open_store

__all__ = ["database", "root"]  # fixtures
pytestmark = pytest.mark.slow
FILES = {"kind": "files", "path": "images"}
FEW = {"steps": 6, "validate_every": 3, "batch": 4}


@pytest.fixture(scope="module")
def region():
    return make_region()


@pytest.fixture
def scene(root, region, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    scene = root / "data" / "tiny"
    write_files(scene / "images", region)
    write_fields(scene / "fields.gpkg", region)
    return scene


def run_all(root, scene, monkeypatch, **blocks):
    """Every stage on the scene; gives the metrics of the last."""
    overrides = {"windows": {"size": 12, "stride": 12}, "classifier": FEW, "segmenter": FEW, "clues": {"start_step": 3}}
    for name, block in blocks.items():
        overrides[name] = {**overrides.get(name, {}), **block}
    file = write_params(root / "params.yaml", overrides, datasets={"tiny": str(scene)})
    tree = YAML().load(file.read_text())
    tree["tiny"]["source"] = {"format": "scene"}
    with file.open("w") as handle:
        YAML().dump(tree, handle)
    for stage in STAGES:
        line = [f"{stage}.py", "--dataset", "tiny", "--params", str(file), "--out", str(root / "out")]
        monkeypatch.setattr(sys, "argv", line)
        assert run_stage(stage, "", importlib.import_module(stage).work) == 0, stage
    return json.loads((root / "out" / "tiny" / "evaluate" / "metrics.json").read_text())


def test_from_a_scene_to_its_map(root, scene, region, monkeypatch, capsys):
    write_scene(scene, FILES)
    metrics = run_all(root, scene, monkeypatch)
    assert 0 <= metrics["test"]["weak"]["overall_accuracy"] <= 1
    run = json.loads((root / "out" / "tiny" / "evaluate" / "run.json").read_text())["run_id"]
    order = Order(run, scene, root / "map.tif", parcels=scene / "fields.gpkg", models=root / "out", unlike=True)
    make_map(order, progress=False)
    with rasterio.open(root / "map.tif") as found:
        assert found.crs == CRSS[0]
        assert found.shape == region.labels.shape
        assert (found.bounds.left, found.bounds.top) == (LEFT, TOP)
        classes = found.read(1)
    assert classes.max() <= 8  # every pixel was seen at least once
    parcels = gpd.read_file(root / "map_parcels.gpkg")
    assert len(parcels) == len(gpd.read_file(scene / "fields.gpkg"))
    assert spread_evenly(root / "map_unlike.tif")
    map_with_trees(root, scene)
    register_the_best_baseline(root, metrics["won"], capsys)


def map_with_trees(root, scene):
    """What train_baselines trained maps like a segmenter: the map is that of the learner, window by window."""
    folder = root / "out" / "tiny" / "train_baselines"
    make_map(Order(str(folder / "model" / "trees_weak"), scene, root / "trees.tif"), progress=False)
    with rasterio.open(root / "trees.tif") as found:
        classes = found.read(1)
    table = pd.read_parquet(root / "out" / "tiny" / "prepare" / "windows" / "windows.parquet")
    maps = np.load(folder / "maps" / "trees_weak_test.npy")
    for own, (_, window) in zip(maps, table[table["split"] == "test"].iterrows(), strict=True):
        row, column = round((TOP - window["y"]) / 10), round((window["x"] - LEFT) / 10)
        assert (classes[row : row + 12, column : column + 12] == own).mean() > 0.99
    make_map(Order(str(folder), scene, root / "best.tif", unlike=True), progress=False)
    assert (root / "best_hectares.csv").exists()
    assert spread_evenly(root / "best_unlike.tif")


def spread_evenly(file):
    """On the scene of the training neither usual nor unlike all over, from trees and networks."""
    with rasterio.open(file) as found:
        percent = found.read(1)
    return 30 < percent[percent != 255].mean() < 70


def register_the_best_baseline(root, won, capsys):
    """In the registry beside the segmenter, with its scores; fetched and mapped with by its alias."""
    line = ["--dataset", "tiny", "--params", str(root / "params.yaml"), "--out", str(root / "out")]
    assert register.main(line) == 0
    assert register.main([*line, "--stage", "train_baselines"]) == 0
    said = capsys.readouterr().out
    assert "The segmenter is version 1" in said
    assert "The best baseline is version 2" in said
    chosen = json.loads((root / "out/tiny/train_baselines/metrics.json").read_text())["chosen"]
    versions = {int(one.version): one.tags for one in open_store().client.search_model_versions("")}
    assert float(versions[2]["validation.miou"]) == pytest.approx(chosen["miou"])
    assert versions[2]["stage"] == "train_baselines"
    champion = find_model("models:/cluemap-tiny-segmenter@champion", root / "out")
    lead = chosen["miou"] - float(versions[1]["validation.miou"])
    stage = "train_baselines" if lead >= 0.005 else "train_segmenter"
    assert champion.read_bytes() == (root / "out/tiny" / stage / "model" / "segmenter.safetensors").read_bytes()
    assert len(read_known_series(champion).held)
    assert (won["model"] == "segmenter") == (lead <= 0)


def test_areas_alone_teach_without_any_pixel_label(root, scene, monkeypatch):
    """Image labels from cells' crop lists; there is nothing to score against, and every stage copes."""
    cells = [
        shapely.box(LEFT + 120 * i, TOP - 120 * (j + 1), LEFT + 120 * (i + 1), TOP - 120 * j)
        for i in range(10)
        for j in range(8)
    ]
    crops = ["corn; meadow" if number % 2 else "beet" for number in range(80)]
    gpd.GeoDataFrame({"crops": crops}, geometry=cells, crs=CRSS[0]).to_file(scene / "cells.gpkg")
    write_scene(scene, FILES, labels={"kind": "areas", "file": "cells.gpkg", "column": "crops"})
    metrics = run_all(root, scene, monkeypatch, segmenter={**FEW, "select": "last"}, classifier={"select": "last"})
    assert metrics["test"]["weak"]["miou"] is None or math.isnan(metrics["test"]["weak"]["miou"])
    masks = np.load(root / "out" / "tiny" / "make_masks" / "masks" / "masks_train.npy")
    names = ["meadow", "soft winter wheat", "corn", "winter barley", "winter rapeseed", "sunflower", "beet", "potatoes"]
    assert {names[number - 1] for number in np.unique(masks) if number < 255} <= {"corn", "meadow", "beet"}
    assert (root / "out" / "tiny" / "evaluate" / "report.html").exists()
