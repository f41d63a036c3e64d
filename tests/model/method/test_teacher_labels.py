"""What a teacher's answers teach, against loops over pixels: what is not allowed or not sure teaches nothing."""

import math

import pytest
import torch

from cluemap.model.method.teacher_labels import (
    UNSURE,
    Confidence,
    distillation_loss,
    probabilities_of,
    sure_labels,
    teacher_labels,
    unlabelled_label_loss,
    unlabelled_loss,
)

B, S, H, W = 3, 5, 2, 7


def answers(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(B, S, H, W, generator=torch.Generator().manual_seed(seed))


def allowed() -> torch.Tensor:
    may = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    return may.bool()


def pixels():
    return ((b, i, j) for b in range(B) for i in range(H) for j in range(W))


def test_probabilities_are_those_of_the_allowed_classes():
    logits, may = answers(), allowed()
    found = probabilities_of(logits, may)
    for b, i, j in pixels():
        held = [math.exp(logits[b, s, i, j]) if may[b, s] else 0.0 for s in range(S)]
        expected = [one / sum(held) if sum(held) else 0.0 for one in held]
        assert found[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-6)


def test_labels_are_the_sure_ones_by_the_threshold_of_their_class():
    found = probabilities_of(answers(), allowed())
    thresholds = torch.tensor([0.9, 0.3, 0.5, 0.4, 0.7])
    labels = teacher_labels(found, thresholds)
    for b, i, j in pixels():
        row = found[b, :, i, j].tolist()
        best = max(range(S), key=lambda s: row[s])
        assert labels[b, i, j] == (best if row[best] >= thresholds[best] and any(row) else UNSURE)
    assert (labels[2] == UNSURE).all()
    assert 0 < (labels[:2] == UNSURE).sum() < 2 * H * W
    assert (teacher_labels(found, torch.zeros(S))[2] == UNSURE).all()  # nothing is allowed there


def test_the_loss_is_over_all_pixels_and_unsure_ones_give_no_gradient():
    logits = answers(1).requires_grad_()
    labels = teacher_labels(probabilities_of(answers(), allowed()), torch.full((S,), 0.6))
    loss = unlabelled_loss(logits, labels)
    expected = 0.0
    for b, i, j in pixels():
        if labels[b, i, j] != UNSURE:
            row = logits[b, :, i, j].tolist()
            expected -= math.log(math.exp(row[labels[b, i, j]]) / sum(map(math.exp, row)))
    assert loss.item() == pytest.approx(expected / (B * H * W), rel=1e-5)
    loss.backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, labels != UNSURE)
    assert unlabelled_loss(logits, torch.full_like(labels, UNSURE)) == 0
    shares = unlabelled_loss(logits[:1], labels[:1], lambda x: x * 3) + unlabelled_loss(
        logits[1:], labels[1:], lambda x: x * 1.5
    )
    assert shares.item() == pytest.approx(loss.item(), rel=1e-5)  # parts of a batch sum to it


def test_thresholds_follow_the_teacher_and_are_lower_for_hard_classes():
    confidence = Confidence.start(S)
    assert confidence.thresholds().tolist() == pytest.approx([1 / S] * S)
    overall, classes = 1 / S, [1 / S] * S
    for step in range(3):
        found = probabilities_of(answers(step), allowed())
        confidence = confidence.moved(found, 0.7)
        known = [found[b, :, i, j].tolist() for b, i, j in pixels() if b < 2]
        overall = 0.7 * overall + 0.3 * sum(map(max, known)) / len(known)
        classes = [0.7 * old + 0.3 * sum(row[s] for row in known) / len(known) for s, old in enumerate(classes)]
    assert confidence.overall.item() == pytest.approx(overall, rel=1e-5)
    expected = [overall * one / max(classes) for one in classes]
    assert confidence.thresholds().tolist() == pytest.approx(expected, rel=1e-5)
    nothing = confidence.moved(torch.zeros(B, S, H, W), 0.7)
    assert torch.equal(nothing.classes, confidence.classes)


def test_parts_of_a_batch_move_the_means_as_the_whole():
    found = probabilities_of(answers(), allowed())
    whole = Confidence.start(S).moved(found, 0.7)
    sums = []
    for part in (found[:1], found[1:]):
        Confidence.start(S).moved(part, 0.7, lambda x: sums.append(x) or x)
    ranks = Confidence.start(S).moved(found[:1], 0.7, lambda x: sums[0] + sums[1])
    torch.testing.assert_close(ranks, whole)


def test_classes_of_a_window_are_learned_where_the_teacher_is_sure_of_them():
    probabilities = torch.tensor([[0.05, 0.06, 0.7, 0.69], [0.0, 1.0, 0.5, 0.01]])
    present, sure = sure_labels(probabilities, 0.05, 0.7)
    assert present.tolist() == [[False, False, True, False], [False, True, False, False]]
    assert sure.tolist() == [[True, False, True, False], [True, True, False, True]]
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    loss = unlabelled_label_loss(logits, present, sure)
    expected = sum(
        math.log(1 + math.exp(-z if there else z))
        for z, there, one in zip(logits.flatten().tolist(), present.flatten(), sure.flatten(), strict=True)
        if one
    )
    assert loss.item() == pytest.approx(expected / 8, rel=1e-5)
    loss.backward()
    assert torch.equal(logits.grad != 0, sure)
    shares = [unlabelled_label_loss(logits[i : i + 1], present[i : i + 1], sure[i : i + 1], lambda x: 2 * x)
              for i in range(2)]  # fmt: skip
    assert sum(shares).item() == pytest.approx(loss.item(), rel=1e-5)


def test_distillation_moves_the_student_alone():
    student, teacher = answers(0).requires_grad_(), answers(1).requires_grad_()
    loss = distillation_loss(student, teacher)
    assert loss.item() == pytest.approx(((student - teacher) ** 2).mean().item(), rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    assert (student.grad != 0).all()
