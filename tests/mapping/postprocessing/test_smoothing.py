"""Smoothing against a slow vote, pixel by pixel; strips change nothing; what is not seen stays so."""

import sys

import numpy as np
import pytest
import rasterio
from class_maps import CRS, LEFT, NAMES, PIXEL, TOP, VOID, blocks, write_map
from rasterio.transform import Affine
from scipy.ndimage import label

import smooth_map as script
from cluemap.errors import DataError
from cluemap.mapping.postprocessing import smoothed_map
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.mapping.postprocessing.smoothed_map import Smoothing, smooth_map
from cluemap.mapping.postprocessing.smoothing import majority, most_probable, without_small_patches


def speckled(height=37, width=23, seed=0, side=6, share=0.2):
    generator = np.random.default_rng(seed)
    classes = blocks(height, width, side, seed)
    wrong = generator.random(classes.shape) < share
    classes[wrong] = generator.integers(1, 4, wrong.sum())
    classes[:7, :5] = VOID
    classes[20, 11] = VOID
    return classes


def slow_vote(classes, votes, window):
    """`votes`: id -> h w."""
    found, reach = classes.copy(), window // 2
    for row, column in zip(*np.nonzero(classes != VOID), strict=True):
        here = (slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1))
        sums = {number: int(vote[here][classes[here] != VOID].sum()) for number, vote in votes.items()}
        best = [number for number, total in sums.items() if total == max(sums.values())]
        found[row, column] = classes[row, column] if classes[row, column] in best else best[0]
    return found


@pytest.mark.parametrize("window", [1, 3, 7])
def test_majority_against_a_slow_vote(window):
    classes = speckled()
    votes = {number: classes == number for number in (1, 2, 3)}
    np.testing.assert_array_equal(majority(classes, VOID, window), slow_vote(classes, votes, window))


def test_probabilities_against_a_slow_vote():
    classes = speckled(seed=2)
    shares = np.random.default_rng(3).integers(0, 101, (3, *classes.shape)).astype(np.uint8)
    shares[:, classes == VOID] = 255
    votes = {number: shares[number - 1].astype(int) for number in (1, 2, 3)}
    found = most_probable(classes, shares, [1, 2, 3], VOID, 5)
    np.testing.assert_array_equal(found, slow_vote(classes, votes, 5))
    assert (found != majority(classes, VOID, 5)).any()


def patches(classes):
    """Sizes of all connected patches of a class."""
    return [
        size
        for number in (1, 2, 3)
        for size in np.bincount(label(classes == number)[0].ravel())[1:]
    ]  # fmt: skip


def test_no_patch_under_the_minimum_mapping_unit_is_left():
    classes = speckled(120, 90, side=15, share=0.1)
    found = without_small_patches(classes, VOID, 12)
    assert min(patches(classes)) == 1
    assert min(patches(found)) >= 12
    np.testing.assert_array_equal(found == VOID, classes == VOID)
    large = blocks(120, 90, side=15)
    np.testing.assert_array_equal(without_small_patches(large, VOID, 12), large)


@pytest.mark.parametrize("vote", ["majority", "probability"])
def test_strips_change_nothing(tmp_path, monkeypatch, vote):
    classes = speckled(200, 60, side=20, share=0.05)
    source = open_map(write_map(tmp_path / "map.tif", classes))
    shares = np.random.default_rng(1).integers(0, 101, (3, *classes.shape)).astype(np.uint8)
    transform = Affine(PIXEL, 0, LEFT, 0, -PIXEL, TOP)
    with rasterio.open(
        tmp_path / "map_probability.tif", "w", driver="GTiff", height=200, width=60, count=3, dtype="uint8", crs=CRS,
        transform=transform,
    ) as file:  # fmt: skip
        file.write(shares)
    order = Smoothing(vote, 5)
    whole = read(smooth_map(source, order, tmp_path / "whole.tif"))
    monkeypatch.setattr(smoothed_map, "STRIP", 17)
    np.testing.assert_array_equal(read(smooth_map(source, order, tmp_path / "strips.tif")), whole)
    assert (whole != classes).any()
    np.testing.assert_array_equal(whole == VOID, classes == VOID)


def test_strips_do_not_change_which_patches_go(tmp_path, monkeypatch):
    classes = speckled(200, 60, side=20, share=0.05)
    source = open_map(write_map(tmp_path / "map.tif", classes))
    whole = read(smooth_map(source, Smoothing("none", minimum=0.1), tmp_path / "whole.tif"))
    monkeypatch.setattr(smoothed_map, "STRIP", 17)
    strips = read(smooth_map(source, Smoothing("none", minimum=0.1), tmp_path / "strips.tif"))
    np.testing.assert_array_equal(strips != classes, whole != classes)
    assert min(patches(strips)) >= 10 > min(patches(classes))


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_the_command_keeps_names_colours_and_style(tmp_path, monkeypatch, capsys):
    write_map(tmp_path / "map.tif", speckled())
    (tmp_path / "map.qml").write_text("a style")
    monkeypatch.setattr(sys, "argv", ["smooth_map", "--map", str(tmp_path / "map.tif"), "--minimum", "0.05"])
    assert script.main() == 0
    out = tmp_path / "map_smooth.tif"
    assert open_map(out).names == NAMES
    assert open_map(out).colours == open_map(tmp_path / "map.tif").colours
    assert out.with_suffix(".qml").read_text() == "a style"
    with rasterio.open(out) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.qml",
        "map.tif",
        "map_smooth.qml",
        "map_smooth.tif",
    ]
    monkeypatch.setattr(sys, "argv", ["smooth_map", "--map", str(tmp_path / "map.tif"), "--vote", "probability"])
    assert script.main() == 2
    assert "map_probability.tif is missing: map again with predict --probabilities" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("order", "out"),
    [
        (Smoothing(window=4), "b.tif"),
        (Smoothing(minimum=-1), "b.tif"),
        (Smoothing(), "map.tif"),
        (Smoothing(), "b.png"),
    ],
)
def test_impossible_orders_are_refused(tmp_path, order, out):
    source = open_map(write_map(tmp_path / "map.tif", speckled()))
    with pytest.raises(DataError, match=r"give (an odd number|another file)"):
        smooth_map(source, order, tmp_path / out)


def test_what_is_no_map_of_classes_is_refused(tmp_path):
    with rasterio.open(tmp_path / "two.tif", "w", driver="GTiff", height=3, width=3, count=2, dtype="uint8") as file:
        file.write(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(DataError, match="has 2 bands of uint8, a map of classes has one"):
        open_map(tmp_path / "two.tif")
    (tmp_path / "text.tif").write_text("text")
    with pytest.raises(DataError, match="cannot be read as a map"):
        open_map(tmp_path / "text.tif")
