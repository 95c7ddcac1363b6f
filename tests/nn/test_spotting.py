"""Numbers in comments: papers/dynamic_conformer, section 11."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.nn.spotting import (
    UNDEFINED,
    Pooled,
    SpottingHeads,
    box_loss,
    class_loss,
    decode_box,
    detection_loss,
    encode_box,
    intersection_over_word,
    max_pool,
    probabilities,
    targets,
)
from lightsleeper.nn.windows import Windowing
from torch import Tensor

R, S = 1.0, 0.04
WINDOWING = Windowing()


def at(*steps: int) -> Tensor:
    """Where steps t begin to see, (1, P)."""
    return S * torch.tensor([steps], dtype=torch.double)


def one(word: int, begin: float, end: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([[word]]), torch.tensor([[begin]]), torch.tensor([[end]])


# 9
def test_the_share_of_a_word_seen():
    begin, end = torch.tensor([0.3, 2.0, 0.8, -0.5]), torch.tensor([0.9, 2.5, 1.2, 1.5])
    share = intersection_over_word(begin, end, torch.tensor(0.0), R)
    assert share.tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5])
    assert intersection_over_word(3 * begin, 3 * end, torch.tensor(0.0), 3 * R).tolist() == pytest.approx(
        share.tolist()
    )
    assert intersection_over_word(torch.tensor(math.nan), torch.tensor(math.nan), torch.tensor(0.0), R) == 0


# 9, 11b
def test_labels_of_a_word_as_the_window_moves_on():
    found = targets(*one(1, 0.30, 0.90), at(0, 10, 15, 16, 22, 23), 3, WINDOWING)
    assert found.detection[0, :, 1].tolist() == [1, UNDEFINED, UNDEFINED, 0, 0, 0]
    assert found.detection[0, :, [0, 2]].eq(0).all()
    assert found.word[0].tolist() == [1, UNDEFINED, UNDEFINED, UNDEFINED, 3, 3]  # 0.03 of it is nothing: t = 22
    assert found.places.tolist() == [[0, 0, 1]]


def test_the_word_nearest_to_the_middle_is_the_class_where_several_are_whole():
    word = torch.tensor([[0, 2, -1]])
    begin, end = torch.tensor([[0.1, 0.5, math.nan]]), torch.tensor([[0.4, 0.9, math.nan]])
    found = targets(word, begin, end, at(0, 2, 5), 3, WINDOWING)
    assert found.word[0].tolist() == [2, 2, 2]
    found = targets(word, begin, end, at(-4, -2), 3, WINDOWING)
    assert found.word[0].tolist() == [0, 0]
    assert found.detection[0].tolist() == [[1, 0, UNDEFINED], [1, 0, 1]]


def test_a_word_said_twice_gives_one_box_of_the_nearer_one():
    word, begin, end = torch.tensor([[1, 1]]), torch.tensor([[0.05, 0.5]]), torch.tensor([[0.35, 0.8]])
    found = targets(word, begin, end, at(0), 2, WINDOWING)
    assert found.places.tolist() == [[0, 0, 1]]
    assert float(found.offset) == pytest.approx((0.65 - 0.5) / S)


def test_clips_without_words_teach_no_keyword():
    nothing = torch.zeros(2, 0)
    found = targets(nothing.long(), nothing, nothing, at(0, 1, 2).expand(2, 3), 4, WINDOWING)
    assert found.word.eq(4).all()
    assert found.detection.eq(0).all()
    assert len(found.places) == 0


# 10, 11b
def test_a_box_of_the_dossier():
    width, offset = encode_box(torch.tensor(0.3), torch.tensor(0.9), torch.tensor(0.0), R, S)
    assert (float(width), float(offset)) == pytest.approx((0.6, 2.5))
    begin, end = decode_box(width, offset, torch.tensor(0.0), R, S)
    assert (float(begin), float(end)) == pytest.approx((0.3, 0.9))


# 10
@given(begin=st.floats(-2, 20), length=st.floats(0.01, 2), step=st.integers(-24, 500), receptive=st.floats(0.2, 2))
def test_a_box_comes_back_as_it_was(begin: float, length: float, step: int, receptive: float):
    given_box = torch.tensor([begin, begin + length], dtype=torch.double)
    where = torch.tensor(S * step, dtype=torch.double)
    back = decode_box(*encode_box(*given_box, where, receptive, S), where, receptive, S)
    assert torch.stack(back).tolist() == pytest.approx(given_box.tolist(), abs=1e-9)


# 9
def test_undefined_entries_give_no_gradient():
    logits = torch.randn(1, 3, 2, requires_grad=True)
    detection_loss(logits, torch.tensor([[[1.0, UNDEFINED], [0, 1], [UNDEFINED, 0]]])).backward()
    assert (logits.grad == 0).tolist() == [[[False, True], [False, False], [True, False]]]

    logits = torch.randn(1, 3, 3, requires_grad=True)
    class_loss(logits, torch.tensor([[0, UNDEFINED, 2]])).backward()
    assert (logits.grad.abs().sum(-1) == 0).tolist() == [[False, True, False]]
    assert float(class_loss(torch.randn(1, 2, 3), torch.full((1, 2), UNDEFINED))) == 0


def test_detection_losses_add_up_over_words():
    logits, target = torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)
    assert float(detection_loss(logits, target)) == pytest.approx(5 * math.log(2))


# 11
@torch.no_grad()
def test_where_nothing_is_detected_all_the_probability_is_on_no_keyword():
    classes = torch.randn(2, 6, 5)
    found = probabilities(Pooled(classes, torch.full((2, 6, 4), -0.1), torch.zeros(2, 6, 5, dtype=torch.long)))
    assert found[..., 4].eq(1).all()
    assert found[..., :4].eq(0).all()
    detected = torch.full((2, 6, 4), -0.1)
    detected[..., 2] = 0.1
    found = probabilities(Pooled(classes, detected, torch.zeros(2, 6, 5, dtype=torch.long)))
    assert (found > 0).sum(-1).eq(2).all()
    assert found.sum(-1).tolist() == [pytest.approx([1.0] * 6)] * 2


# 12
@torch.no_grad()
def test_pooled_outputs_come_from_the_steps_of_the_class():
    torch.manual_seed(0)
    heads, hidden = SpottingHeads(8, 3, 24), torch.randn(4, 29, 8)
    pooled = heads(hidden)
    classes, detection = heads.classification(hidden), heads.detection(hidden)
    boxes = heads.box(hidden).unflatten(-1, (2, 3))
    assert pooled.classes.shape == (4, 6, 4)
    for window in range(4):
        for step in range(6):
            for word in range(3):
                best = int(classes[window, step : step + 24, word].argmax()) + step
                assert int(pooled.index[window, step, word]) == best
                assert pooled.classes[window, step, word] == classes[window, best, word]
                assert pooled.detection[window, step, word] == detection[window, best, word]
                place = (torch.tensor([n]) for n in (window, step, word))
                width, offset = heads.boxes(hidden, pooled.index, *place)
                assert float(width) == pytest.approx(float(boxes[window, best, 0, word]), abs=1e-6)
                moved = best - step - 23 / 2  # from the middle of what the output step sees to the selected one
                assert float(offset) == pytest.approx(float(boxes[window, best, 1, word]) + moved, abs=1e-5)


# 10: what the targets ask for is what the boxes say
def test_boxes_of_the_targets_are_where_the_words_are():
    word, begin, end = torch.tensor([[0, 1]]), torch.tensor([[0.1, 0.62]]), torch.tensor([[0.45, 0.9]])
    starts = at(-3, 0, 4, 9)
    found = targets(word, begin, end, starts, 2, WINDOWING)
    window, step, number = found.places.unbind(1)
    back = decode_box(found.width, found.offset, starts[window, step].float(), R, S)
    assert back[0].tolist() == pytest.approx(begin[0][number].tolist(), abs=1e-5)
    assert back[1].tolist() == pytest.approx(end[0][number].tolist(), abs=1e-5)
    assert float(box_loss(found.width, found.offset, found)) == 0


def test_pooling_gives_the_largest_of_each_neighbourhood():
    logits = torch.randn(2, 10, 3)
    values, index = max_pool(logits, 7)
    assert values.shape == index.shape == (2, 4, 3)
    assert torch.equal(values, logits.gather(1, index))
    assert torch.equal(values, logits.unfold(1, 7, 1).amax(-1))


def test_a_word_is_unlikely_before_training():
    heads = SpottingHeads(4, 2, 1)
    assert heads.detection.bias.sigmoid().tolist() == pytest.approx([0.01, 0.01])
