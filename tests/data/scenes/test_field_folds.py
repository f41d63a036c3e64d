"""A scene whose split keeps fields whole: no field in two splits, ever; what is proposed, widened and refused."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scenes import CRSS, LABELS, LEFT, TOP, make_region, write_files, write_points, write_scene

from cluemap.data.patches import VOID
from cluemap.data.preparation import prepare
from cluemap.data.scenes.grid import Grid
from cluemap.data.scenes.scene_reader import open_scene
from cluemap.data.splits.field_split import LEFT_OUT
from cluemap.data.windowing import cut, starts
from cluemap.data.windows import UNLABELLED, Windows
from cluemap.errors import DataError
from cluemap.params import SceneSource, WindowParams, load_params

FILES = {"kind": "files", "path": "images"}
HEIGHT, WIDTH = 96, 120  # pixels


def params_of(size=8, stride=8, flush_edge=False):
    return WindowParams(size=size, stride=stride, flush_edge=flush_edge, max_dates=60, presence=0.01, fold=1)


def fields_of(seed, side=70.0):
    """Turned fields of unequal size, some torn into two parts, 1 of 10 of no known class."""
    generator = np.random.default_rng(seed)
    columns, rows = int(WIDTH * 10 / side), int(HEIGHT * 10 / side)
    y, x = np.divmod(np.arange(rows * columns), columns)
    width, height = generator.uniform(0.5, 1.3, (2, rows * columns)) * side
    shapes = shapely.box(x * side, y * side, x * side + width, y * side + height)
    shapes = [
        shapely.affinity.rotate(one, angle) for one, angle in zip(shapes, generator.uniform(0, 40, len(x)), strict=True)
    ]
    shapes = [shapely.affinity.translate(one, LEFT, TOP - HEIGHT * 10) for one in shapes]
    shapes[3] = shapely.union(shapes[3], shapes[11])
    crops = generator.choice(["corn", "beet", "meadow", "thistles"], len(x), p=[0.4, 0.3, 0.2, 0.1])
    return gpd.GeoDataFrame({"crop": crops}, geometry=shapes, crs=CRSS[0])


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    write_files(root / "images", make_region())
    return root


def describe(root, table, split, **labels):
    table.to_file(root / "fields.gpkg")
    write_scene(root, FILES, labels={**LABELS, "others": "unlabelled", **labels}, split=split)
    return root


def folds_of_fields(reader, params):
    """Number of a field -> the folds in whose windows it labels a pixel; fields drawn in order, so that where two
    overlap the later one labels."""
    grid, found = reader.imagery.grid, {}
    shapes = [(shape, number) for number, shape in enumerate(reader.labels.mapped.tree.geometries)]
    owner = rasterize(shapes, (grid.height, grid.width), fill=-1, transform=grid.transform, dtype=np.int32)
    for piece in reader.pieces:
        known = np.zeros((piece.rows.stop - piece.rows.start, piece.columns.stop - piece.columns.start), bool)
        for row in starts(known.shape[0], params.size, params.stride, params.flush_edge):
            for column in starts(known.shape[1], params.size, params.stride, params.flush_edge):
                known[row : row + params.size, column : column + params.size] = True
        place = grid.cut(piece.rows, piece.columns)
        known &= reader.labels.ids(place, piece.fold) != VOID
        for number in set(owner[piece.rows, piece.columns][known].tolist()) - {-1}:
            found.setdefault(number, set()).add(piece.fold)
    return found


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 999), block=st.sampled_from([160.0, 240.0, 330.0]), gap=st.sampled_from([70.0, 90.0]),
    size=st.sampled_from([7, 11]), overlap=st.booleans(), kind=st.sampled_from(["parcels", "auto"]),
    outside=st.sampled_from(["unlabelled", "background"]),
)  # fmt: skip
def test_no_field_is_in_two_splits_ever(scene, seed, block, gap, size, overlap, kind, outside):
    table, params = fields_of(seed), params_of(size, size // 2 if overlap else size, overlap)
    split = {"kind": kind, "block": block, "gap": gap, "seed": seed}
    root = describe(scene, table, split, outside=outside)
    try:
        reader = open_scene(root, params)
    except DataError:
        assume(False)
    assert all(len(folds) == 1 for folds in folds_of_fields(reader, params).values())
    folds, shapes = reader.fields.folds, reader.labels.mapped.tree.geometries
    tested, others = folds == 5, ~np.isin(folds, (5, LEFT_OUT))
    assert shapely.distance(shapes[tested][:, None], shapes[others][None]).min() >= gap - 1e-6


def test_a_split_of_blocks_does_tear_fields_and_says_so(scene):
    """The same check finds the fields that plain blocks tear: it can fail."""
    table = fields_of(5)
    reader = open_scene(describe(scene, table, {"block": 180.0, "gap": 20.0, "seed": 0}), params_of())
    torn = [number for number, folds in folds_of_fields(reader, params_of()).items() if len(folds) > 1]
    assert torn
    assert 0.5 * len(torn) <= reader.straddling <= 2 * len(torn)
    assert any("pixels of one field train and test: set split.kind: auto" in note for note in reader.notes)


def test_prepared_windows_hold_whole_fields_only(scene, tmp_path):
    """Through prepare: a field's labelled pixels are all of one split, and the background is no field."""
    table = fields_of(7, side=60.0).iloc[::3].reset_index(drop=True)
    root = describe(scene, table, {"kind": "auto", "seed": 2}, outside="background")
    params = load_params("demo").model_copy(
        update={"dataset": "mine", "source": SceneSource(format="scene"), "windows": params_of(12, 12)}
    )
    prepare(open_scene(root, params.windows), params, tmp_path / "windows", progress=False)
    windows = Windows.open(tmp_path / "windows")
    seen = {}
    for split in ("train", "validation", "test"):
        rows = windows.table.iloc[windows.indexes(split)]
        for mask, x, y in zip(windows.masks(split), rows["x"], rows["y"], strict=True):
            row, column = np.nonzero((mask != VOID) & (mask != 0))
            points = shapely.points(x + 10 * column + 5, y - 10 * row - 5)
            for number, shape in enumerate(table.geometry):
                if table["crop"][number] != "thistles" and shapely.contains(shape, points).any():
                    seen.setdefault(number, set()).add(split)
    alone = {n for n, one in enumerate(table.geometry) if table.geometry.intersects(one).sum() == 1}
    assert len(alone & set(seen)) > 30
    assert all(len(seen[number]) == 1 for number in alone & set(seen))


