"""Figures: right colours at known pixels, the same bytes each time, nothing that is absent, any number of classes."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from locations import SOURCE
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from cluemap import figures
from cluemap.data.patches import NODATA, VOID, CropClass, Legend
from cluemap.errors import DataError
from cluemap.figures import style
from cluemap.figures.class_scores import short_count
from cluemap.figures.window_panel import agreement
from cluemap.training.metrics import Curve

BANDS = ("B02", "B03", "B04", "B08")
RED, GREEN, BLUE = "#d62728", "#2ca02c", "#1f77b4"


def legend_of(crops: int, background: bool = True) -> Legend:
    """Crops in colours that appear nowhere else in a figure."""
    first = [CropClass("maize", RED), CropClass("winter wheat", GREEN), CropClass("sugar beet", BLUE)]
    rest = [CropClass(f"crop number {label}", f"#{label * 12:02x}80ff") for label in range(4, crops + 1)]
    return Legend(BANDS, (2, 1, 0), tuple((first + rest)[:crops]), background)


def view_of(legend: Legend, present=(1,), truth=True, side=6, name="10000_3") -> figures.WindowView:
    random = np.random.default_rng(7)
    labels = random.choice([0 if legend.background else VOID, *present], (side, side)).astype(np.uint8)
    cams = random.random((len(legend.classes), side // 2, side // 2), dtype=np.float32)
    images = random.integers(100, 3000, (5, len(BANDS), side, side)).astype(np.int16)
    days = np.array([3, 90, 180, 200, 366], np.int16)
    masks = {"pseudo_mask": labels, "refined_mask": labels, "crop_map": labels}
    return figures.WindowView(name, images, days, present, None, labels if truth else None, cams, **masks)


def pictures_of(legend: Legend, folder: Path, truth: bool = True) -> list[Path]:
    """Every figure once, from made-up arrays."""
    folder.mkdir()
    crops, size = len(legend.classes), len(legend.classes) + legend.background
    present = (1, crops) if crops > 1 else (1,)
    view = view_of(legend, present, truth)
    random = np.random.default_rng(5)
    line = np.linspace(0, 1, 60, endpoint=False)
    points = [{"step": step, "loss/total": 1 / step, "learning_rate": 1e-3 / step} for step in range(1, 70)]
    maps = {"truth": view.pseudo_mask, "crop map": view.crop_map} if truth else {"crop map": view.crop_map}
    scores = random.random(size)
    return [
        figures.window_panel([view], legend, folder / "panel.png", threshold=0.3),
        figures.overview([view], legend, folder / "overview.png"),
        figures.mosaic(maps, legend, folder / "mosaic.png", window=3),
        figures.threshold_curve({"clue": Curve(line, line, 1 - line)}, {"clue": 0.3}, folder / "threshold.png"),
        figures.confusion_matrix(random.integers(0, 99, (size, size + 1)), legend, folder / "confusion.png"),
        figures.temporal_weights(random.random((crops, 37)), legend, folder / "season.png", random.random((crops, 37))),
        figures.training_curves(points, folder / "training.png", marks={"clues start": 30}),
        figures.class_scores({"weak": scores, "full": scores}, legend, folder / "scores.png"),
        figures.learning_curve({"alone": {10: [0.2, 0.3], 30: [0.4]}}, folder / "learning.png"),
        figures.border_errors({"weak": {"1": 0.5, "farther": 0.1}}, {"1": 3, "farther": 9}, folder / "borders.png"),
    ]


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were made, instead of files."""
    kept: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, path: kept.append(figure))
    return kept


def words_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    ("crops", "background", "truth"), [(1, False, True), pytest.param(18, True, False, marks=pytest.mark.slow)]
)
def test_same_arrays_same_bytes_whatever_the_users_settings(tmp_path, monkeypatch, crops, background, truth):
    monkeypatch.setattr(style, "DOTS_PER_INCH", 50)  # quicker
    legend = legend_of(crops, background)
    first = pictures_of(legend, tmp_path / "first", truth)
    with matplotlib.rc_context({"font.size": 23, "axes.facecolor": "red", "savefig.dpi": 20}):
        second = pictures_of(legend, tmp_path / "second", truth)
        assert matplotlib.rcParams["font.size"] == 23
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        assert b"Software" not in one.read_bytes()
        assert 100 < imread(one).shape[1] < 1000
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(path.name for path in first)


