"""Tiles follow the blocks of the files: each is decoded once, and the pixels are those of a plain read."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from locations import PROJECT
from scenes import write_raster, write_scene

from cluemap.data.scenes.grid import Blocks
from cluemap.data.scenes.imagery import Imagery, open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.mapping.map_canvas import Canvas, TileFiles
from cluemap.mapping.map_sources import PatchImagery
from cluemap.mapping.overlap_blending import tiles
from cluemap.mapping.tile_reading import TileReader, fitting_tile, rectangles, tiling

FINE, COARSE, BLOCK, COARSE_BLOCK = ("B02", "B03"), ("B05",), 64, 32
HEIGHT, WIDTH, SIZE, OVERLAP = 230, 202, 11, 4
DATES = ("20190301", "20190601")


@pytest.fixture(params=["jp2", "tif"])
def scene(request, tmp_path):
    """One file a band: blocks of 64 px, one band of 20 m in blocks of 32."""
    draws = np.random.default_rng(5)
    for day in DATES:
        for band in (*FINE, *COARSE):
            by, side = (1, BLOCK) if band in FINE else (2, COARSE_BLOCK)
            values = draws.integers(1, 5000, (HEIGHT // by, WIDTH // by)).astype(np.uint16)
            values[:9, :7] = 0
            shape = {"BLOCKXSIZE": side, "BLOCKYSIZE": side} | ({"tiled": True} if request.param == "tif" else {})
            write_raster(tmp_path / "images" / day / f"{band}.{request.param}", values, pixel=10.0 * by, **shape)
    images = {"kind": "folders", "path": "images", "bands": [*FINE, *COARSE], "true_colour": [*FINE, *COARSE]}
    return write_scene(tmp_path, images, labels=None, classes=None)


def opened(scene, bounds=None):
    told = read_scene(scene)
    if bounds:
        told = told.model_copy(update={"grid": told.grid.model_copy(update={"bounds": bounds})})
    return open_imagery(scene, told)


@pytest.mark.parametrize("cut", [(0, 0), (30, 70)])
def test_every_block_is_read_once_and_the_pixels_are_those_of_a_plain_read(scene, monkeypatch, cut):
    """Also where the scene begins within a block."""
    whole = opened(scene)
    left, bottom, right, top = whole.grid.bounds
    imagery = opened(scene, [left + 10 * cut[1], bottom, right, top - 10 * cut[0]])
    lines = imagery.blocks
    assert lines.height == BLOCK
    assert lines.width in (BLOCK, WIDTH)  # GDAL takes a row of small JPEG 2000 tiles as one block
    assert (lines.top, lines.left) == (-cut[0] % BLOCK, -cut[1] % lines.width)
    height, width = imagery.grid.height, imagery.grid.width
    expected = imagery.read(slice(0, height), slice(0, width))
    read, places = Imagery.read, Counter()

    def noted(self, rows, columns, out=None):
        blocks = {(row - lines.top) // lines.height for row in (rows.start, rows.stop - 1)}
        across = {(column - lines.left) // lines.width for column in (columns.start, columns.stop - 1)}
        places.update((row, column) for row in blocks for column in across)
        return read(self, rows, columns, out)

    monkeypatch.setattr(Imagery, "read", noted)
    every = tiles(height, width, lines, SIZE, OVERLAP)
    reader = TileReader(imagery, 3, 2 * SIZE, len({tile.columns.start for tile in every}))
    for tile in every:
        found = reader.read(tile)
        np.testing.assert_array_equal(found, expected[:, :, tile.reach_rows, tile.reach_columns])
    assert len(places) == len(every) > 3
    assert set(places.values()) == {1}


COUNTED = """
import sys
sys.path[:0] = [{src!r}]
from pathlib import Path
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.mapping.overlap_blending import tiles
from cluemap.mapping.tile_reading import TileReader
folder = Path({folder!r})
imagery = open_imagery(folder, read_scene(folder))
grid = imagery.grid
every = tiles(grid.height, grid.width, imagery.blocks, {size}, {overlap})
reader = TileReader(imagery, 2, 2 * {size}, len({{tile.columns.start for tile in every}}))
def taken():
    return int(Path("/proc/self/io").read_text().split()[1])
