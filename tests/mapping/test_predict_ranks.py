"""A map made by several processes under a real torchrun: the same bits, and a dead process is made up for."""

import os
import subprocess
import sys

import numpy as np
import pytest
from locations import PROJECT
from random_segmenter import BANDS, write_model
from scenes import write_raster, write_scene

from cluemap.mapping.map_canvas import TILES, Canvas, TileFiles
from cluemap.mapping.map_products import Order, make_map
from cluemap.mapping.raster_prediction import Settings
from cluemap.runtime.distributed import torchrun_command

HEIGHT, WIDTH = 47, 61
OPTIONS = ("--tile", "23", "--batch", "5", "--probabilities")
DYING = """
import os, signal, sys, time
sys.path[:0] = [{src!r}]
import predict
from cluemap.mapping import raster_prediction
from cluemap.mapping.map_canvas import TileFiles
fill = TileFiles.fill
def slow(self, *given):
    fill(self, *given)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # so that the other is still there when this one has died
TileFiles.fill = slow
sys.exit(predict.main())
"""


@pytest.fixture
def scene(tmp_path):
    generator = np.random.default_rng(3)
    for day in ("2019-03-01", "2019-06-01", "2019-09-01"):
        write_raster(tmp_path / "images" / f"{day}.tif", generator.integers(1, 4000, (3, HEIGHT, WIDTH)), names=BANDS)
    return write_scene(tmp_path, {"kind": "files", "path": "images", "bands": list(BANDS)}, labels=None, classes=None)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("CLUEMAP_DEVICE", "cpu")
    return write_model(tmp_path / "random.safetensors", BANDS)


@pytest.fixture
def alone(scene, model):
    """The bytes of the map that one process makes."""
    order = Order(str(model), scene, scene / "alone.tif", probabilities=True, settings=Settings(tile=23, batch=5))
    make_map(order, progress=False)
    return contents(scene, "alone")


def contents(folder, name):
    """The map's rasters and tables."""
    found = {file.name.removeprefix(name): file.read_bytes() for file in folder.glob(f"{name}*.[tc][is][fv]")}
    assert {".tif", "_confidence.tif", "_probability.tif"} <= set(found)
    return found


def line(scene, model, name):
    return ["--model", str(model), "--scene", str(scene), "--out", str(scene / f"{name}.tif"), *OPTIONS]


def run(command, **more):
    environment = {**os.environ, "CLUEMAP_DEVICE": "cpu", "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_two_processes_make_the_same_bits_and_a_dead_one_is_made_up_for(scene, model, alone, tmp_path):
    together = [sys.executable, str(PROJECT / "src" / "predict.py"), *line(scene, model, "two")]
    done = run(together, CLUEMAP_PROCESSES="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predict:") == 1
    assert contents(scene, "two") == alone

    dying = tmp_path / "dying.py"
    dying.write_text(DYING.format(src=str(PROJECT / "src")))
    command = torchrun_command(str(dying), line(scene, model, "dead"), 2)
    died = run([f"--shutdown-timeout={5}" if "shutdown" in part else part for part in command])
    assert died.returncode == 1
    left = scene / ".dead.tif.unfinished"
    assert not (scene / "dead.tif").exists()
    assert len(list((left / TILES).glob("*.npz"))) >= 1
    one = [sys.executable, str(PROJECT / "src" / "predict.py"), *line(scene, model, "dead")]
    again = run(one, CLUEMAP_PROCESSES="1")
    assert again.returncode == 0, again.stderr
    assert "going on with the map begun" in again.stderr
    assert ": 0 tiles" not in again.stderr
    assert contents(scene, "dead") == alone
    assert not left.exists()


def test_a_tile_is_claimed_once_and_a_damaged_one_is_made_again(tmp_path):
    layers = {"classes": 1}
    canvas = Canvas(tmp_path / "canvas", 5, 7, layers, {})
    one, other = (TileFiles(canvas.folder, layers, set()) for _ in range(2))
    assert [one.claim(3), other.claim(3), other.claim(4)] == [True, False, True]
    one.fill(3, slice(1, 3), slice(2, 7), {"classes": np.full((1, 2, 5), 9, np.uint8)})
    (one.folder / "4.npz").write_bytes(b"cut")
    canvas.take_in()
    assert canvas.done == {3}
    expected = np.full((1, 5, 7), 255)
    expected[:, 1:3, 2:7] = 9
    np.testing.assert_array_equal(canvas.open("classes"), expected)
    assert not one.folder.exists()