def test_other_arrays_give_another_picture(tmp_path):
    labels = np.ones((2, 2), np.uint8)
    one = figures.mosaic({"map": labels}, legend_of(3), tmp_path / "one.png")
    other = figures.mosaic({"map": labels * 2}, legend_of(3), tmp_path / "other.png")
    assert one.read_bytes() != other.read_bytes()


def test_no_pyplot():
    code = "import sys, cluemap.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    source = SOURCE
    assert subprocess.run([sys.executable, "-c", code], cwd=source, check=False).returncode == 0


# ------------------------------------------------------------------ the clearest date and its picture


def series(*dates: tuple[float, float, float, float]) -> np.ndarray:
    """One reflectance per band (blue, green, red, near infrared) and date -> t c 5 7."""
    return np.broadcast_to(np.array(dates)[:, :, None, None] * 10000, (len(dates), 4, 5, 7)).astype(np.int16)


CLEAR, CLOUD = (0.04, 0.07, 0.05, 0.35), (0.45, 0.46, 0.47, 0.5)
HAZE, SHADOW = (0.14, 0.15, 0.14, 0.35), (0.03, 0.03, 0.02, 0.1)


@pytest.mark.parametrize("place", [0, 2, 5])
def test_the_one_clear_date_is_found(place):
    dates = [CLOUD, HAZE, CLOUD, HAZE, CLOUD]
    dates.insert(place, CLEAR)
    assert figures.clearest_date(series(*dates), legend_of(3)) == place


def test_a_clear_date_is_preferred_to_cloud_shadow():
    dates = [CLOUD] * 10
    dates[3], dates[8] = SHADOW, CLEAR
    assert figures.clearest_date(series(*dates), legend_of(3)) == 8


def test_a_cloud_over_a_corner_counts():
    images = series(CLEAR, CLEAR, CLEAR).copy()
    images[:2, :, :2, :4] = series(CLOUD)[0, :, :2, :4]
    assert figures.clearest_date(images, legend_of(3)) == 2


def test_dates_that_are_padding_or_lack_pixels_are_not_shown():
    images = series(CLEAR, CLEAR, HAZE).copy()
    images[0, :, 0, 0] = NODATA
    assert figures.clearest_date(images, legend_of(3), np.array([True, False, True])) == 2


def test_a_window_never_seen_is_an_error():
    with pytest.raises(DataError, match="no date of this window was ever seen"):
        figures.clearest_date(np.full((2, 4, 5, 7), NODATA, np.int16), legend_of(3))


def test_true_colour_stretches_and_greys_out():
    image = np.zeros((4, 5, 7), np.int16)
    image[2] = np.arange(35).reshape(5, 7) * 100  # red
    image[:, 0, 0] = NODATA
    picture = figures.true_colour(image, legend_of(3))
    assert picture.shape == (5, 7, 3)
    np.testing.assert_allclose(picture[0, 0], to_rgb("#9a9a9a"))
    red = picture[..., 0].ravel()[1:]
    assert (np.diff(red) >= 0).all()
    assert red[0] < 0.05
    assert red[-1] == pytest.approx(1.0)
    assert picture[1:, :, 2].max() == 0  # blue is the same everywhere: no noise is blown up


# ------------------------------------------------------------------ label maps


def test_label_picture_has_the_data_sets_colours():
    legend = legend_of(3)
    picture = figures.label_picture(np.array([[0, 1, 2], [3, VOID, 0]], np.uint8), legend)
    wanted = [["#000000", RED, GREEN], [BLUE, "#ffffff", "#000000"]]
    for row in range(2):
        for column in range(3):
            assert tuple(picture[row, column]) == to_rgb(wanted[row][column])


