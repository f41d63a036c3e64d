"""A team: two clones of one project, DVC remotes (a folder, a bucket), one MLflow server on PostgreSQL and a bucket."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import rasterio
from dvc_projects import commit, dvc, git, make_project, ran, script
from servers import KEYS, bucket, mlflow_server, postgresql

pytestmark = pytest.mark.slow
MODEL = "cluemap-tiny-segmenter"
WEIGHTS = Path("out/tiny/train_segmenter/model/segmenter.safetensors")
ALWAYS = {"list_files", "register"}  # stages that run at every `dvc repro`
POOR = {  # masks of background alone
    "masks": {"threshold": 0.99},
    "segmenter": {"kind": "ltae", "steps": 40, "validate_every": 40, "learning_rate": 0.01},
}
BETTER = "++tiny.masks.threshold=0.0"  # with one crop a window, its mask is then its image label


def crop_a_window(generator: np.random.Generator, size: int, classes: Sequence[int]) -> np.ndarray:
    """h w: every window of 14 px is one field."""
    return np.kron(generator.choice(classes, (size // 14, size // 14)), np.ones((14, 14), int))


@dataclass
class Team:
    """What two people share: git's server, the folder and the bucket of DVC's remotes, MLflow's server."""

    folder: Path
    environment: dict[str, str]

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.environment["MLFLOW_TRACKING_URI"])

    def dvc(self, clone: Path, *arguments: str) -> str:
        return dvc(clone, *arguments, **self.environment)

    def runs(self) -> set[str]:
        """Ids of all runs on the server."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return {run.info.run_id for run in self.client.search_runs(experiments, max_results=1000)}

    def champion(self) -> int:
        return int(self.client.get_model_version_by_alias(MODEL, "champion").version)


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    git(tmp_path, "init", "-q", "--bare", "git-server")
    served = tmp_path / "mlflow-server"
    served.mkdir()
    with ExitStack() as stack:
        base, store = stack.enter_context(postgresql()), stack.enter_context(bucket("team"))
        places = ("--backend-store-uri", base, "--artifacts-destination", "s3://team/mlflow")
        keys = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": store}
        address = stack.enter_context(mlflow_server(served, "server", *places, **keys))
        yield Team(tmp_path, {**KEYS, "MLFLOW_TRACKING_URI": address, "STORE": store})


def first_clone(team: Team) -> Path:
    """Anna's project, with both remotes in its committed settings, and on the server of git."""
    anna = make_project(team.folder / "anna", POOR, drawn=crop_a_window)
    dvc(anna, "remote", "add", "--default", "folder", str(team.folder / "remote"))
    dvc(anna, "remote", "add", "bucket", "s3://team/dvc")
    dvc(anna, "remote", "modify", "bucket", "endpointurl", team.environment["STORE"])
    git(anna, "remote", "add", "origin", str(team.folder / "git-server"))
    return anna


def test_two_clones_share_data_runs_and_models(team):
    anna, ben = first_clone(team), team.folder / "ben"
    assert {"train_classifier", "evaluate", "register"} < ran(team.dvc(anna, "repro"))
    commit(anna, "trained")
    team.dvc(anna, "push")
    git(anna, "push", "-q", "origin", "HEAD:main")
    assert team.champion() == 1

    git(team.folder, "clone", "-q", "--branch", "main", str(team.folder / "git-server"), str(ben))
    team.dvc(ben, "pull")
    assert (ben / WEIGHTS).read_bytes() == (anna / WEIGHTS).read_bytes()
    before, result = team.runs(), json.loads((ben / "out/tiny/evaluate/run.json").read_text())["run_id"]
    assert result in before  # Anna's run, under the id that her outputs name
    assert result in script(ben, "lineage", "out/tiny/evaluate", **team.environment)
    said = team.dvc(ben, "repro")
    assert ran(said) == ALWAYS
    assert "(registered before)" in said
    assert team.runs() == before

    said = team.dvc(ben, "exp", "run", "-S", BETTER)
    assert "train_segmenter" in ran(said)
    assert not ran(said) & {"prepare", "train_classifier", "make_cams", "train_reference"}
    assert team.champion() == 2, said
    commit(ben, "better")
    team.dvc(ben, "push", "--remote", "bucket")
    git(ben, "push", "-q", "origin", "HEAD:main")

    options = ("--scene", "data/tiny", "--patch", "10001", "--out", "map.tif")
    script(anna, "predict", "--model", f"models:/{MODEL}@champion", *options, **team.environment)
    (fetched,) = (anna / "out" / ".registered").rglob("*.safetensors")
    assert fetched.read_bytes() == (ben / WEIGHTS).read_bytes() != (anna / WEIGHTS).read_bytes()
    with rasterio.open(anna / "map.tif") as made:
        assert (made.width, made.height) == (28, 28)

    git(anna, "pull", "-q", "--rebase", "origin", "main")
    team.dvc(anna, "pull", "--remote", "bucket")
    assert (anna / WEIGHTS).read_bytes() == (ben / WEIGHTS).read_bytes()
    now = team.runs()
    assert ran(team.dvc(anna, "repro")) == ALWAYS
    assert team.runs() == now
