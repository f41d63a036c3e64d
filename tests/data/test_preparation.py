"""Stage prepare: every window against the raw files, cut by plain loops; splits, statistics, faults; real pickles."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import write_pastis, write_pastis24
from locations import PROJECT
from locations import REAL as REAL_FILES

from cluemap.data import appendable_arrays, window_writer
from cluemap.data.appendable_arrays import GrowingArray
from cluemap.data.formats.pastis import open_pastis
from cluemap.data.formats.pastis24 import open_pastis24
from cluemap.data.preparation import ordered, prepare
from cluemap.data.windows import Windows
from cluemap.errors import DataError
from cluemap.params import Params, WindowParams, load_params

REAL = REAL_FILES / "pastis24"
PATCHES = {10001: 1, 10002: 2, 10003: 3, 10004: 4, 10005: 5, 10006: 2}


def params_with(**windows) -> Params:
    default = {"size": 24, "stride": 24, "flush_edge": False, "max_dates": 60, "presence": 0.01, "fold": 1}
    params = load_params("demo", PROJECT / "params.yaml")
    return params.model_copy(update={"windows": WindowParams(**{**default, **windows})})


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_pastis(tmp_path_factory.mktemp("raw"), PATCHES, size=55, dates=[5, 7, 11, 3, 13, 7], seed=1)


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> tuple[Windows, dict]:
    folder = tmp_path_factory.mktemp("out") / "prepare"
    metrics = prepare(open_pastis(raw, [1, 2, 3]), params_with(), folder, progress=False)
    return Windows.open(folder), metrics


def raw_window(raw: Path, patch: str, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.load(raw / "DATA_S2" / f"S2_{patch}.npy")[:, :, row : row + 24, column : column + 24]
    labels = np.load(raw / "ANNOTATIONS" / f"TARGET_{patch}.npy")[0, row : row + 24, column : column + 24]
    return images, labels


def test_windows_are_cut_row_by_row_out_of_every_patch(raw, prepared):
    windows, _ = prepared
    table = windows.table
    expected = [
        (f"{patch}_{2 * i + j}", str(patch), fold, 24 * i, 24 * j)
        for patch, fold in PATCHES.items()
        for i in range(2)
        for j in range(2)
    ]
    found = table[["name", "patch", "fold", "row", "column"]].itertuples(index=False, name=None)
    assert list(found) == expected
    for index, (_, patch, _, row, column) in enumerate(expected):
        images, labels = raw_window(raw, patch, row, column)
        series, days, valid = windows.series(index)
        np.testing.assert_array_equal(series, images)
        np.testing.assert_array_equal(valid, [(date != -10000).any() for date in images])
        assert len(days) == len(images)
        split, mask_row = table["split"][index], table["mask_row"][index]
        np.testing.assert_array_equal(windows.masks(split)[mask_row], np.where(labels == 19, 255, labels))
        present = [(labels == k).sum() >= 6 for k in (1, 2, 3)]
        assert windows.image_labels[index].tolist() == present


def test_places_on_the_map_follow_row_and_column(raw, prepared):
    table = prepared[0].table
    for _, row in table.iterrows():
        number = list(PATCHES).index(int(row["patch"]))
        assert row["x"] == 400000.0 + 20000 * number + 10 * row["column"]
        assert row["y"] == 6900000.0 - 10 * row["row"]
    assert set(table["crs"]) == {"EPSG:2154"}
    years = {patch.name: patch.year for patch in open_pastis(raw, "all")}
    assert table["year"].tolist() == [years[patch] for patch in table["patch"]]
    assert set(table["pixel"]) == {10.0}


def test_statistics_are_of_seen_training_pixels_alone(raw, prepared):
    windows, _ = prepared
    train = [windows.series(index)[0] for index in windows.indexes("train")]
    for band in range(10):
        seen = np.concatenate([images[:, band].ravel() for images in train]).astype(np.float64)
        seen = seen[seen != -10000]
        assert windows.card.mean[band] == pytest.approx(seen.mean(), rel=1e-6)
        assert windows.card.std[band] == pytest.approx(seen.std(), rel=1e-6)
    every = np.concatenate([windows.series(index)[0][:, 0].ravel() for index in range(len(windows))])
    assert windows.card.mean[0] != pytest.approx(every[every != -10000].mean(), rel=1e-4)


@pytest.mark.parametrize(("fold", "folds"), [(1, "123/4/5"), (4, "451/2/3"), (5, "512/3/4")])
def test_splits_follow_the_official_folds(raw, tmp_path, fold, folds):
    prepare(open_pastis(raw, "all"), params_with(fold=fold), tmp_path / "out", progress=False)
    table = Windows.open(tmp_path / "out").table
    for split, numbers in zip(("train", "validation", "test"), folds.split("/"), strict=True):
        assert set(table["fold"][table["split"] == split]) == {int(number) for number in numbers}


def test_metrics_count_what_was_written(prepared):
    windows, metrics = prepared
    assert metrics["windows"] == {"train": 16, "validation": 4, "test": 4, "all": 24}
    for split, counts in metrics["windows_per_class"].items():
        labels = windows.image_labels[windows.indexes(split)]
        assert counts == {
            "meadow": labels[:, 0].sum(),
            "soft winter wheat": labels[:, 1].sum(),
            "corn": labels[:, 2].sum(),
        }
    assert metrics["mean_dates"] == pytest.approx(windows.dates.mean())
    assert metrics["mean_classes_per_window"] == pytest.approx(windows.image_labels.sum(1).mean())
    series = [windows.series(index)[0].ravel() for index in range(24)]
    assert metrics["no_data_share"] == pytest.approx((np.concatenate(series) == -10000).mean())
    assert metrics["bytes"] == sum(file.stat().st_size for file in windows.folder.iterdir())
    json.dumps(metrics)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_same_bits_whatever_the_number_of_workers(raw, prepared, tmp_path, workers):
    prepare(open_pastis(raw, [1, 2, 3]), params_with(), tmp_path / "out", progress=False, workers=workers)
    for file in prepared[0].folder.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("most", "shards"), [(20, 13), (1, 24), (1000, 1)])  # one series may be more than a shard
def test_small_shards_hold_the_same_series(raw, prepared, tmp_path, monkeypatch, most, shards):
    monkeypatch.setattr(window_writer, "SHARD_BYTES", most * 10 * 24 * 24 * 2)
    prepare(open_pastis(raw, [1, 2, 3]), params_with(), tmp_path / "out", progress=False)
    windows = Windows.open(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("images_*.npy"))) == shards
    for shard, rows in windows.table.groupby("shard"):
        assert rows["dates"].sum() <= most or len(rows) == 1
        assert len(np.load(tmp_path / "out" / f"images_{shard:04d}.npy")) == rows["dates"].sum()
    for index in range(len(windows)):
        np.testing.assert_array_equal(windows.series(index)[0], prepared[0].series(index)[0])


def test_the_digest_follows_the_data(raw, prepared, tmp_path):
    changed = shutil.copytree(raw, tmp_path / "raw")
    path = changed / "DATA_S2" / "S2_10005.npy"
    images = np.load(path)
    images[0, 0, 0, 0] += 1
    np.save(path, images)
    prepare(open_pastis(changed, [1, 2, 3]), params_with(), tmp_path / "out", progress=False)
    assert Windows.open(tmp_path / "out").card.digest != prepared[0].card.digest


def test_overlapping_and_flush_windows_reach_the_edge(raw, tmp_path):
    prepare(open_pastis(raw, "all"), params_with(size=20, stride=15, flush_edge=True), tmp_path / "out", progress=False)
    windows = Windows.open(tmp_path / "out")
    first = windows.table[windows.table["patch"] == "10001"]
    assert first["name"].tolist() == [f"10001_{j}" for j in range(16)]
    assert first["row"].tolist() == [row for row in (0, 15, 30, 35) for _ in range(4)]
    assert first["column"].tolist() == [0, 15, 30, 35] * 4
    images = np.load(raw / "DATA_S2" / "S2_10001.npy")
    np.testing.assert_array_equal(windows.series(15)[0], images[:, :, 35:55, 35:55])


def test_prepared_series_are_thinned(raw, tmp_path):
    prepare(open_pastis(raw, "all"), params_with(max_dates=4), tmp_path / "out", progress=False)
    windows = Windows.open(tmp_path / "out")
    images, _ = raw_window(raw, "10005", 0, 0)  # 13 dates, none of them wholly without data
    series, days, valid = windows.series(int(np.flatnonzero(windows.table["name"] == "10005_0")[0]))
    np.testing.assert_array_equal(series, images[[0, 4, 8, 12]])
    assert valid.all()
    assert len(days) == 4
    assert windows.dates.max() == 4
    assert windows.dates.min() == 3


# ------------------------------------------------------------------ bad input


def test_an_empty_split_is_named_and_leaves_nothing(tmp_path):
    root = write_pastis(tmp_path / "raw", {10001: 1, 10002: 2, 10005: 5}, size=24, dates=3)
    with pytest.raises(DataError, match=r"the validation split of demo is empty.*windows.fold = 1.*\[1, 2, 5\]"):
        prepare(open_pastis(root, "all"), params_with(), tmp_path / "out" / "prepare", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_empty_split_of_a_data_set_without_folds_is_named(raw, tmp_path):
    with pytest.raises(DataError, match=r"the test split of demo is empty: no patch belongs to it"):
        prepare(Splits(raw, ["train", "validation"] * 3), params_with(), tmp_path / "out", progress=False)


def test_windows_of_one_name_are_refused(tmp_path):
    root = write_pastis24(tmp_path / "raw", [f"{patch}_{j}" for patch in range(10001, 10006) for j in (0, 1)])
    with pytest.raises(DataError, match=r"two windows are called 10001_1: .*windows.size"):
        prepare(
            open_pastis24(root, "all", "by_patch"), params_with(size=12, stride=12), tmp_path / "out", progress=False
        )


def test_damage_late_in_the_data_leaves_the_old_output_alone(raw, tmp_path):
    out = tmp_path / "out" / "prepare"
    prepare(open_pastis(raw, "all"), params_with(), out, progress=False)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    broken = shutil.copytree(raw, tmp_path / "raw")
    path = broken / "DATA_S2" / "S2_10006.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"S2_10006.npy cannot be read"):
        prepare(open_pastis(broken, "all"), params_with(), out, progress=False)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in out.parent.iterdir()] == ["prepare"]


@pytest.mark.parametrize("after", [0, 1, 9, 60])
def test_a_full_disk_leaves_no_output(raw, tmp_path, monkeypatch, after):
    original, calls = GrowingArray.append, []

    def append(self, rows):
        calls.append(self.path.name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        return original(self, rows)

    monkeypatch.setattr(appendable_arrays.GrowingArray, "append", append)
    with pytest.raises(DataError, match=r"out/prepare cannot be written .*No space left.*free some room.*dvc repro"):
        prepare(open_pastis(raw, "all"), params_with(), tmp_path / "out" / "prepare", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_while_the_table_is_written_leaves_no_output(raw, tmp_path, monkeypatch):
    def write_table(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(window_writer.pq, "write_table", write_table)
    with pytest.raises(DataError, match="cannot be written"):
        prepare(open_pastis(raw, "all"), params_with(), tmp_path / "out" / "prepare", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------ parts


@pytest.mark.parametrize("workers", [1, 3])
def test_work_comes_in_order_and_not_far_ahead(workers):
    started = []
    results = ordered(lambda index: started.append(index) or index, 50, workers)
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(started) <= 5 + 2 * workers + 2
    assert list(results) == list(range(5, 50))


@pytest.mark.skipif(not REAL.exists(), reason=f"no real PASTIS24 pickles at {REAL}")
def test_real_pickles_are_prepared(tmp_path):
    reader = open_pastis24(REAL, "all", "by_patch")
    metrics = prepare(reader, params_with(max_dates=50), tmp_path / "out", progress=False)
    windows = Windows.open(tmp_path / "out")
    assert metrics["windows"] == {"train": 6, "validation": 2, "test": 1, "all": 9}
    assert windows.table["name"].tolist()[:4] == ["10110_15", "10203_3", "10316_17", "20006_0"]
    assert windows.table["row"].tolist()[:2] == [72, 0]
    assert windows.table["column"].tolist()[:2] == [0, 72]
    assert windows.table["x"].isna().all()
    assert windows.dates.tolist() == [43, 43, 43, 50, 50, 46, 46, 38, 38]
    for index, patch in enumerate(reader):
        present = [(patch.labels == k).sum() >= 6 for k in range(1, 19)]
        assert windows.image_labels[index].tolist() == present
        images = windows.series(index)[0]
        assert {images[t].tobytes() for t in range(len(images))} <= {date.tobytes() for date in patch.images}


class Splits:
    """What Germany's reader gives: patches with a split instead of a fold."""

    def __init__(self, raw, splits):
        self.reader, self.splits = open_pastis(raw, "all"), splits
        self.legend = self.reader.legend

    def __len__(self):
        return len(self.splits)

    def __iter__(self):
        return map(self.read, range(len(self)))

    def read(self, index):
        return replace(self.reader.read(index), fold=None, split=self.splits[index], corner=None, crs=None)


def test_a_data_set_of_splits_needs_no_folds(raw, tmp_path):
    splits = ["train", "test", "validation", "train", "test", "test"]
    prepare(Splits(raw, splits), params_with(), tmp_path / "out", progress=False)
    table = pd.read_parquet(tmp_path / "out" / "windows.parquet")
    assert table["split"].tolist() == [split for split in splits for _ in range(4)]
    assert set(table["fold"]) == {-1}
    assert table["crs"].isna().all()
