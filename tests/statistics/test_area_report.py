"""Areas from a map and a labelled sample: against the truth, and every way in which a sample is not what it claims."""

import json
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from class_maps import NAMES, PIXEL, VOID, blocks, confused, write_map
from locations import PROJECT

import estimate_area as script
from cluemap.errors import DataError
from cluemap.mapping.postprocessing.class_map import open_map
from cluemap.statistics.area_report import AreaOrder, estimate_areas
from cluemap.statistics.sample_drawing import draw_sample, write_sample

sys.path.insert(0, str(PROJECT / "bench"))
import area_coverage

TRUTH = blocks(300, 200, seed=4)
TRUTH[:50, :50] = VOID
MAP = confused(TRUTH, 0.3)


def labelled(source, size=300, seed=0):
    """A sample with the truth as its labels."""
    sample = draw_sample(source, size, minimum=30, seed=seed)
    rows, columns = source.pixels(sample.geometry.x.to_numpy(), sample.geometry.y.to_numpy())
    sample["reference"] = [NAMES[number] for number in TRUTH[rows, columns]]
    return sample


@pytest.fixture
def source(tmp_path):
    return open_map(write_map(tmp_path / "map.tif", MAP))


@pytest.fixture
def sample(source):
    return labelled(source)


def order_of(sample, source, tmp_path, ending=".gpkg", **options):
    path = tmp_path / f"sample{ending}"
    if ending == ".csv":
        pd.DataFrame(sample.drop(columns="geometry", errors="ignore")).to_csv(path, index=False)
    else:
        path.unlink(missing_ok=True)
        sample.to_file(path)
    return AreaOrder(source.file, path, **options)


@pytest.mark.parametrize("ending", [".gpkg", ".csv", ".geojson"])
def test_areas_are_those_of_the_truth_and_not_of_the_map(sample, source, tmp_path, ending):
    report = estimate_areas(order_of(sample, source, tmp_path, ending))
    true = np.array([(number == TRUTH).sum() for number in NAMES]) * PIXEL**2 / 10_000
    mapped = np.array([(number == MAP).sum() for number in NAMES]) * PIXEL**2 / 10_000
    table = report.table
    assert table["class"].tolist() == list(NAMES.values())
    np.testing.assert_allclose(table["mapped_ha"], mapped)
    assert ((table["area_low_ha"] < true) & (true < table["area_high_ha"])).all()
    assert not (table["area_low_ha"] < mapped)[0] or not (mapped < table["area_high_ha"])[0]
    assert table["area_ha"].sum() == pytest.approx(report.hectares, abs=0.03)
    assert report.design.probability
    truly_right = (MAP == TRUTH)[TRUTH != VOID].mean()
    assert abs(report.estimates.overall.value - truly_right) < report.estimates.overall.margin


def test_strata_of_an_older_map(sample, source, tmp_path):
    """The sample of one map tells of another one too; what that did not see is wrong there, not lost."""
    rows, columns = source.pixels(sample.geometry.x[:3].to_numpy(), sample.geometry.y[:3].to_numpy())
    better = TRUTH.copy()
    better[rows, columns] = VOID
    newer = open_map(write_map(tmp_path / "newer.tif", better))
    report = estimate_areas(order_of(sample, newer, tmp_path))
    old = estimate_areas(order_of(sample, source, tmp_path))
    np.testing.assert_allclose(report.table["area_ha"][:3], old.table["area_ha"])  # strata and reference are the same
    assert report.estimates.overall.value > 0.97 > old.estimates.overall.value
    assert report.table["class"].tolist()[3:] == ["no data"]


def without(sample, which):
    return sample[~which].reset_index(drop=True)


def beside(unit):
    return unit.assign(id=999, geometry=unit.geometry.translate(-10, 0))


