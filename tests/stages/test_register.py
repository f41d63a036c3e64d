"""The registry: one version a model, promotion by the validation fold alone, a model that stands on its own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from parcel_models import write_parcel_model
from runs import NOBODY, database, environment, journal_of, opened, root

import register
from cluemap.data.batches import load_raw, normalise, statistics
from cluemap.data.windows import Windows
from cluemap.errors import TrackingError
from cluemap.files import read_json, write_json
from cluemap.mapping.model_choice import find_model
from cluemap.model.storage import checkpoints
from cluemap.model.storage.exported_parcels import FromRawParcels
from cluemap.model.storage.parcel_models import FILE, load_parcel_model
from cluemap.model.storage.trained_models import SEGMENTER, about, load_segmenter
from cluemap.params import RegistryParams, load_params
from cluemap.stages import publication
from cluemap.stages.register import beats, model_name
from cluemap.tracking import open_store
from cluemap.training.inference import maps
from cluemap.training.segmenter_task import new_segmenter

__all__ = ["database", "root"]  # fixtures
NAME = model_name("tiny")
RULE = RegistryParams(metric="miou", minimal_gain=0.01)


def tags(miou: float, windows: str = "a", accuracy: float = 0.5) -> dict[str, str]:
    return {"windows": windows, "validation.miou": str(miou), "validation.accuracy": str(accuracy)}


@pytest.mark.parametrize(
    ("new", "champion", "won"),
    [
        (tags(0.62), tags(0.60), True),
        (tags(0.605), tags(0.60), False),  # better, but not by enough
        (tags(0.50), tags(0.60), False),
        (tags(0.90), tags(0.60, windows="b"), False),  # scored on other windows: says nothing
        (tags(0.60, accuracy=0.9), tags(0.60), False),  # another metric than the rule's
    ],
)
def test_the_rule(new, champion, won):
    assert beats(new, champion, RULE)[0] is won


def test_a_model_without_a_labelled_validation_pixel_wins_against_none_and_stops_nothing():
    """Its score is null in metrics.json."""
    scores = publication.validation_scores({"validation": {"miou": None, "accuracy": None}})
    none = {"windows": "a", **{f"validation.{name}": str(score) for name, score in scores.items()}}
    assert not beats(none, none, RULE)[0]


def test_a_rule_without_gain_wants_a_better_one_all_the_same():
    assert not beats(tags(0.6), tags(0.6), RegistryParams(metric="miou", minimal_gain=0.0))[0]
    assert beats(tags(0.6), tags(0.5, accuracy=0.6), RegistryParams(metric="miou", minimal_gain=0.0))[0]


@pytest.fixture(scope="module")
def exported():
    """torch.export takes seconds: done once for this file."""
    made = {}

    def export(file, target, real=publication.export_segmenter):
        if "file" not in made:
            made["card"], made["file"] = real(file, target), Path(target).read_bytes()
        Path(target).write_bytes(made["file"])
        return made["card"]

    return export


@pytest.fixture
def project(root, exported, monkeypatch):
    """A project whose segmenter is trained and evaluated: `made(seed, miou)` makes another result."""
    monkeypatch.setattr(publication, "export_segmenter", exported)
    tiny.make_project(root)
    out, params = root / "out", load_params("tiny", root / "params.yaml")
    windows = Windows.open(out / "tiny" / "prepare" / "windows")

    def made(seed: int, miou: float) -> None:
        torch.manual_seed(seed)
        weights = {f"network/{name}": value for name, value in new_segmenter(windows, params).state_dict().items()}
        if seed:
            weights["network/positions"] = weights["network/positions"] + seed
        folder = out / "tiny" / "train_segmenter"
        checkpoints.save(folder / "model" / SEGMENTER, weights, about("segmenter", windows, params))
        write_json(folder / "metrics.json", {"validation": {"miou": miou, "accuracy": 0.5}, "step": 3})
        for stage, experiment in (("train_segmenter", "tiny/training"), ("evaluate", "tiny/results")):
            with opened(root, experiment=experiment, name=stage) as run:
                run.write_card(out / "tiny" / stage)

    return made


def registered(root, *more) -> int:
    return register.main(
        ["--dataset", "tiny", "--params", str(root / "params.yaml"), "--out", str(root / "out"), *more]
    )


def aliases() -> dict[str, int]:
    client = open_store().client
    return {alias: int(number) for alias, number in client.get_registered_model(NAME).aliases.items()}


@pytest.mark.slow
def test_each_model_once_and_the_champion_by_validation(project, root, capsys):
    project(0, 0.60)
    assert registered(root) == 0
    said = capsys.readouterr().out
    run = read_json(root / "out/tiny/evaluate/run.json")["run_id"]
    assert f"evaluate          {read_json(root / 'out/tiny/evaluate/run.json')['started'][:10]}" in said
    assert run in said
    assert f"version 1 of {NAME}: the first, so the champion" in said
    assert aliases() == {"champion": 1}
    assert registered(root) == 0
    assert "(registered before)" in capsys.readouterr().out
    (version,) = open_store().client.search_model_versions(f"name = '{NAME}'")
    assert (version.run_id, version.tags["validation.miou"]) == (run, "0.6")
    project(1, 0.63)
    assert registered(root) == 0
    assert aliases() == {"champion": 2, "challenger": 1}
    project(2, 0.631)
    assert registered(root) == 0
    assert "a gain of 0.005 is asked for" in capsys.readouterr().out
    assert aliases() == {"champion": 2, "challenger": 3}
    assert registered(root, "--promote", "3") == 0
    assert aliases() == {"champion": 3, "challenger": 2}
    assert registered(root, "--promote", "9") == 2
    assert "has no version 9" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_deleted_in_mlflow_is_registered_again(project, root, capfd, recwarn):
    project(0, 0.6)
    assert registered(root) == 0
    heard = capfd.readouterr()
    assert heard.err == ""  # no progress bars, no escape codes
    assert not [warning for warning in recwarn if "type hints" in str(warning.message)]  # pytest keeps them from stderr
    client = open_store().client
    client.delete_model_version(NAME, "1")
    assert registered(root) == 0
    assert f"version 2 of {NAME}: the first, so the champion" in capfd.readouterr().out
    client.delete_registered_model(NAME)
    assert registered(root) == 0
    assert aliases() == {"champion": 1}


@pytest.mark.slow
def test_maps_are_made_with_the_registered_file_when_its_outputs_have_gone(project, root):
    project(0, 0.6)
    assert registered(root) == 0
    file = root / "out/tiny/train_segmenter/model" / SEGMENTER
    content = file.read_bytes()
    shutil.rmtree(root / "out" / "tiny")
    found = find_model(f"models:/{NAME}@champion", root / "out")
    assert found.read_bytes() == content
    assert load_segmenter(found)[1].legend.class_names
    with pytest.raises(TrackingError, match="challenger"):
        find_model(f"models:/{NAME}@challenger", root / "out")


@pytest.mark.slow
def test_a_store_that_is_down_stops_no_pipeline(project, root, monkeypatch, capsys):
    project(0, 0.6)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert registered(root) == 0
    heard = capsys.readouterr()
    assert "tries again" in heard.err
    assert "evaluate" in heard.out  # where the outputs came from is known without the store
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert registered(root) == 0
    assert aliases() == {"champion": 1}


@pytest.mark.slow
def test_results_whose_run_the_store_lost_are_named(project, root, monkeypatch, capsys):
    project(0, 0.6)
    run = read_json(root / "out/tiny/evaluate/run.json")["run_id"]
    open_store().client.delete_run(run)
    assert registered(root) == 0
    assert f"does not have the run of these results ({run})" in capsys.readouterr().err


ALONE = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/{name}@champion")
given = np.load("windows.npz")
np.save("maps.npy", model.predict({{"images": given["images"], "days": given["days"]}}))
assert not [name for name in sys.modules if name.startswith("cluemap")]
print(json.dumps([model.metadata.metadata, model.metadata.signature.inputs.to_dict()]))
"""


