"""Released weights give released outputs: every array of the golden file, within 1e-4 relative."""

import golden
import pytest
import torch
from torch.nn import functional as F

from cluemap.errors import CheckpointError
from cluemap.model.method.affinity import refine
from cluemap.model.method.cams import clue_cam, min_max, raw_cam
from cluemap.model.method.clues import assign, transport
from cluemap.model.method.losses import classification_loss, tap_loss
from cluemap.model.networks.classifier import Classifier
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.model.storage import released_weights
from cluemap.params import AffinityParams, TemporalParams

AFFINITY = AffinityParams(dilation=2, rounds=3, temperature=0.3, blend=0.5)
SOFTMAX = TemporalParams(kind="softmax", sharpness=1.0)


@pytest.fixture(scope="module")
def arrays():
    return golden.arrays()


@pytest.fixture(scope="module")
def classified(arrays):
    params = golden.classifier_params(arrays)
    images = arrays["images"]
    network = Classifier(images.shape[2], int(arrays["config/classes"]), images.shape[-1], params)
    weights, clues = released_weights.classifier_from_released(golden.under(arrays, "classifier/"))
    network.load_state_dict(weights)
    valid = torch.ones(arrays["day"].shape, dtype=torch.bool)
    with torch.no_grad():
        return network(images, arrays["day"], valid), clues, valid


def agree(ours, theirs):
    scale = theirs.abs().max().clamp_min(1e-6)
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / scale).item() < 1e-4


def refined(arrays, classified, cam):
    out, _, valid = classified
    seen = out.watched
    return refine(cam, seen.sequence, seen.attention, valid, arrays["present"], AFFINITY, SOFTMAX, blend=0.5)


def test_logits(arrays, classified):
    out, _, _ = classified
    agree(out.logits, arrays["out/logits"])
    agree(out.spatial.mean(dim=(2, 3)), arrays["out/spatial_logits"])
    agree(out.temporal.mean(dim=(2, 3)), arrays["out/temporal_logits"])


def test_raw_and_refined_cam(arrays, classified):
    out, _, _ = classified
    cam = raw_cam(out.temporal, out.spatial)
    agree(cam, arrays["out/fused_cam"])
    present = arrays["present"]
    agree(refined(arrays, classified, cam)[present], arrays["out/fused_cam_refined"][present])


def test_clue_cam(arrays, classified):
    out, clues, _ = classified
    cam = clue_cam(out.watched.dense, clues, arrays["present"], out.temporal.shape[-1])
    cam = refined(arrays, classified, cam)
    agree(cam, arrays["out/clue_cam"])
    agree(min_max(cam), arrays["out/clue_cam_minmax"])


def test_losses(arrays, classified):
    out, _, _ = classified
    present = arrays["present"]
    agree(classification_loss(out.logits, present), arrays["out/loss_cls"])
    parts = [classification_loss(scores.mean(dim=(2, 3)), present) for scores in (out.temporal, out.spatial)]
    agree(sum(parts) / 2, arrays["out/loss_aux"])
    cam = raw_cam(out.temporal, out.spatial)
    agree(tap_loss(cam, refined(arrays, classified, cam), present), arrays["out/loss_tap"])


def test_transport(arrays):
    scores = arrays["sinkhorn/scores"][None]
    plan = transport(scores, torch.ones(scores.shape[:2], dtype=torch.bool), eta=0.05, rounds=3)
    agree(plan[0], arrays["sinkhorn/plan"])
    assert torch.equal(assign(plan, "argmax")[0], arrays["sinkhorn/assignment"])


def test_segmenter(arrays):
    images = arrays["images"]
    network = TsvitSegmenter(
        images.shape[2], int(arrays["config/classes"]) + 1, images.shape[-1], golden.segmenter_params(arrays)
    )
    network.load_state_dict(released_weights.segmenter_from_released(golden.under(arrays, "segmenter/")))
    valid = torch.ones(arrays["day"].shape, dtype=torch.bool)
    with torch.no_grad():
        agree(network(images, arrays["day"], valid), arrays["out/segmenter_logits"])


def test_clues_come_normalised(classified):
    _, clues, _ = classified
    torch.testing.assert_close(clues.positive, F.normalize(clues.positive, dim=-1))


def test_file_with_wrapped_state(tmp_path, arrays):
    state = {f"module.{name}": value for name, value in golden.under(arrays, "segmenter/").items()}
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    ours = released_weights.segmenter_from_released(released_weights.load_released(tmp_path / "model.pth"))
    assert "temporal.class_tokens" in ours


def test_foreign_weights_are_refused():
    with pytest.raises(CheckpointError, match=r"backbone\.conv1"):
        released_weights.segmenter_from_released({"backbone.conv1.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="segmenter"):
        released_weights.classifier_from_released({"patch_head.bias": torch.zeros(1)})