FRAUDS = {
    "columns": (lambda s: s.drop(columns="stratum_drawn"), "nothing says that it is a probability sample.*--random"),
    "left out": (lambda s: without(s, s["id"] == 7), r"stratum \d \(.*\) has \d+ units, \d+ were drawn"),
    "added": (
        lambda s: pd.concat([s, beside(s.iloc[[0]])]).drop(columns=["lon", "lat"]),
        r"stratum \d \(.*\) has \d+ units, \d+ were drawn",
    ),
    "doubled": (lambda s: pd.concat([s, s.iloc[[0]]]), "2 of 301 units .* lie in the same pixel"),
    "moved": (
        lambda s: s.set_geometry(s.geometry.where(s["id"] != 5, s.geometry.translate(12, 0))),
        r"1 of 300 units \(5\) were moved",
    ),
    "blank": (lambda s: s.assign(reference=s["reference"].where(s["id"] > 2)), r"2 of 300 units \(.*\) have no refer"),
    "a stratum gone": (lambda s: without(s, s["stratum"] == 3), "has no unit of 'winter rape', of which"),
    "contradiction": (
        lambda s: s.assign(stratum_pixels=s["stratum_pixels"].where(s["id"] != 9, 10**6)),
        "contradict each other",
    ),
    "another region": (
        lambda s: s.assign(stratum_pixels=s["stratum_pixels"] * 2), "hold 115000 pixels, .* has 57500"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fraud", FRAUDS)
def test_what_is_no_probability_sample_is_refused(sample, source, tmp_path, fraud):
    change, text = FRAUDS[fraud]
    changed = gpd.GeoDataFrame(change(sample), crs=sample.crs)
    with pytest.raises(DataError, match=text):
        estimate_areas(order_of(changed, source, tmp_path))
    if fraud not in ("a stratum gone",):
        report = estimate_areas(order_of(changed, source, tmp_path, random=False))
        assert report.design.statement.startswith("NOT A PROBABILITY SAMPLE")
        assert not report.design.probability


def test_a_sample_of_another_tool(sample, source, tmp_path):
    plain = sample[["id", "geometry", "reference"]]
    report = estimate_areas(order_of(plain, source, tmp_path, random=True))
    np.testing.assert_allclose(
        report.estimates.area.value, estimate_areas(order_of(sample, source, tmp_path)).estimates.area.value
    )
    assert report.design.statement.startswith("said to be a random sample: 300 units")
    thin = without(plain, (sample["stratum"] == 3) & (sample["id"] != sample["id"][sample["stratum"] == 3].iloc[0]))
    with pytest.raises(DataError, match=r"winter rape .* has 1 sampled unit"):
        estimate_areas(order_of(thin, source, tmp_path, random=True))


def test_labels_as_numbers_in_capitals_and_of_unmapped_classes(sample, source, tmp_path):
    numbers = {name: number for number, name in NAMES.items()}
    plain = estimate_areas(order_of(sample, source, tmp_path)).table
    written = sample.assign(reference=[numbers[name] for name in sample["reference"]])
    pd.testing.assert_frame_equal(estimate_areas(order_of(written, source, tmp_path, ".csv")).table, plain)
    capitals = sample.assign(reference=sample["reference"].str.upper())
    pd.testing.assert_frame_equal(estimate_areas(order_of(capitals, source, tmp_path)).table, plain)
    orchard = sample.assign(reference=sample["reference"].where(sample["id"] > 9, "orchard"))
    with pytest.raises(DataError, match=r"'orchard' in 'reference' is no class of .*--extra"):
        estimate_areas(order_of(orchard, source, tmp_path))
    table = estimate_areas(order_of(orchard, source, tmp_path, extra=("orchard",))).table.set_index("class")
    assert table.loc["orchard", "area_ha"] > 0
    assert table.loc["orchard", "mapped_ha"] == 0
    typo = sample.assign(reference=sample["reference"].replace("wheat", "weat"))
    with pytest.raises(DataError, match="did you mean 'wheat'"):
        estimate_areas(order_of(typo, source, tmp_path))


def test_bad_files(source, tmp_path):
    with pytest.raises(DataError, match="missing: draw a sample"):
        estimate_areas(AreaOrder(source.file, tmp_path / "none.csv"))
    with pytest.raises(DataError, match="missing: give a map"):
        estimate_areas(AreaOrder(tmp_path / "none.tif", tmp_path / "none.csv"))
    bad = tmp_path / "bad.csv"
    bad.write_text("id,reference\n1,wheat\n")
    with pytest.raises(DataError, match="neither columns lon, lat nor x, y"):
        estimate_areas(AreaOrder(source.file, bad))
    bad.write_text("lon,lat,reference\n9.1,,wheat\n9.2,52,wheat\n")
    with pytest.raises(DataError, match=r"no numbers in lines \[2\]"):
        estimate_areas(AreaOrder(source.file, bad))
    bad.write_text("lon,lat,crop\n9.1,52,wheat\n")
    with pytest.raises(DataError, match="no column 'reference': name the one"):
        estimate_areas(AreaOrder(source.file, bad))


def test_the_command(sample, source, tmp_path, monkeypatch, capsys):
    order = order_of(sample, source, tmp_path)
    command = ["estimate_area", "--map", str(source.file), "--sample", str(order.sample)]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    printed = capsys.readouterr().out
    assert "stratified random sample: 300 units in 3 strata" in printed
    assert "overall accuracy 0." in printed
    told = json.loads((tmp_path / "sample_areas.json").read_text())
    assert told["probability_sample"] is True
    table = pd.read_csv(tmp_path / "sample_areas.csv")
    assert table["area_ha"].sum() == pytest.approx(told["region_ha"], abs=0.03)
    confusion = pd.read_csv(tmp_path / "sample_areas_confusion.csv", index_col=0)
    assert confusion.to_numpy().sum() == pytest.approx(1, abs=1e-4)
    units = gpd.read_file(tmp_path / "sample_areas.gpkg", layer="units")
    wrong = units[units["right"] == 0]
    assert len(wrong) == (sample["stratum"].map(NAMES) != sample["reference"]).sum() > 0
    assert (wrong["map_class"] != wrong["reference_class"]).all()

    sample[["geometry", "reference"]].to_file(order.sample)
    assert script.main() == 2
    assert "nothing says that it is a probability sample" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*command, "--not-random"])
    assert script.main() == 0
    assert capsys.readouterr().out.count("NOT RANDOM") == 1
    assert pd.read_csv(tmp_path / "sample_areas.csv")["design"].str.startswith("NOT A PROBABILITY SAMPLE").all()
    assert (gpd.read_file(tmp_path / "sample_areas.gpkg")["design"].str.startswith("NOT A PROB")).all()


def test_a_written_sample_goes_through_qgis_and_back(source, tmp_path):
    """The file that draw_sample writes, labelled in place in its layer, as QGIS does."""
    path = tmp_path / "drawn.gpkg"
    write_sample(path, labelled(source).assign(reference=""), source)
    layer = gpd.read_file(path, layer="sample")
    layer["reference"] = labelled(source)["reference"].tolist()
    layer.to_file(path, layer="sample", driver="GPKG")
    assert estimate_areas(AreaOrder(source.file, path)).design.probability


@pytest.mark.slow
def test_intervals_hold_the_true_hectares_and_pixel_counts_do_not(tmp_path):
    """200 samples: intervals of 95 % hold in 90 % at least (the binomial spread is 1.5 %); what the map has wrong by
    more than the margin would be missed by the same margins around the count."""
    source = open_map(write_map(tmp_path / "map.tif", confused(TRUTH, 0.2)))
    found = area_coverage.simulate(source, TRUTH, 200, 300)
    table = area_coverage.coverage(source, TRUTH, found)
    assert (table["intervals that hold"] >= 0.9).all()
    assert (table["intervals that hold"] <= 0.99).all()  # nor wider than said
    assert (table["around the count"] < 0.1).sum() >= 2