def test_a_label_outside_the_legend_is_an_error():
    with pytest.raises(DataError, match=r"label 4 is neither 0\.\.3 nor 255"):
        figures.label_picture(np.array([[1, 4]], np.uint8), legend_of(3))


def test_pixels_of_the_written_map(tmp_path):
    labels = np.array([[1, 2, 3], [VOID, 0, 1]], np.uint8)
    written = imread(figures.mosaic({"map": labels}, legend_of(3), tmp_path / "map.png"))[..., :3]
    wide, tall, left, top = 3.1 / 3, 3.1 / 3, 0.2, 0.36  # inches
    for (row, column), label in np.ndenumerate(labels):
        place = round((top + tall * (row + 0.5)) * 150), round((left + wide * (column + 0.5)) * 150)
        around = written[place[0] - 20 : place[0] + 20, place[1] - 20 : place[1] + 20]
        if label == VOID:
            assert len(np.unique(around.reshape(-1, 3), axis=0)) > 1  # hatched
        else:
            wanted = to_rgb({0: "#000000", 1: RED, 2: GREEN, 3: BLUE}[label])
            np.testing.assert_allclose(around, np.broadcast_to(wanted, around.shape), atol=1 / 255)


def test_errors_are_marked_only_where_truth_is_known(tmp_path):
    truth, found = np.array([[1, 1, VOID]], np.uint8), np.array([[1, 2, 2]], np.uint8)
    written = imread(figures.mosaic({"truth": truth, "map": found}, legend_of(3), tmp_path / "map.png"))[..., :3]
    row, left, wide = round((0.36 + 3.1 / 6) * 150), 0.2 + 2 * 3.3, 3.1 / 3  # of the third map; inches
    middles = [round((left + wide * (column + 0.5)) * 150) for column in range(3)]
    cells = [written[row - 20 : row + 20, middle - 20 : middle + 20] for middle in middles]
    marked = [bool((np.abs(cell - to_rgb(style.VERMILION)).max(axis=2) < 0.01).any()) for cell in cells]
    assert marked == [False, True, False]


def test_agreement_counts_labelled_pixels():
    truth = np.array([1, 1, 2, VOID, VOID], np.uint8)
    assert agreement(np.array([1, 2, 2, 2, 2]), truth) == "67 % right"
    assert agreement(truth, None) == agreement(truth, np.full(5, VOID)) == ""


def test_assemble_puts_windows_at_their_places():
    tiles = np.arange(1, 4, dtype=np.uint8)[:, None, None] * np.ones((3, 2, 3), np.uint8)
    whole = figures.assemble(tiles, np.array([0, 0, 2]), np.array([0, 3, 3]))
    np.testing.assert_array_equal(whole, [[1, 1, 1, 2, 2, 2]] * 2 + [[VOID] * 3 + [3] * 3] * 2)


# ------------------------------------------------------------------ windows


def colours_in(path: Path) -> set[tuple[int, ...]]:
    pixels = (imread(path)[..., :3] * 255).round().astype(int) @ [1 << 16, 1 << 8, 1]
    return {(packed >> 16, packed >> 8 & 255, packed & 255) for packed in np.unique(pixels).tolist()}


@pytest.mark.parametrize("draw", [figures.window_panel, figures.overview])
def test_an_absent_class_is_nowhere(tmp_path, draw):
    legend = legend_of(3)
    found = colours_in(draw([view_of(legend, present=(1, 3))], legend, tmp_path / "windows.png"))
    whole = {colour: tuple(round(part * 255) for part in to_rgb(colour)) for colour in (RED, GREEN, BLUE)}
    assert {whole[RED], whole[BLUE]} <= found
    assert whole[GREEN] not in found


def test_the_panel_names_its_classes_and_dates(drawn):
    legend = legend_of(18)
    views = [view_of(legend, present=(1, 2, 3, 4, 5, 18)), view_of(legend, present=(2,), truth=False, name="10001_0")]
    figures.window_panel(views, legend, "unused")
    words = words_of(drawn[0])
    for name in ("winter wheat", "crop number 18", "10000_3", "10001_0", "clearest of 5", "clue CAM score"):
        assert name in words
    assert "crop number 6" not in words


