"""Which trained segmenter `--model` means."""

from pathlib import Path

from cluemap.errors import CheckpointError, DataError
from cluemap.files import read_json
from cluemap.paths import OUT
from cluemap.training.models import SEGMENTER


def find_model(name: str, out: Path = OUT) -> Path:
    """A checkpoint's file, from its path, a stage's folder (out/demo/train_segmenter), or the id of the run that
    trained it (looked up in out/*/*/run.json).

    Raises:
        CheckpointError: none of these.
    """
    if name.startswith("models:/"):
        raise CheckpointError(
            f"{name}: models of the registry cannot be opened by predict yet; give the run id, the stage's folder or "
            "the checkpoint's file (the run's page in MLflow names them)"
        )
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        found = [file for file in (path / SEGMENTER, path / "model" / SEGMENTER) if file.exists()]
        if not found:
            raise CheckpointError(f"{path} holds no {SEGMENTER}: give the folder of train_segmenter or train_reference")
        return found[0]
    stage = _stage_of_run(name, out)
    if stage is None:
        raise CheckpointError(
            f"--model {name!r} is no file, no folder, and no run whose outputs lie under {out}: give "
            "out/<data set>/train_segmenter, a .safetensors file, or the id in a run.json there"
        )
    return find_model(str(stage), out)


def _stage_of_run(run: str, out: Path) -> Path | None:
    for file in sorted(out.glob("*/*/run.json")):
        try:
            content = read_json(file)
        except DataError:
            continue
        if isinstance(content, dict) and content.get("run_id") == run:
            upstream = file.parent.parent / "train_segmenter"  # a results run means its segmenter
            return upstream if file.parent.name == "evaluate" else file.parent
    return None
