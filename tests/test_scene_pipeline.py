"""A scene through the whole pipeline: from images and polygons to map.tif."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from ruamel.yaml import YAML
from scenes import CRSS, LEFT, TOP, make_region, write_fields, write_files, write_scene
from tiny import PROJECT, environment, run, write_params

STAGES = ("prepare", "train_classifier", "make_cams", "make_masks", "train_segmenter")


@pytest.mark.slow
def test_from_a_scene_to_its_map(tmp_path):
    region = make_region()
    scene = tmp_path / "data" / "tiny"
    write_files(scene / "images", region)
    write_fields(scene / "fields.gpkg", region)
    write_scene(scene, {"kind": "files", "path": "images"})
    few = {"steps": 6, "validate_every": 3, "batch": 4}
    file = write_params(
        tmp_path / "params.yaml",
        {"windows": {"size": 12, "stride": 12}, "classifier": few, "segmenter": few, "clues": {"start_step": 3}},
    )
    yaml = YAML()
    tree = yaml.load(file.read_text())
    tree["tiny"]["source"] = {"format": "scene"}
    with file.open("w") as handle:
        yaml.dump(tree, handle)
    for stage in STAGES:
        run(stage, tmp_path)
    model = tmp_path / "out" / "tiny" / "train_segmenter"
    line = [sys.executable, str(PROJECT / "src/predict.py"), "--model", str(model), "--scene", str(scene)]
    line += ["--out", str(tmp_path / "map.tif"), "--parcels", str(scene / "fields.gpkg")]
    done = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.crs == CRSS[0]
        assert found.shape == region.labels.shape
        assert (found.bounds.left, found.bounds.top) == (LEFT, TOP)
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        classes = found.read(1)
    assert classes.max() <= 8  # every pixel was seen at least once
    assert len(np.unique(classes)) >= 1
    assert (tmp_path / "map_parcels.gpkg").exists()