def test_no_window_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no window to draw"):
        figures.window_panel([], legend_of(3), tmp_path / "windows.png")


# ------------------------------------------------------------------ numbers


def test_confusion_is_shown_in_shares_of_the_true_class(drawn):
    counts = np.array([[30, 10, 0, 0, 0], [0, 1500, 500, 0, 0], [0, 0, 7, 0, 0], [0, 0, 0, 0, 0]])
    figures.confusion_matrix(counts, legend_of(3), "unused")
    axes = drawn[0].axes[0]
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shown, [[75, 25, 0], [0, 75, 25], [0, 0, 100]])
    words = words_of(drawn[0])
    assert "No true or predicted pixel: sugar beet" in words
    assert "no prediction" not in words
    assert {"40", "2 k", "7", "30", "1.51 k", "507"} <= set(words.split("\n"))


def test_pixels_without_prediction_get_a_column(drawn):
    figures.confusion_matrix(np.array([[3, 1]]), legend_of(1, background=False), "unused")
    np.testing.assert_allclose(np.asarray(drawn[0].axes[0].images[0].get_array()), [[75, 25]])
    assert "no prediction" in words_of(drawn[0])


def test_scores_of_another_data_set_are_refused(tmp_path):
    for draw in (
        lambda: figures.confusion_matrix(np.zeros((3, 4), int), legend_of(3), tmp_path / "x.png"),
        lambda: figures.class_scores({"weak": np.zeros(3)}, legend_of(3), tmp_path / "x.png"),
        lambda: figures.temporal_weights(np.zeros((4, 37)), legend_of(3), tmp_path / "x.png"),
    ):
        with pytest.raises(DataError, match="not its data set"):
            draw()


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0"), (999, "999"), (1000, "1 k"), (12345, "12.3 k"), (2.5e6, "2.5 M")]
)
def test_short_count(count, words):
    assert short_count(count) == words


def test_class_scores_means_leave_out_what_is_not_there(drawn):
    figures.class_scores({"weak": np.array([0.5, np.nan, 0.7, np.nan])}, legend_of(3), "unused")
    bars = [bar.get_width() for bar in drawn[0].axes[0].containers[0]]
    np.testing.assert_allclose(bars, [60, 50, 70])  # mean, background, winter wheat


def test_border_errors_leave_out_distances_without_pixels(drawn):
    errors = {"weak": {"1": 0.4, "2": float("nan"), "farther": 0.1}}
    figures.border_errors(errors, {"1": 30, "2": 0, "farther": 90}, "unused")
    above, beneath = drawn[0].axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [40, np.nan, 10])
    np.testing.assert_allclose([bar.get_height() for bar in beneath.containers[0]], [25, 0, 75])


def test_threshold_curve_marks_the_used_and_the_best(drawn):
    line = np.arange(4) / 4
    curve = Curve(line, np.array([0.4, 0.8, 0.6, 0.2]), np.array([0.3, 0.5, 0.7, 0.1]))
    figures.threshold_curve({"clue": curve, "fused": curve}, {"clue": 0.375}, "unused")
    _, right = drawn[0].axes
    marks = [tuple(line.get_xydata()[0]) for line in right.lines if len(line.get_xydata()) == 1]
    np.testing.assert_allclose(sorted(marks), [(0.375, 60), (0.5, 70), (0.5, 70)])
    words = words_of(drawn[0])
    assert "clue CAM: mIoU best 70.0 % at 0.50, used 60.0 % at 0.38" in words
    assert "raw fused CAM: mIoU best 70.0 % at 0.50" in words


