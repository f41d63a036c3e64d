"""A new segmenter that starts from one trained elsewhere: other classes, dates and places, the same bands."""

import logging
from hashlib import blake2b
from pathlib import Path

from torch import nn

from cluemap.errors import CheckpointError
from cluemap.model.storage import checkpoints
from cluemap.model.storage.trained_models import PIXELS, SEGMENTER
from cluemap.paths import ROOT

NONE = "none"  # `segmenter.init` of a training from random weights
log = logging.getLogger(__name__)


def model_file(init: str) -> Path:
    """The file that `segmenter.init` names: itself, or that of a stage's folder; relative to the project's root."""
    path = ROOT / init
    return next((file for file in (path / SEGMENTER, path / "model" / SEGMENTER) if file.exists()), path)


def digest_of(init: str) -> str:
    """Of the file's content: a training is not gone on with from other first weights."""
    try:
        return blake2b(model_file(init).read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise CheckpointError(f"segmenter.init {init!r} cannot be read ({error}): give a trained segmenter") from None


def take_over(network: nn.Module, init: str, bands: tuple[str, ...]) -> list[str]:
    """Give `network` every tensor of the trained segmenter that has its name and shape; the rest stays random (where
    classes differ, the head). Returns the names of that rest.

    Raises:
        CheckpointError: no such file, no network, other bands, or nothing that fits.
    """
    file = model_file(init)
    found = checkpoints.load(file)
    if found.about.get("kind") != "segmenter" or found.about["network"].get("kind") == PIXELS:
        raise CheckpointError(f"segmenter.init {init!r} is no network that segments: give one of train_segmenter")
    theirs = tuple(found.about["legend"]["bands"])
    if theirs != bands:
        raise CheckpointError(
            f"segmenter.init {init!r} was trained on bands {' '.join(theirs)}, these windows have {' '.join(bands)}"
        )
    own, weights = network.state_dict(), checkpoints.split(found.tensors, "network/")
    fitting = {name: weight for name, weight in weights.items() if name in own and own[name].shape == weight.shape}
    if not fitting:
        raise CheckpointError(f"segmenter.init {init!r} has no tensor of this network's sizes: give one of its kind")
    network.load_state_dict(fitting, strict=False)
    rest = sorted(set(own) - set(fitting))
    log.info("starting from %s: %d of %d tensors, new are %s", file, len(fitting), len(own), ", ".join(rest) or "none")
    return rest