@pytest.mark.slow
def test_the_champion_predicts_alone_from_raw_windows(project, root, monkeypatch):
    monkeypatch.undo()  # the real export
    monkeypatch.setattr("cluemap.paths.ROOT", root)
    project(0, 0.6)
    assert registered(root) == 0
    windows = Windows.open(root / "out/tiny/prepare/windows")
    raw = load_raw(windows, np.arange(7))
    np.savez(root / "windows.npz", images=raw.images.numpy(), days=raw.day.numpy())
    clean = {name: value for name, value in environment(root).items() if name not in ("PYTHONPATH", "CLUEMAP_ROOT")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(name=NAME)], cwd=root, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "type hints" not in done.stderr
    network, card = load_segmenter(root / "out/tiny/train_segmenter/model" / SEGMENTER, windows)
    params = load_params("tiny", root / "params.yaml")
    wanted = maps(network, normalise(raw, *statistics(windows)), params, card.legend.background)
    found = np.load(root / "maps.npy")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, wanted.numpy())
    assert len(np.unique(found)) > 1
    assert '"1": "crop 1"' in done.stdout
    assert "int16" in done.stdout


def test_without_a_model_it_says_so(root, capsys):
    tiny.write_params(root / "params.yaml")
    assert registered(root) == 2
    assert "train_segmenter/model does not exist" in capsys.readouterr().err
    assert journal_of(root).parent.exists() is False


