"""The model registry: versions of a data set's segmenter or parcel network, and which of them is the champion."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from cluemap.errors import TrackingError
from cluemap.tracking.store.mlflow_errors import explained
from cluemap.tracking.store.mlflow_store import Store

CODE = {  # kind of model -> the code that is copied into it
    kind: Path(__file__).with_name(f"{module}.py")
    for kind, module in (("segmenter", "registered_model"), ("parcels", "registered_parcels"))
}
CHAMPION, CHALLENGER = "champion", "challenger"
DIGEST = "digest"  # tag of a version: DVC's hash of the model folder that it was made from


class FileGone(TrackingError):
    """A registered version lacks a file: it was made by an earlier release, or its artifacts were removed."""


@dataclass(frozen=True)
class Version:
    """One registered version of a model."""

    number: int
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Packing:
    """What goes into a registered model beside its code."""

    kind: str  # segmenter | parcels
    network: Path  # torch.export archive
    checkpoint: Path  # the same network as this project loads it, for maps of whole scenes
    inputs: Mapping[str, tuple[NDArray, int]]  # name -> an example, and how many of its first axes have any length
    output: tuple[str, tuple[int, ...]]  # type and shape, -1 = any length
    metadata: Mapping[str, Any]  # classes, bands, window
    requirements: list[str]


class Registry:
    """The registry of an open run store."""

    def __init__(self, store: Store):
        self._store, self._client = store, store.client

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first; none when there is no such model."""
        with explained(self._store.name):
            if not self._client.search_registered_models(f"name = '{name}'"):
                return []
            found = self._client.search_model_versions(f"name = '{name}'")
            aliases = self._client.get_registered_model(name).aliases
        return sorted((_version(one, aliases) for one in found), key=lambda one: -one.number)

    def holder(self, name: str, alias: str) -> Version | None:
        """The version that has an alias."""
        return next((version for version in self.versions(name) if alias in version.aliases), None)

    def fetch(self, name: str, alias: str, file: str, folder: Path) -> Path:
        """Copy one file of the version that has an alias from the registry into `folder`.

        Raises:
            TrackingError: no such model or alias, or the version lacks the file.
        """
        with explained(self._store.name):
            version = self._client.get_model_version_by_alias(name, alias)
        try:
            with explained(self._store.name):
                address = f"{version.source}/artifacts/{file}"
                found = mlflow.artifacts.download_artifacts(
                    artifact_uri=address, dst_path=str(folder), tracking_uri=self._client.tracking_uri
                )
        except TrackingError as error:
            raise FileGone(f"version {version.version} of {name} holds no {file} ({error})") from None
        return Path(found)

    def publish(self, name: str, run_id: str, packing: Packing, tags: Mapping[str, Any]) -> Version:
        """Make a model of a run and a new version in the registry of it.

        Raises:
            TrackingError: the store failed; a version is there with its whole model, or not at all.
        """
        with explained(self._store.name), TemporaryDirectory() as folder:
            run = self._client.get_run(run_id)
            model = self._client.create_logged_model(
                run.info.experiment_id, packing.kind, run_id, model_type=packing.kind
            )
            pack(packing, Path(folder) / "model", model, run_id)
            self._client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            texts = {key: str(value) for key, value in tags.items()}
            source = model.artifact_location  # `models:/<id>` would be looked for in MLflow's default store
            made = self._client.create_model_version(name, source, run_id, texts, model_id=model.model_id)
            listed = json.dumps([{"name": name, "version": int(made.version)}])
            self._client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": listed})
        return Version(int(made.version), run_id, texts, ())

    def tag(self, name: str, version: int, tags: Mapping[str, Any]) -> None:
        with explained(self._store.name):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, str(value))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Give a version an alias, which its holder loses.

        Raises:
            TrackingError: there is no such version.
        """
        numbers = [known.number for known in self.versions(name)]
        if version not in numbers:
            raise TrackingError(f"{name} has no version {version}; it has {sorted(numbers)}")
        with explained(self._store.name):
            self._client.set_registered_model_alias(name, alias, str(version))

    def remove_alias(self, name: str, alias: str) -> None:
        """Take an alias from whichever version has it."""
        with explained(self._store.name):
            self._client.delete_registered_model_alias(name, alias)


def pack(packing: Packing, folder: Path, model: Any, run_id: str) -> None:
    """Write the model as MLflow keeps it: code, network, signature, an example of its input. No pickle."""
    inputs: list[Any] = [
        TensorSpec(given.dtype, (*[-1] * free, *given.shape[free:]), name)
        for name, (given, free) in packing.inputs.items()
    ]
    outputs: list[Any] = [TensorSpec(np.dtype(packing.output[0]), packing.output[1])]
    places = {"artifact_path": model.artifact_location, "model_uuid": model.model_id, "model_id": model.model_id}
    about = Model(**places, run_id=run_id, metadata=dict(packing.metadata))
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(CODE[packing.kind]),
        artifacts={"network": str(packing.network), "checkpoint": str(packing.checkpoint)},
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example={name: given for name, (given, _) in packing.inputs.items()},
        pip_requirements=packing.requirements,
        mlflow_model=about,
    )


def _version(found: Any, aliases: Mapping[str, Any]) -> Version:
    mine = tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(found.version)))
    return Version(int(found.version), found.run_id or "", dict(found.tags), mine)
