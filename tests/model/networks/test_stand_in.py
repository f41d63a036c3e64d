"""A segmenter with one more position: who looks at metadata, and that no window's reach another's."""

import pytest
import torch

from cluemap.model.networks.ltae import LtaeSegmenter
from cluemap.model.networks.stand_in import StandInSegmenter, TeacherStudent
from cluemap.model.networks.tsvit import TsvitSegmenter
from cluemap.params import LtaeParams, load_params

B, T, C, SIDE, K, M = 3, 5, 4, 6, 2, 3


def segmenter(kind: str):
    if kind == "ltae":
        return LtaeSegmenter(
            C, K, LtaeParams(width=7, heads=2, key_width=3, value_width=5, convolutions=1, dropout=0.0)
        )
    sizes = {"width": 11, "temporal_depth": 2, "spatial_depth": 1, "heads": 2, "head_width": 3, "feed_forward": 2}
    return TsvitSegmenter(C, K, SIDE, load_params("demo").segmenter.model_copy(update={**sizes, "whitening": 0.0}))


def network(kind: str, metadata: int) -> StandInSegmenter:
    torch.manual_seed(5)
    found = StandInSegmenter(segmenter(kind), metadata)
    with torch.no_grad():
        found.stand_in.normal_()
    return found


def inputs():
    draw = torch.Generator().manual_seed(1)
    valid = torch.ones(B, T, dtype=torch.bool)
    valid[1, -2:] = False
    day = torch.randint(1, 367, (B, T), generator=draw) * valid
    return torch.randn(B, T, C, SIDE, SIDE, generator=draw), day, valid


def places(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, M, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["tsvit", "ltae"])
def test_a_student_looks_at_no_metadata(kind):
    student = network(kind, 0)
    one, other = student.seen(*inputs(), places()), student.seen(*inputs(), places(1))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.logits, student(*inputs()))
    assert one.logits.shape == (B, K, SIDE, SIDE)
    assert one.position.shape == ((B, 9, 11) if kind == "tsvit" else (B, SIDE, SIDE, 7))
    assert not any(name.startswith("embed") for name in student.state_dict())


@pytest.mark.parametrize("kind", ["tsvit", "ltae"])
def test_a_teacher_looks_at_its_own_windows_metadata(kind):
    teacher = network(kind, M)
    changed = places()
    changed[1] += 1.0
    one, other = teacher.seen(*inputs(), places()), teacher.seen(*inputs(), changed)
    for before, after in zip(one, other, strict=True):
        assert not torch.allclose(before[1], after[1], atol=1e-4)
        assert torch.equal(before[[0, 2]], after[[0, 2]])
    with pytest.raises(ValueError, match="give them"):
        teacher(*inputs())


@pytest.mark.parametrize("kind", ["tsvit", "ltae"])
def test_padding_changes_nothing_and_the_stand_in_does(kind):
    student = network(kind, 0)
    images, day, valid = inputs()
    expected = student(images, day, valid)
    longer = torch.cat([images, torch.full_like(images[:, :2], 9.0)], dim=1)
    none = torch.zeros(B, 2)
    found = student(longer, torch.cat([day, none.long()], dim=1), torch.cat([valid, none.bool()], dim=1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        student.stand_in.add_(1.0 + torch.arange(student.stand_in.numel()) % 3)
    assert not torch.allclose(student(images, day, valid), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["tsvit", "ltae"])
def test_one_call_gives_what_each_network_says(kind):
    teacher, student = network(kind, M), network(kind, 0)
    both, given = TeacherStudent(teacher, student), inputs()
    weak = tuple(part[1:] + 1 if part.is_floating_point() else part[1:] for part in given)
    found = both(*given, *weak, places())
    assert torch.equal(found.weak.logits, teacher(*weak, places()[1:]))
    assert not found.weak.logits.requires_grad
    assert torch.equal(found.teacher.logits, teacher(*given, places()))
    assert torch.equal(found.student.logits, student(*given))
    (found.teacher.logits.sum() + found.student.logits.sum() + found.student.position.sum()).backward()
    assert all(weight.grad is not None for weight in both.parameters())  # none is left out under several processes


def test_of_ltae_a_pixel_sees_as_far_as_without_the_position():
    student, (images, day, valid) = network("ltae", 0), inputs()
    assert (student.reach, network("tsvit", 0).reach) == (1, None)
    changed = images.clone()
    changed[..., 2, 3] += 1.0
    with torch.no_grad():
        moved = (student(images, day, valid) - student(changed, day, valid)).abs().amax(dim=(0, 1)) > 0
    near = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    near[1:4, 2:5] = True
    assert torch.equal(moved, near)
