"""The demo data set on disk."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import make_data
from cluemap.data.formats.pastis import open_pastis
from cluemap.data.synthetic import Plan, make_demo
from cluemap.data.synthetic.demo_pastis import CARD, digest
from cluemap.errors import DataError

IDS = (1, 2, 3, 4, 5, 7, 9, 13)
SMALL = Plan(seed=3, patches=1, size=32, least_dates=4, most_dates=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder, SMALL)
    return folder


def test_the_layout_is_the_published_one(made: Path):
    metadata = json.loads((made / "metadata.geojson").read_text())
    assert list(metadata) == ["type", "features", "crs"]
    assert sorted(feature["properties"]["Fold"] for feature in metadata["features"]) == [1, 2, 3, 4, 5]
    for feature in metadata["features"]:
        properties = feature["properties"]
        number, dates = properties["ID_PATCH"], list(properties["dates-S2"].values())
        images = np.load(made / f"DATA_S2/S2_{number}.npy")
        target = np.load(made / f"ANNOTATIONS/TARGET_{number}.npy")
        parcels = np.load(made / f"ANNOTATIONS/ParcelIDs_{number}.npy")
        assert (images.dtype, images.shape) == (np.int16, (len(dates), 10, 32, 32))
        assert (target.dtype, target.shape) == (np.uint8, (3, 32, 32))
        assert (parcels.dtype, parcels.shape) == (np.int32, (32, 32))
        assert dates == sorted(set(dates))
        assert properties["N_Parcel"] == len(np.unique(parcels[parcels > 0]))
        assert properties["Parcel_Cover"] == pytest.approx((parcels > 0).mean())


def test_statistics_are_means_over_patches(made: Path):
    published = json.loads((made / "NORM_S2_patch.json").read_text())
    for feature in json.loads((made / "metadata.geojson").read_text())["features"]:
        images = np.load(made / f"DATA_S2/S2_{feature['properties']['ID_PATCH']}.npy").astype(float)
        fold = published[f"Fold_{feature['properties']['Fold']}"]  # one patch a fold here
        np.testing.assert_allclose(fold["mean"], images.mean(axis=(0, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(fold["std"], images.std(axis=(0, 2, 3)), atol=1e-5)


def test_the_projects_reader_takes_it(made: Path):
    reader = open_pastis(made, list(IDS), "demo")
    patches = [reader.read(index) for index in range(len(reader))]
    assert sorted(patch.fold for patch in patches) == [1, 2, 3, 4, 5]
    assert [patch.pixel for patch in patches] == pytest.approx([10.0] * 5, abs=1e-3)
    assert {patch.crs for patch in patches} == {"EPSG:32630", "EPSG:32631", "EPSG:32632"}
    assert patches[0].corner == pytest.approx((640000.0, 5450000.0), abs=0.01)
    assert len({(patch.crs, patch.corner) for patch in patches}) == 5


def test_it_is_made_once_and_again_when_damaged(made: Path, tmp_path: Path):
    before = digest(made)
    assert "nothing to do" in make_demo(made, SMALL)
    victim = made / "ANNOTATIONS" / "TARGET_10000.npy"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert digest(made) != before
    assert "5 patches" in make_demo(made, SMALL)
    assert digest(made) == before
    other = tmp_path / "demo"
    make_demo(other, replace(SMALL, seed=4))
    assert digest(other) != before


@pytest.mark.slow
def test_the_bits_depend_neither_on_processes_nor_on_the_processor(made: Path, tmp_path: Path):
    make_demo(tmp_path / "two", SMALL, processes=2)
    assert digest(tmp_path / "two") == digest(made)
    code = (
        "from pathlib import Path; from cluemap.data.synthetic import Plan, make_demo; import sys\n"
        f"make_demo(Path(sys.argv[1]), Plan(seed={SMALL.seed}, patches=1, size=32, least_dates=4, most_dates=6))"
    )
    plain = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL", "OPENBLAS_CORETYPE": "Nehalem"}
    environment = {**os.environ, **plain, "PYTHONPATH": str(Path(make_data.__file__).parent)}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "plain")]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert digest(tmp_path / "plain") == digest(made)


def test_a_folder_that_is_not_the_generators_is_left_alone(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"mine is not the demo generator's work.*--out"):
        make_demo(mine, SMALL)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_failure_in_the_middle_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluemap.data.synthetic.demo_pastis.np.save", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_demo(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_script_refuses_a_negative_seed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--out", str(tmp_path / "demo"), "--seed", "-1"])
    with pytest.raises(SystemExit, match="seed is -1: give 0"):
        make_data.main()
    assert not (tmp_path / "demo" / CARD).exists()


@pytest.mark.slow
def test_it_is_neither_trivial_nor_hopeless(tmp_path: Path):
    make_demo(tmp_path / "demo", Plan(patches=3), processes=2)
    file = Path(make_data.__file__).parents[1] / "bench" / "demo_baselines.py"
    spec = importlib.util.spec_from_file_location("demo_baselines", file)
    baselines = importlib.util.module_from_spec(spec)
    sys.modules["demo_baselines"] = baselines
    spec.loader.exec_module(baselines)
    train, test = baselines.read(tmp_path / "demo", (1, 2, 3)), baselines.read(tmp_path / "demo", (5,))
    chosen = np.random.default_rng(0).permutation(len(train.labels))[:12000]
    train = baselines.Pixels(train.features[chosen], train.labels[chosen])
    majority = np.mean(baselines.ious(test.labels, np.zeros_like(test.labels)))
    single = max(np.mean(baselines.score(train, test, [row])) for row in (12, 14, 18, 20))
    series = np.mean(baselines.score(train, test, list(range(0, len(baselines.DAYS), 2))))
    assert majority < 0.1
    assert 0.2 < single < 0.5
    assert single + 0.25 < series < 0.95