def test_training_curves_group_by_name(drawn):
    points = [{"step": 2, "loss/total": 0.5, "loss/clue": float("nan")}, {"step": 1, "loss/total": 0.7}]
    figures.training_curves([*points, {"step": 2, "validation/miou": 0.4}], "unused", marks={"clues start": 2})
    losses, scores = drawn[0].axes
    assert (losses.get_title(loc="left"), scores.get_title(loc="left")) == ("losses", "validation scores")
    np.testing.assert_allclose(losses.lines[0].get_xydata(), [[1, 0.7], [2, 0.5]])
    assert "clue\n" not in words_of(drawn[0])
    assert {"total", "mIoU", "clues start"} <= set(words_of(drawn[0]).split("\n"))


def test_no_points_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no training curve"):
        figures.training_curves([{"step": 1, "loss/total": float("nan")}], tmp_path / "x.png")


# ------------------------------------------------------------------ the year


def test_even_share_weights_against_loops():
    windows, crops, dates, part = 5, 3, 7, 61
    random = np.random.default_rng(11)
    days = random.integers(1, 367, (windows, dates))
    days[1, 4:], days[2, :] = 0, 0
    weights = random.random((windows, crops, dates))
    present = random.random((windows, crops)) < 0.6
    found = figures.even_share_weights(weights, days, present, part)
    assert found.shape == (crops, 6)  # 366 days = 6 parts of 61
    for crop in range(crops):
        for place in range(6):
            values = [
                weights[window, crop, date] * sum(days[window] > 0)
                for window in range(windows)
                for date in range(dates)
                if present[window, crop] and place * part < days[window, date] <= (place + 1) * part
            ]
            assert found[crop, place] == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)


def test_even_weights_are_one():
    days = np.array([[10, 100, 200], [50, 150, 0]])
    weights = np.array([[[1 / 3] * 3], [[1 / 2, 1 / 2, 0]]])
    found = figures.even_share_weights(weights, days, np.ones((2, 1), bool))
    np.testing.assert_allclose(found[~np.isnan(found)], 1)
    assert (~np.isnan(found)).sum() == 5


def test_ndvi_course_by_hand():
    images = series((0.05, 0.05, 0.1, 0.3), (0.05, 0.05, 0.1, 0.4)).copy()
    labels = np.zeros((5, 7), np.uint8)
    labels[0, :2] = 2
    images[1, :, 0, 0] = NODATA
    found = figures.ndvi_course([(images, np.array([1, 366]), labels)], legend_of(3), 10)
    assert found.shape == (3, 37)
    assert found[1, 0] == pytest.approx(0.5)
    assert found[1, 36] == pytest.approx(0.6)
    assert np.isnan(found).sum() == 3 * 37 - 2


def test_ridges_leave_out_classes_without_dates(drawn):
    weights = np.full((3, 37), np.nan)
    weights[1, 5] = 2.0
    figures.temporal_weights(weights, legend_of(3), "unused")
    words = words_of(drawn[0]).split("\n")
    assert "winter wheat" in words
    assert "maize" not in words
    assert "2.0x, 25 Feb" in words
    with pytest.raises(DataError, match="no class has a temporal weight"):
        figures.temporal_weights(np.full((3, 37), np.nan), legend_of(3), "unused")


@pytest.mark.parametrize(("day", "name"), [(1, "1 Jan"), (103, "13 Apr"), (365, "31 Dec"), (366, "31 Dec")])
def test_day_name(day, name):
    assert style.day_name(day) == name


def test_a_learning_curve_shows_every_seed_and_their_mean(drawn, tmp_path):
    figures.learning_curve({"alone": {30: [0.4, 0.6], 10: [0.2]}, "taught": {30: [0.7]}}, tmp_path / "curve.png")
    [axes] = drawn[0].axes
    lines = [one for one in axes.lines if not one.get_label().startswith("_")]
    assert [one.get_label() for one in lines] == ["alone", "taught"]
    assert lines[0].get_xydata().tolist() == [[10, 20], [30, 50]]
    dots = [one.get_xydata().tolist() for one in axes.lines if one.get_label().startswith("_")]
    assert dots == [[[10, 20]], [[30, 40], [30, 60]], [[30, 70]]]
