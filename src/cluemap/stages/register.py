"""The work of stage register: the weak segmenter, the best baseline, or the parcel network, into the model registry;
who is champion.

Decided by its score on the validation fold alone. The file of the network is made once per model: a version whose
model folder has the same hash is found again, however often the stage runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluemap.errors import TrackingError
from cluemap.params import Params, RegistryParams
from cluemap.paths import stage_folder
from cluemap.tracking import made_by, open_store
from cluemap.tracking.provenance import path_hash
from cluemap.tracking.store import store_location
from cluemap.tracking.store.model_registry import CHALLENGER, CHAMPION, DIGEST, Registry, Version

DECIDED = "decided"  # tag of a version: what the rule said when it was new


def model_name(dataset: str, stage: str = "train_segmenter") -> str:
    """Parcel networks have a name of their own: they are not compared with segmenters."""
    return f"cluemap-{dataset}-{'parcels' if stage == 'train_parcels' else 'segmenter'}"


def register(params: Params, out: Path, stage: str = "train_segmenter") -> tuple[int, str]:
    """Register what `stage` of this pipeline trained (train_segmenter, train_baselines, train_parcels), if it is not
    yet; gives its version and a line that says what became of it.

    Raises:
        TrackingError: the store does not answer, or does not have the run of these results.
        DataError, CheckpointError: the segmenter or its scores are missing or damaged.
    """
    name, digest = model_name(params.dataset, stage), path_hash(stage_folder(params.dataset, stage, out) / "model")
    store = open_store()
    registry = Registry(store)
    with store_location.first_use(600.0, "mlflow.db.registry.lock"):  # two pipelines may end at once
        found = next((one for one in registry.versions(name) if one.tags.get(DIGEST) == digest), None)
        new = found or _publish(registry, name, digest, _run_of_results(store, params, out, stage), params, out, stage)
        if DECIDED not in new.tags:
            said = decide(registry, name, new, params.registry)
            registry.tag(name, new.number, {DECIDED: said})
            return new.number, f"version {new.number} of {name}: {said}"
    held = f", the {' and '.join(new.aliases)}" if new.aliases else ""
    return new.number, f"version {new.number} of {name}{held} (registered before)"


def decide(registry: Registry, name: str, new: Version, rule: RegistryParams) -> str:
    """Give the new version its alias: the winner is the champion, the loser the challenger; says why."""
    champion = registry.holder(name, CHAMPION)
    if champion is None:
        registry.set_alias(name, CHAMPION, new.number)
        return "the first, so the champion"
    won, why = beats(new.tags, champion.tags, rule)
    if won:
        registry.set_alias(name, CHAMPION, new.number)
        registry.set_alias(name, CHALLENGER, champion.number)
        return f"the new champion: {why}"
    registry.set_alias(name, CHALLENGER, new.number)
    return f"challenger of version {champion.number}: {why}"


def beats(new: Mapping[str, str], champion: Mapping[str, str], rule: RegistryParams) -> tuple[bool, str]:
    """Whether the new version wins, from both versions' tags, and why. Only scores on the same windows compare."""
    if new["windows"] != champion.get("windows"):
        return False, "they were scored on different windows; to choose by hand: --promote"
    key = f"validation.{rule.metric}"
    mine, its = float(new[key]), float(champion[key])
    gain = f"validation {rule.metric} {mine:.4f} against {its:.4f}"
    if mine - its > 0 and mine - its >= rule.minimal_gain:
        return True, gain
    return False, f"{gain}, a gain of {rule.minimal_gain} is asked for"


def promote(dataset: str, version: int, stage: str = "train_segmenter") -> str:
    """Make a version the champion by hand; the one before becomes the challenger.

    Raises:
        TrackingError: no such version, or the store does not answer.
    """
    name, registry = model_name(dataset, stage), Registry(open_store())
    before = registry.holder(name, CHAMPION)
    registry.set_alias(name, CHAMPION, version)
    if before and before.number != version:
        registry.set_alias(name, CHALLENGER, before.number)
        if CHALLENGER in next(one.aliases for one in registry.versions(name) if one.number == version):
            registry.remove_alias(name, CHALLENGER)
    return f"version {version} of {name} is the champion"


def _run_of_results(store: Any, params: Params, out: Path, stage: str) -> str:
    """The id of the run of `evaluate`: the row that people compare leads to its model. Parcels are scored where they
    are trained on, so theirs is the training's.
    """
    scored = stage if stage == "train_parcels" else "evaluate"
    made = made_by(stage_folder(params.dataset, scored, out))
    found = store.find(made.removeprefix("key:")) if made and made.startswith("key:") else None
    run_id = found.id if found else made
    if not run_id or run_id.startswith("key:") or not store.has(run_id):
        raise TrackingError(
            f"{store.name} does not have the run of these results ({made}): `python src/resend.py` sends what waits, "
            f"`dvc repro -f -s {scored}@<data set>` makes a new one"
        )
    return run_id


def _publish(*order: Any) -> Version:
    from cluemap.stages.publication import publish  # torch: seconds, spared where nothing is new

    return publish(*order)
