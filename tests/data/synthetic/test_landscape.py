"""The demo's parcels and what lies on them."""

from dataclasses import replace

import numpy as np
import pytest

from cluemap.data.synthetic import Plan
from cluemap.data.synthetic.demo_pastis import patch_places, patch_seed
from cluemap.data.synthetic.generator_params import LandKnobs
from cluemap.data.synthetic.land_cover import CROPS, KINDS
from cluemap.data.synthetic.landscape import RIM, choose, make_land
from cluemap.data.synthetic.parcels import clip_polygon, cut_land, long_way, longest_edge, polygon_area
from cluemap.data.synthetic.random_fields import stream

IDS = (1, 2, 3, 4, 5, 7, 9, 13)


def test_a_cut_parts_a_polygon_into_two_whose_areas_add_up():
    square = np.array([(0.0, 0.0), (0.0, 7.0), (5.0, 7.0), (5.0, 0.0)])
    normal = np.array([0.6, 0.8])
    left, right = clip_polygon(square, normal, 3.0), clip_polygon(square, -normal, -3.0)
    assert polygon_area(square) == pytest.approx(35.0)
    assert polygon_area(left) + polygon_area(right) == pytest.approx(35.0)
    assert (left @ normal >= 3.0 - 1e-9).all()
    assert len(clip_polygon(square, normal, 100.0)) == 0


def test_unbent_parcels_are_convex_and_cover_the_land():
    cutting = cut_land(61, 83, LandKnobs(bend=0.0), np.random.default_rng(1))
    assert (cutting.elements >= 0).all()
    elements = cutting.elements.reshape(61, 83)
    parcels = [number for number, kind in enumerate(cutting.kinds) if kind == "parcel"]
    assert len(parcels) > 10
    for parcel in parcels:
        places = np.argwhere(elements == parcel)[:40]
        for one in places:  # a convex set holds the midpoint of any two of its points
            for other in places[((places + one) % 2 == 0).all(axis=1)]:
                middle = (one + other) // 2
                assert elements[middle[0], middle[1]] == parcel


def test_the_last_bit_does_not_decide_how_equal_sides_are_cut():
    turned = np.array([(0.0, 0.0), (3.0, 4.0), (-1.0, 7.0), (-4.0, 3.0)])  # a square
    rng = np.random.default_rng(0)
    for _ in range(50):
        nudged = turned * (1 + 1e-15 * rng.standard_normal(turned.shape))
        assert longest_edge(nudged) == pytest.approx(longest_edge(turned))
        np.testing.assert_allclose(long_way(nudged, 0.3)[0], long_way(turned, 0.3)[0])


def test_crops_keep_to_their_shares_and_to_their_neighbours():
    rng = np.random.default_rng(3)
    centres, sizes = rng.random((301, 2)) * 127, rng.integers(20, 200, 301)
    params = LandKnobs(crop_share_spread=0.0)
    kinds = choose(centres, sizes, CROPS, (127, 127), params, rng)
    wanted = np.array([KINDS[kind].share for kind in CROPS])
    areas = np.array([sizes[kinds == kind].sum() for kind in CROPS])
    np.testing.assert_allclose(areas / areas.sum(), wanted / wanted.sum(), atol=0.05)
    alone = choose(centres, sizes, CROPS, (127, 127), replace(params, crop_cluster=0.0), rng)
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    near = (apart > 0) & (apart < 9)
    assert (kinds[:, None] == kinds[None])[near].mean() > 2 * (alone[:, None] == alone[None])[near].mean()


def test_a_parcel_has_one_label_and_is_void_when_most_of_it_lies_outside():
    land = make_land(47, 59, LandKnobs(), np.random.default_rng(5))
    whole, inner = land.elements, land.elements[RIM:-RIM, RIM:-RIM]
    assert set(np.unique(land.labels)) <= {0, *IDS, 19}
    assert 19 in land.labels
    for parcel in range(1, land.parcels.max() + 1):
        (element,) = np.unique(inner[land.parcels == parcel])
        mostly_outside = 2 * (inner == element).sum() < (whole == element).sum()
        expected = 19 if mostly_outside else KINDS[land.kinds[element]].crop
        assert set(land.labels[land.parcels == parcel]) == {expected}
    assert (land.labels[land.parcels == 0] == 0).all()


def test_every_fold_has_every_crop_and_windows_differ():
    plan, counts = Plan(), np.zeros((5, 20), int)
    for number, fold, *_ in patch_places(plan):
        land = make_land(plan.size, plan.size, plan.difficulty.land, stream(patch_seed(plan, number), 0))
        for row in range(0, 97, 24):
            for column in range(0, 97, 24):
                present = np.bincount(land.labels[row : row + 24, column : column + 24].ravel(), minlength=20) >= 6
                counts[fold - 1] += present
    assert (counts[:, list(IDS)] >= 10).all()
    assert (counts[:, list(IDS)] <= 80).all()  # of 125: no crop is everywhere
    assert 2.0 <= counts[:, list(IDS)].sum() / 625 <= 3.0