before = taken()
for tile in every:
    reader.read(tile) if {kept} else imagery.read(tile.reach_rows, tile.reach_columns)
print(taken() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system does not count the bytes read")
def test_with_a_cache_that_holds_one_block_gdal_reads_every_byte_once(tmp_path):
    """Uncompressed tiles in TIFF: bytes read are blocks read. Without the kept strips they are read again."""
    values = np.random.default_rng(6).integers(1, 5000, (2, 4 * BLOCK, 5 * BLOCK)).astype(np.uint16)
    shape = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band"}
    write_raster(tmp_path / "images" / "2019-03-01.tif", values, names=FINE, **shape)
    images = {"kind": "files", "path": "images", "bands": list(FINE), "true_colour": ["B02", "B03", "B02"]}
    folder = write_scene(tmp_path, images, labels=None, classes=None)
    counted = {}
    for kept in (True, False):
        told = {"src": str(PROJECT / "src"), "folder": str(folder), "size": SIZE, "overlap": OVERLAP, "kept": kept}
        done = subprocess.run(
            [sys.executable, "-c", COUNTED.format(**told)], env={**os.environ, "GDAL_CACHEMAX": "100000"},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        counted[kept] = int(done.stdout) / values.nbytes
    assert 1 <= counted[True] < 1.3
    assert counted[False] > 2


@pytest.mark.parametrize("order", [1, -1])
def test_tiles_in_any_order_are_those_of_a_plain_read(order):
    """Tiles smaller than what they share, too; what is not kept is read."""
    images = np.random.default_rng(7).integers(0, 4000, (2, 3, 47, 61)).astype(np.int16)
    imagery = PatchImagery(None, np.array([20, 200]), [], images)
    for lines in (Blocks(17, 23, 5), Blocks(7, 11)):
        every = tiles(47, 61, lines, SIZE, 5)[::order]
        reader = TileReader(imagery, 3, 2 * SIZE, len({tile.columns.start for tile in every}))
        for tile in every:
            np.testing.assert_array_equal(reader.read(tile), images[:, :, tile.reach_rows, tile.reach_columns])


def test_rectangles_make_up_what_is_wanted_once():
    draws = np.random.default_rng(8)
    for share in (0.0, 0.3, 0.9, 1.0):
        wanted = draws.random((7, 11)) < share
        covered = np.zeros((7, 11), int)
        for rows, columns in rectangles(wanted):
            covered[rows, columns] += 1
        np.testing.assert_array_equal(covered, wanted)


@pytest.mark.parametrize(
    ("asked", "blocks", "dates", "expected"),
    [
        (0, Blocks(1024, 1024, 100, 0), 20, Blocks(1024, 1024, 100, 0)),
        (0, Blocks(512, 256, 500, 3), 20, Blocks(1024, 1024, 500, 3)),
        (0, Blocks(512, 512, 500, 3), 40, Blocks(512, 512, 500, 3)),
        (0, Blocks(1024, 1024), 60, Blocks(1024, 1024)),  # more than TILE_BYTES, but decoded once
        (0, Blocks(1, 10980, 0, 70), 60, Blocks(612, 612, 0, 70)),  # whole lines
        (0, Blocks(), 20, Blocks(1024, 1024)),
        (300, Blocks(1024, 1024, 700, 0), 20, Blocks(300, 300, 100, 0)),
    ],
)
def test_tiles_are_whole_blocks_that_fit(asked, blocks, dates, expected):
    assert tiling(asked, blocks, dates, 10) == expected
    assert fitting_tile(60, 10) == 612


def test_ranks_begin_with_shares_of_their_own_and_then_take_what_others_left(tmp_path):
    canvas = Canvas(tmp_path / "canvas", 5, 7, {"classes": 1}, {})
    numbers = [2, 3, 5, 7, 11, 13, 17]
    orders = [TileFiles(canvas.folder, {"classes": 1}, set(), rank, 3).order(numbers) for rank in range(3)]
    assert orders[0] == [2, 3, 17, 13, 11, 7, 5]
    assert orders[1] == [5, 7, 17, 13, 11, 3, 2]
    assert orders[2] == [11, 13, 17, 7, 5, 3, 2]
    assert canvas.order(numbers) == numbers
