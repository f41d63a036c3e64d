"""Scenes unlike the training: warned of in figures, or refused."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import write_raster, write_scene

from cluemap.data.patches import CropClass, Legend
from cluemap.data.scenes.imagery import open_imagery
from cluemap.data.scenes.scene_file import read_scene
from cluemap.errors import DataError
from cluemap.mapping.training_match import compare, distance
from cluemap.model.storage.trained_models import Card, Training

BANDS = ("B04", "B03", "B02")
LEGEND = Legend(BANDS, (0, 1, 2), (CropClass("corn", "#ff7f0e"), CropClass("wheat", "#2ca02c")), True)
DAYS = tuple(range(60, 300, 10))  # March to October
CARD = Card("mine", "0", LEGEND, 12, 60, np.full(3, 1000, np.float32), np.full(3, 500, np.float32),
            Training(DAYS, (12, 18, 24)))  # fmt: skip
YEAR = [f"2019-{month:02d}-{day}" for month in range(3, 11) for day in ("05", "15", "25")]


def said(root, dates, card=CARD, level=1000, classes=None):
    for number, day in enumerate(dates):
        values = np.random.default_rng(number).normal(level, 200, (3, 40, 40)).clip(100, 30_000).astype(np.uint16)
        write_raster(root / "images" / f"{day}.tif", values, names=BANDS)
    write_scene(root, {"kind": "files", "path": "images", "bands": list(BANDS)}, labels=None, classes=classes)
    return compare(card, open_imagery(root, read_scene(root)), root)


def test_a_scene_like_the_training_is_mapped_without_a_word(tmp_path):
    assert said(tmp_path, YEAR) == []


def test_one_date_in_august(tmp_path):
    texts = said(tmp_path, ["2019-08-14"])
    assert any("has 1 dates, the training's windows had 12 to 24" in text for text in texts)
    assert any("March, April, May" in text and "are missing" in text for text in texts)


def test_a_season_that_the_model_never_saw(tmp_path):
    with pytest.raises(DataError, match=r"no date of the scene is within 20 days.*here December"):
        said(tmp_path, ["2019-12-10", "2019-12-20"])


def test_some_dates_out_of_season(tmp_path):
    texts = said(tmp_path, [*YEAR, "2019-12-20"])
    assert any("1 of 25 dates: 20 December" in text for text in texts)


def test_two_years_mixed(tmp_path):
    """Days of the year collide: said with figures, with a season to choose."""
    texts = said(tmp_path, [*YEAR, "2018-05-05", "2018-07-05"])
    assert any("2018-05-05 to 2019-10-25" in text and "season_start" in text for text in texts)


def test_another_level_of_values(tmp_path):
    texts = said(tmp_path, YEAR, level=4500)
    assert any("3 of 3 bands" in text and "B04 0.45" in text and "0.100 ± 0.050" in text for text in texts)


def test_classes_that_the_model_does_not_know(tmp_path):
    texts = said(tmp_path, YEAR, classes=[{"name": "corn"}, {"name": "hops"}])
    assert any("1 classes that the model does not know" in text and "hops" in text for text in texts)


def test_a_model_without_training_facts_is_compared_by_what_it_has(tmp_path):
    assert said(tmp_path, ["2019-12-10"], card=replace(CARD, training=None)) == []


def test_days_are_near_round_the_turn_of_the_year():
    assert distance(np.array([363, 2, 180]), np.array([3, 200])).tolist() == [5, 1, 20]
