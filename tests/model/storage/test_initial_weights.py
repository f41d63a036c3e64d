"""A segmenter that starts from another: what it takes, what stays its own, what is refused."""

import pytest
import torch
from builders import BANDS, write_prepared

from cluemap.data.windows import Windows
from cluemap.errors import CheckpointError
from cluemap.model.storage import checkpoints
from cluemap.model.storage.initial_weights import digest_of, model_file, take_over
from cluemap.model.storage.trained_models import SEGMENTER, about
from cluemap.params import load_params
from cluemap.training.segmenter_task import new_segmenter


@pytest.fixture(scope="module")
def params():
    params = load_params("demo")
    return params.model_copy(update={"segmenter": params.segmenter.model_copy(update={"whitening": 0.0})})


def windows_of(folder, classes, bands=5):
    return Windows.open(write_prepared(folder / "windows", classes=classes, size=11, bands=bands))


@pytest.fixture
def trained(tmp_path, params):
    """A stage's folder with a segmenter of four classes."""
    windows = windows_of(tmp_path / "other", 4)
    network = new_segmenter(windows, params.model_copy(update={"seed": 7}))
    weights = {f"network/{name}": value for name, value in network.state_dict().items()}
    checkpoints.save(tmp_path / "stage" / "model" / SEGMENTER, weights, about("segmenter", windows, params))
    return tmp_path / "stage", network


def test_all_but_the_head_is_taken_over(trained, tmp_path, params):
    folder, other = trained
    windows = windows_of(tmp_path / "mine", 2)
    plain = new_segmenter(windows, params)
    segmenter = params.segmenter.model_copy(update={"init": str(folder)})
    found = new_segmenter(windows, params.model_copy(update={"segmenter": segmenter})).state_dict()
    for name, value in other.state_dict().items():
        if value.shape == plain.state_dict()[name].shape:
            assert torch.equal(found[name], value), name
        else:
            assert torch.equal(found[name], plain.state_dict()[name]), name
    rest = take_over(plain, str(folder), windows.card.legend.bands)
    assert 1 <= len(rest) <= 2  # the head's weight and bias
    assert all(other.state_dict()[name].shape != found[name].shape for name in rest)


def test_the_digest_is_of_the_weights(trained):
    folder, _ = trained
    before = digest_of(str(folder))
    file = model_file(str(folder))
    checkpoints.save(file, {"network/x": torch.ones(2)}, checkpoints.load(file).about)
    assert digest_of(str(folder)) != before


def test_what_is_refused(trained, tmp_path, params):
    folder, _ = trained
    windows = windows_of(tmp_path / "mine", 2)
    network = new_segmenter(windows, params)
    with pytest.raises(CheckpointError, match=r"was trained on bands .*, these windows have "):
        take_over(network, str(folder), tuple(BANDS[:4]))
    with pytest.raises(CheckpointError, match="is missing"):
        take_over(network, "nowhere.safetensors", tuple(BANDS[:5]))
    with pytest.raises(CheckpointError, match="cannot be read"):
        digest_of("nowhere.safetensors")
    file = model_file(str(folder))
    for kind, text in (("classifier", "is no network that segments"), ("segmenter", "has no tensor of this network")):
        checkpoints.save(file, {"network/x": torch.ones(2)}, {**about("segmenter", windows, params), "kind": kind})
        with pytest.raises(CheckpointError, match=text):
            take_over(network, str(folder), windows.card.legend.bands)