def test_no_version_no_alias(root):
    from cluemap.tracking.store.model_registry import Registry

    registry = Registry(open_store())
    assert registry.versions(NAME) == []
    with pytest.raises(TrackingError, match="has no version 1"):
        registry.set_alias(NAME, "champion", 1)


PARCELS_ALONE = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/{name}@champion")
np.save("shares.npy", model.predict(dict(np.load("parcels.npz"))))
assert not [name for name in sys.modules if name.startswith("cluemap")]
print(json.dumps([model.metadata.metadata, model.metadata.signature.inputs.to_dict()]))
"""


@pytest.mark.slow
def test_a_parcel_network_has_a_name_of_its_own_and_predicts(root, capsys):
    """Registered by its own training's run; what MLflow loads says what the network says; predict.py finds its file."""
    tiny.write_params(root / "params.yaml")
    folder, name = root / "out/tiny/train_parcels", model_name("tiny", "train_parcels")
    write_parcel_model(folder / "model", dataset="tiny")
    scores = {"miou": 0.7, "accuracy": 0.8}
    write_json(folder / "metrics.json", {"validation": {"pse_tae": scores, "trees": {"miou": 0.9, "accuracy": 0.9}}})
    with opened(root, experiment="tiny/training", name="train_parcels") as run:
        run.write_card(folder)
    assert registered(root, "--stage", "train_parcels") == 0
    assert f"The parcel network is version 1 of {name}: the first, so the champion" in capsys.readouterr().out
    (version,) = open_store().client.search_model_versions(f"name = '{name}'")
    assert version.run_id == read_json(folder / "run.json")["run_id"]
    assert (version.tags["validation.miou"], version.tags["windows"]) == ("0.7", "parcels x, fold 1")
    assert find_model(f"models:/{name}@champion", root / "out").read_bytes() == (folder / "model" / FILE).read_bytes()

    generator = np.random.default_rng(0)
    given = {
        "pixels": generator.integers(200, 2000, (3, 5, 7, 3)).astype(np.int16),
        "days": np.tile(np.arange(10, 80, 10), (3, 1)).astype(np.int16),
        "geometry": generator.normal(1, 1, (3, 4)).astype(np.float32),
    }
    np.savez(root / "parcels.npz", **given)
    clean = {key: value for key, value in environment(root).items() if key not in ("PYTHONPATH", "CLUEMAP_ROOT")}
    done = subprocess.run(
        [sys.executable, "-c", PARCELS_ALONE.format(name=name)], cwd=root, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    network = FromRawParcels(load_parcel_model(folder / "model" / FILE))
    with torch.no_grad():
        wanted = network(*(torch.from_numpy(given[key]) for key in ("pixels", "days", "geometry"))).numpy()
    np.testing.assert_allclose(np.load(root / "shares.npy"), wanted, atol=1e-6)
    about, inputs = json.loads(done.stdout)
    assert about["classes"] == {"1": "a", "2": "b", "3": "c", "4": "d"}
    shapes = {one["name"]: one["tensor-spec"]["shape"] for one in inputs}
    assert shapes == {"pixels": [-1, -1, -1, 3], "days": [-1, -1], "geometry": [-1, 4]}
