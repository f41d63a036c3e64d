"""The common form, opened: every array against numpy.load, every missing or damaged file named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import write_prepared

from cluemap.data.patches import Legend
from cluemap.data.windows import Windows
from cluemap.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_prepared(tmp_path / "prepare", {"train": 11, "validation": 5, "test": 3})


def test_series_are_the_rows_the_table_names(folder):
    windows = Windows.open(folder)
    table = pd.read_parquet(folder / "windows.parquet")
    days, valid = np.load(folder / "days.npy"), np.load(folder / "valid.npy")
    assert len(windows) == len(table) == 19
    for index, row in table.iterrows():
        shard = np.load(folder / f"images_{row['shard']:04d}.npy")
        images, own_days, own_valid = windows.series(index)
        np.testing.assert_array_equal(images, shard[row["start"] : row["start"] + row["dates"]])
        np.testing.assert_array_equal(own_days, days[row["day_start"] : row["day_start"] + row["dates"]])
        np.testing.assert_array_equal(own_valid, valid[row["day_start"] : row["day_start"] + row["dates"]])
        np.testing.assert_array_equal(own_valid, [(date != -10000).any() for date in images])
        np.testing.assert_array_equal(windows.image_labels[index], row["labels"])
    assert set(table["shard"]) == {0, 1}


def test_splits_masks_and_card(folder):
    windows = Windows.open(folder)
    card = json.loads((folder / "card.json").read_text())
    together = np.concatenate([windows.indexes(split) for split in ("train", "validation", "test")])
    assert sorted(together) == list(range(19))
    for split, count in card["counts"].items():
        indexes = windows.indexes(split)
        assert len(indexes) == count
        assert set(windows.split_of(indexes)) == {split}
        np.testing.assert_array_equal(windows.mask_row[indexes], np.arange(count))
        np.testing.assert_array_equal(windows.masks(split), np.load(folder / f"masks_{split}.npy"))
    np.testing.assert_allclose(windows.card.mean, card["statistics"]["mean"], rtol=1e-6)
    assert windows.card.legend.class_names == ("crop 1", "crop 2", "crop 3")
    assert Legend.from_json(json.loads(json.dumps(windows.card.legend.to_json()))) == windows.card.legend
    with pytest.raises(ValueError, match="holdout"):
        windows.indexes("holdout")


def test_series_are_views_not_copies(folder):
    images, _, _ = Windows.open(folder).series(3)
    assert not images.flags.owndata
    assert not images.flags.writeable


def test_training_masks_are_opened_only_when_asked_for(folder, monkeypatch):
    opened = []
    original = np.load
    monkeypatch.setattr(np, "load", lambda path, **rest: opened.append(Path(path).name) or original(path, **rest))
    windows = Windows.open(folder)
    windows.series(0)
    windows.masks("validation")
    assert "masks_validation.npy" in opened
    assert "masks_train.npy" not in opened
    windows.masks("train")
    assert "masks_train.npy" in opened


FILES = ("card.json", "windows.parquet", "images_0001.npy", "days.npy", "valid.npy", "masks_train.npy")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}.*dvc repro"):
        Windows.open(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{name}.*run"):
        Windows.open(folder)


def test_sizes_that_disagree_are_named(folder):
    valid = np.load(folder / "valid.npy")
    np.save(folder / "valid.npy", valid[:-1])
    with pytest.raises(DataError, match=rf"valid.npy holds bool \({len(valid) - 1},\).*\({len(valid)},\)"):
        Windows.open(folder)
    np.save(folder / "valid.npy", valid.astype(np.int8))
    with pytest.raises(DataError, match="holds int8"):
        Windows.open(folder)


def test_counts_and_columns_that_disagree_are_named(folder):
    table = pd.read_parquet(folder / "windows.parquet")
    table.iloc[:-1].to_parquet(folder / "windows.parquet")
    with pytest.raises(DataError, match=r"windows.parquet holds .*'test': 2.*card.json says .*'test': 3"):
        Windows.open(folder)
    table.drop(columns="mask_row").to_parquet(folder / "windows.parquet")
    with pytest.raises(DataError, match="no column 'mask_row'"):
        Windows.open(folder)


def test_a_card_of_another_version_is_named(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["statistics"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"card.json.*statistics"):
        Windows.open(folder)
