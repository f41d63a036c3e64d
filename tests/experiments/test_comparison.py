"""compare.py on a real store: what differs is shown, with the right differences, and nothing else."""

import re

import matplotlib.image
import numpy as np
import pytest
from runs import database, opened, root

import compare
from cluemap.experiments.comparison import differing, scores
from cluemap.figures.side_by_side import beside
from cluemap.tracking import open_store

__all__ = ["database", "root"]  # fixtures


@pytest.fixture
def results(root):
    """Three rows of results, with a map each; gives their ids."""
    ids = []
    for number, (count, miou) in enumerate([(2, 0.5), (3, 0.625), (4, 0.25)]):
        picture = np.full((40, 30 + number, 3), number * 100, np.uint8)
        matplotlib.image.imsave(root / "patch.png", picture)
        params = {"seed": 0, "clues.count": count}
        with opened(root, experiment="demo/results", name=f"evaluate {number}", params=params) as run:
            run.summary(
                {
                    "test_miou": miou,
                    "forest_miou": 0.5,
                    "test": {"weak": {"iou": {"corn": miou / 2, "oats & peas": 0.75}}},
                }
            )
            run.artifact(root / "patch.png", "figures")
            run.flush()
        ids.append(run.id)
    return ids


def test_the_page_shows_what_differs(results, root, capsys):
    page = root / "comparison.html"
    assert compare.main([*results, "--out", str(page)]) == 0
    assert "3 results" in capsys.readouterr().out
    html = page.read_text()
    for text in (*results, "clues.count", "+0.1250", "-0.2500", "corn", "+0.0625", "+0.0000"):
        assert text in html, text
    assert ">seed<" not in html  # the same in all
    assert html.index(">test_miou<") < html.index(">forest_miou<")  # the headline first
    assert len(re.findall("data:image/png", html)) == 1  # the maps, side by side in one picture
    assert "://" not in re.sub(r"data:[^\"']*", "", html).replace("http://www.w3.org", "")


@pytest.mark.parametrize(("shape", "stacked"), [((80, 101, 3), False), ((61, 270, 3), True)])
def test_wide_maps_stand_one_under_the_other(tmp_path, shape, stacked):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for number, colour in enumerate(colours):
        matplotlib.image.imsave(tmp_path / f"{number}.png", np.full(shape, colour, np.uint8))
    made = matplotlib.image.imread(beside([tmp_path / f"{n}.png" for n in range(3)], "ABC", tmp_path / "all.png"))
    alike = [(made[..., :3] == np.array(colour) / 255).all(axis=-1) for colour in colours]  # h w each
    places = [np.argwhere(one) for one in alike]
    assert [len(place) for place in places] == pytest.approx([shape[0] * shape[1]] * 3, rel=0.1)  # each at its own size
    starts = np.array([place.min(axis=0) for place in places])
    assert (np.diff(starts[:, 0]) > 0).all() == stacked
    assert (np.diff(starts[:, 1]) > 0).all() != stacked


def test_params_and_scores_by_hand(results):
    store = open_store()
    runs = {letter: store.run(run) for letter, run in zip("ABC", results, strict=True)}
    assert differing(runs) == [["clues.count", "2", "3", "4"]]
    assert scores(runs, {"miou": "test_miou"}) == [["miou", 0.5, 0.625, "+0.1250", 0.25, "-0.2500"]]
    (row,) = scores(runs, {"none": "no such metric"})
    assert row[3] is None


def test_what_cannot_be_compared_is_one_line(results, root, capsys):
    with opened(root) as training:
        pass
    assert compare.main([results[0]]) == 2
    assert "give two to 10 rows" in capsys.readouterr().err
    assert compare.main([results[0], training.id]) == 2
    assert "without test scores" in capsys.readouterr().err
    assert compare.main([results[0], str(root)]) == 2
    assert "no run in the store" in capsys.readouterr().err
