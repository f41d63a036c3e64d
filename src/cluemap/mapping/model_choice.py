"""Which trained segmenter `--model` means."""

from pathlib import Path
from typing import TYPE_CHECKING

from cluemap.errors import CheckpointError, DataError
from cluemap.files import read_json
from cluemap.model.storage.parcel_models import FILE as PARCELS
from cluemap.model.storage.trained_models import SEGMENTER
from cluemap.paths import OUT
from cluemap.tracking import open_store

if TYPE_CHECKING:
    from cluemap.tracking.store.model_registry import FileGone, Registry

NAMES = (SEGMENTER, PARCELS)
REGISTRY = "models:/"  # models:/cluemap-demo-segmenter@champion
BASELINES = "train_baselines"
REGISTERED = ".registered"  # folder under out/: what was fetched from the registry


def find_model(name: str, out: Path = OUT) -> Path:
    """A checkpoint's file, from its path, a stage's folder (out/demo/train_segmenter), the id of the run that trained
    it (looked up in the run.json files under out/), or a registered model's alias (its file is fetched from the store).

    Raises:
        CheckpointError: none of these. TrackingError: the registry has no such model or alias, or does not answer.
    """
    if name.startswith(REGISTRY):
        return _registered(name, out)
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        found = [file for place in (path, path / "model") for name in NAMES if (file := place / name).exists()]
        if not found:
            raise CheckpointError(
                f"{path} holds no {' or '.join(NAMES)}: give the folder of train_segmenter, train_reference, "
                "train_baselines or train_parcels"
            )
        return found[0]
    stage = _stage_of_run(name, out)
    if stage is None:
        raise CheckpointError(
            f"--model {name!r} is no file, no folder, and no run whose outputs lie under {out}: give "
            "out/<data set>/train_segmenter (or train_baselines), a .safetensors file, the id in a run.json there, or "
            "models:/<name>@<alias>"
        )
    return find_model(str(stage), out)


def _registered(address: str, out: Path) -> Path:
    """The file that the registry itself holds; for a segmenter without one, that of its run's outputs."""
    name, _, alias = address.removeprefix(REGISTRY).partition("@")
    if not name or not alias:
        raise CheckpointError(f"--model {address}: give a registered model as models:/<name>@<alias>")
    from cluemap.tracking.store.model_registry import FileGone, Registry  # mlflow: seconds, spared for a path

    store = open_store()
    registry = Registry(store)
    try:
        file = PARCELS if name.endswith("-parcels") else SEGMENTER
        return registry.fetch(name, alias, file, out / REGISTERED / name)
    except FileGone as error:
        _no_baseline(registry, name, alias, error)
        run = store.run_of_model(name, alias)
        stage = _stage_of_run(run, out)
        if stage is None:
            raise CheckpointError(
                f"{address}: {error}, and the outputs of run {run}, which made it, do not lie under {out}: bring them "
                "back (git checkout its commit, then `dvc checkout`), or give another model"
            ) from None
        return find_model(str(stage), out)


def _no_baseline(registry: "Registry", name: str, alias: str, error: "FileGone") -> None:
    """Raises CheckpointError: the version is a baseline, whose run (of `evaluate`) leads to the segmenter instead."""
    version = registry.holder(name, alias)
    if version is not None and version.tags.get("stage") == BASELINES:
        raise CheckpointError(
            f"{REGISTRY}{name}@{alias} is a baseline, and {error}: give its outputs (--model out/<data set>/"
            f"{BASELINES}), or delete version {version.number} in MLflow and run `python src/register.py --dataset "
            f"<data set> --stage {BASELINES}`"
        ) from None


def _stage_of_run(run: str, out: Path) -> Path | None:
    for file in sorted(out.rglob("run.json")):
        try:
            content = read_json(file)
        except DataError:
            continue
        if isinstance(content, dict) and content.get("run_id") == run:
            upstream = file.parent.parent / "train_segmenter"  # a results run means its segmenter
            return upstream if file.parent.name == "evaluate" else file.parent
    return None
