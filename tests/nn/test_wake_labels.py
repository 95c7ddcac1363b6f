"""Numbers in comments: (H) HEiMDaL dossier 10."""

import pytest
import torch
import torch.nn.functional as F
from lightsleeper.nn.wake_labels import (
    UNDEFINED,
    frame_labels,
    label_loss,
    max_pooling_loss,
    offset_loss,
    offset_targets,
    pooled_label_loss,
)

TIMES = (torch.arange(150) + 1) * 0.02
BEGIN, END = torch.tensor([0.5]), torch.tensor([1.1])
NAN = torch.tensor([float("nan")])


def where(labels: torch.Tensor, value: int) -> list[float]:
    return [round(float(TIMES[frame]), 2) for frame in (labels[0] == value).nonzero()[:, 0]]


# H4, and the golden table of 6b
@pytest.mark.parametrize(
    ("rule", "late", "positive", "last_early_negative", "first_late_negative"),
    [
        ("end", 0.2, (1.10, 1.30, 11), 0.78, 1.52),
        ("coverage", 10.0, (1.08, 1.52, 23), 0.78, 1.82),
        ("coverage", 0.2, (1.08, 1.30, 12), 0.78, 1.82),
    ],
)
def test_labels_are_those_worked_out_by_hand(rule, late, positive, last_early_negative, first_late_negative):
    labels = frame_labels(TIMES, BEGIN, END, 1.0, rule, late)
    found = where(labels, 1)
    assert (found[0], found[-1], len(found)) == positive
    negative = where(labels, 0)
    assert max(time for time in negative if time < 1) == last_early_negative
    assert min(time for time in negative if time > 1) == first_late_negative
    assert (labels == UNDEFINED).sum() == 150 - len(found) - len(negative)


def test_the_overlap_is_measured_against_the_largest_it_can_be():
    labels = frame_labels(TIMES, BEGIN, END, 1.0, "iou")
    # With 0.56 s of 0.6 seen the union is 1.04 s: 0.54 of at most 0.6, exactly 0.9; with 0.36 s, 0.29, less than half.
    assert where(labels, 1) == [round(1.08 + 0.02 * k, 2) for k in range(12)]
    assert max(time for time in where(labels, 0) if time < 1) == 0.86


@pytest.mark.parametrize("rule", ["end", "coverage", "iou"])
def test_a_clip_without_keyword_is_all_negative(rule):
    assert (frame_labels(TIMES, NAN, NAN, 1.0, rule) == 0).all()


@pytest.mark.parametrize("rule", ["end", "coverage", "iou"])
def test_a_keyword_longer_than_the_receptive_field_still_has_positive_frames(rule):
    labels = frame_labels(TIMES, torch.tensor([0.2]), torch.tensor([1.4]), 0.8, rule)
    assert 1.4 in where(labels, 1)


def test_frames_that_are_masked_give_no_loss_and_no_gradient():
    labels = torch.tensor([[0, UNDEFINED, 1, UNDEFINED]])
    logits = torch.tensor([[0.3, 5.0, -0.2, -9.0]], requires_grad=True)
    loss = label_loss(logits, labels)
    expected = (F.softplus(torch.tensor(0.3)) + F.softplus(torch.tensor(0.2))) / 2
    assert torch.allclose(loss, expected[None])
    loss.sum().backward()
    assert (logits.grad[0] != 0).tolist() == [True, False, True, False]
    weighted = label_loss(logits, labels, positive_weight=3.0)
    assert torch.allclose(weighted, (F.softplus(torch.tensor(0.3)) + 3 * F.softplus(torch.tensor(0.2)))[None] / 4)


def test_max_pooling_teaches_the_best_frame_of_a_keyword_and_the_worst_of_anything_else():
    logits = torch.tensor([[9.0, 1.0, 2.0], [0.5, -1.0, 0.0]], requires_grad=True)
    keyword = torch.tensor([1, 0])
    loss = max_pooling_loss(logits, keyword, first=1)
    p = logits.detach().sigmoid()
    assert torch.allclose(loss, torch.stack([-p[0, 2].log(), -(1 - p[1, 0]).log()]))
    loss.sum().backward()
    assert (logits.grad != 0).tolist() == [[False, False, True], [True, False, False]]
    with pytest.raises(ValueError, match="cannot leave out the first 3"):
        max_pooling_loss(logits, keyword, first=3)


def test_pooled_labels_teach_one_frame_of_each_kind():
    labels = torch.tensor([[0, 0, UNDEFINED, 1, 1], [0, 0, 0, 0, 0]])
    logits = torch.tensor([[-1.0, 0.5, 7.0, 1.0, 2.0], [0.0, 1.0, 3.0, 2.0, 1.0]], requires_grad=True)
    pooled_label_loss(logits, labels).sum().backward()
    assert (logits.grad != 0).tolist() == [[False, True, False, False, True], [False, False, True, False, False]]


# H5
def test_the_exact_offset_gives_the_start_at_every_positive_frame():
    labels = frame_labels(TIMES, BEGIN, END, 1.0, "coverage")
    targets = offset_targets(TIMES, BEGIN, 1.0)
    found = targets[labels == 1]
    assert [round(float(targets[0, round(t / 0.02) - 1]), 6) for t in (1.10, 1.20, 1.30)] == [0.6, 0.7, 0.8]
    starts = TIMES[labels[0] == 1].double() - found * 1.0
    assert (starts - 0.5).abs().max() < 1e-6
    assert offset_loss(targets.float(), TIMES, BEGIN, labels, 1.0) < 1e-6


def test_offsets_of_other_frames_have_no_gradient():
    labels = frame_labels(TIMES, torch.cat([BEGIN, NAN]), torch.cat([END, NAN]), 1.0, "coverage")
    offsets = torch.zeros(2, 150, requires_grad=True)
    offset_loss(offsets, TIMES, torch.cat([BEGIN, NAN]), labels, 1.0).backward()
    assert torch.equal(offsets.grad != 0, labels == 1)
    assert not offsets.grad.isnan().any()
    nothing = offset_loss(offsets, TIMES, NAN, frame_labels(TIMES, NAN, NAN, 1.0, "end"), 1.0)
    assert nothing == 0