def test_blocks_lie_where_the_fields_were_counted(scene):
    """Every field of a fold, but those on slivers at the edge, shows all its pixels in windows of its fold."""
    table = fields_of(11)[lambda one: one.crop != "thistles"].iloc[::3].reset_index(drop=True)  # few touch
    reader = open_scene(describe(scene, table, {"kind": "parcels", "block": 240.0, "gap": 80.0, "seed": 1}),
                        params_of(12, 12))  # fmt: skip
    shown = folds_of_fields(reader, params_of(12, 12))
    kept = np.flatnonzero(reader.fields.folds != LEFT_OUT)
    assert len(kept) > 15
    assert {number: {int(reader.fields.folds[number])} for number in kept.tolist()} == shown


def test_auto_proposes_and_widens(scene):
    table = fields_of(3)
    reader = open_scene(describe(scene, table, {"kind": "auto", "gap": 10.0}), params_of(14, 14))
    said = " ".join(reader.notes)
    assert "auto chose block 280 m, gap 70 m (widened from 10: a field is 6" in said
    assert "windows of 12 px would suit its fields and extent, not 14: {size: 12, stride: 6}" in said
    assert "whole fields" in said


def test_what_is_refused(scene):
    table = fields_of(3)
    with pytest.raises(DataError, match=r"split\.gap 10 m is less than a field .* set split\.gap to \d+ or more"):
        open_scene(describe(scene, table, {"kind": "parcels", "block": 240.0, "gap": 10.0}), params_of())
    with pytest.raises(
        DataError, match=r"too few for 5 folds: set a smaller split.block, or label more land; split: auto"
    ):
        open_scene(describe(scene, table, {"kind": "auto"}), params_of(60, 60))
    write_points(scene / "points.csv", make_region(), [(5, 5)])
    spec = {"kind": "points", "file": "points.csv", "column": "crop", "x": "lon", "y": "lat", "crs": "EPSG:4326"}
    write_scene(scene, FILES, labels=spec, split={"kind": "auto"})
    with pytest.raises(DataError, match=r"split.kind auto keeps whole fields together, so it wants labels of kind pol"):
        open_scene(scene, params_of())


def test_windows_of_a_fold_lie_in_its_blocks(scene):
    """Overlapping windows too: no window is in two folds, and none shows another fold's labels."""
    reader = open_scene(
        describe(scene, fields_of(9), {"kind": "parcels", "block": 240.0, "gap": 80.0}), params_of(8, 4)
    )
    windows = [window for patch in reader for window in cut(patch, params_of(8, 4))]
    assert len({window.name for window in windows}) == len(windows)
    places = {}
    for window in windows:
        places.setdefault((window.x, window.y), set()).add(window.fold)
    assert all(len(folds) == 1 for folds in places.values())


def test_classes_of_fields_that_another_split_shows_are_unknown(scene):
    """A window that holds a beet field of another fold is not said to be without beet."""
    split = {"kind": "parcels", "block": 240.0, "gap": 80.0}
    reader = open_scene(describe(scene, fields_of(9), split), params_of(12, 12))
    unknown = 0
    for patch in reader:
        for window in cut(patch, params_of(12, 12)):
            place = Grid(reader.imagery.grid.crs, window.x, window.y, 10.0, 12, 12)
            every = reader.labels.ids(place)
            hidden = set(every[window.mask == VOID].tolist())
            for k in range(1, len(window.labels) + 1):
                assert window.known[k - 1] == (window.labels[k - 1] or k not in hidden)
            unknown += int((~window.known).sum())
    assert unknown > 10


@pytest.mark.parametrize(("outside", "silence"), [("unlabelled", "absent"), ("unlabelled", "unknown")])
def test_prepare_says_how_much_is_known(scene, tmp_path, outside, silence):
    root = describe(scene, fields_of(4), {"block": 240.0, "gap": 20.0, "seed": 1}, outside=outside, silence=silence)
    params = load_params("demo").model_copy(
        update={"dataset": "mine", "source": SceneSource(format="scene"), "windows": params_of(6, 6)}
    )
    found = prepare(open_scene(root, params.windows), params, tmp_path / "windows", progress=False)["image_labels"]
    windows = Windows.open(tmp_path / "windows")
    if silence == "absent":
        assert windows.known is None
        assert found["train"]["unknown"] == 0
        return
    for split, counts in found.items():
        known, held = (part[windows.indexes(split)] for part in (windows.known, windows.image_labels))
        states = {"present": held.sum(), "absent": (known & ~held).sum(), "unknown": (~known).sum()}
        assert counts == states
        complete = (windows.masks(split) != VOID).all(axis=(1, 2))
        np.testing.assert_array_equal(known.all(axis=1), complete | held.all(axis=1))
    assert found["train"]["unknown"] > found["train"]["present"]


def test_labels_that_never_say_no_are_refused(scene, tmp_path):
    table = fields_of(4).iloc[::9]  # no window is labelled completely
    root = describe(scene, table, {"block": 240.0, "gap": 20.0, "seed": 1}, outside="unlabelled", silence="unknown")
    params = load_params("demo").model_copy(
        update={"dataset": "mine", "source": SceneSource(format="scene"), "windows": params_of(11, 11)}
    )
    with pytest.raises(DataError, match=r"no training window is known to lack any class.*set labels\.silence: absent"):
        prepare(open_scene(root, params.windows), params, tmp_path / "windows", progress=False)
    assert not (tmp_path / "windows").exists()


@pytest.mark.parametrize("kind", ["blocks", "parcels"])
def test_unlabelled_windows_stay_where_asked_and_show_no_field_of_another_split(scene, tmp_path, kind):
    split = {"kind": kind, "block": 240.0, "gap": 80.0 if kind == "parcels" else 20.0}
    params = load_params("demo").model_copy(
        update={"dataset": "mine", "source": SceneSource(format="scene"), "windows": params_of(6, 6)}
    )
    table = fields_of(9).iloc[::3]  # much land without any
    opened = {}
    for keep in (False, True):
        root = describe(scene, table, split, outside="unlabelled", keep_unlabelled=keep)
        reader = open_scene(root, params.windows)
        prepare(reader, params, tmp_path / str(keep), progress=False)
        opened[keep] = Windows.open(tmp_path / str(keep))
    few, all_ = opened[False], opened[True]
    unlabelled = all_.indexes(UNLABELLED)
    assert len(few.indexes(UNLABELLED)) == 0
    assert len(unlabelled) > 5
    assert not all_.known[unlabelled].any()
    names = few.table["name"].tolist()
    assert [name for name in all_.table["name"] if name in names] == names  # labelled ones are the same, in order
    assert not set(all_.table["name"].iloc[unlabelled]) & set(names)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(few.masks(name), all_.masks(name))
        one, other = few.indexes(name), all_.indexes(name)
        assert few.table["name"].iloc[one].tolist() == all_.table["name"].iloc[other].tolist()
        np.testing.assert_array_equal(few.series(one[-1])[0], all_.series(other[-1])[0])
    tested = np.zeros((6, 6), bool)
    for row in all_.table.iloc[unlabelled].itertuples():
        tested |= reader.labels.ids(Grid(reader.imagery.grid.crs, row.x, row.y, 10.0, 6, 6)) != VOID
    assert not tested.any()
    again = all_.hiding(all_.indexes("train")[:2], image_labels=False)  # few of the labelled ones with masks
    np.testing.assert_array_equal(again.masks("train"), all_.masks("train")[2:])
    assert len(again.indexes(UNLABELLED)) == len(unlabelled) + 2
