import math

import pytest
import torch
from lightsleeper.metrics.confusion import class_accuracy

CONFUSION = torch.tensor([[8, 2, 0], [0, 5, 5], [0, 0, 0]])


def test_accuracy_macro_accuracy_and_recall():
    found = class_accuracy(CONFUSION, ["a", "b", "c"])
    assert found["accuracy"].value == pytest.approx(13 / 20)
    assert found["macro_accuracy"].value == pytest.approx((0.8 + 0.5) / 2)
    assert found["recall_a"].value == pytest.approx(0.8)
    assert math.isnan(found["recall_c"].value)


def test_intervals_are_wilsons_and_within_zero_and_one():
    found = class_accuracy(torch.tensor([[10, 0], [1, 9]]), ["a", "b"])
    assert found["recall_a"].high == pytest.approx(1.0)
    assert found["recall_a"].low == pytest.approx(0.7225, abs=1e-3)  # of 10 in 10
    macro = found["macro_accuracy"]
    assert 0.8 < macro.low < macro.value < macro.high <= 1
    assert macro == class_accuracy(torch.tensor([[10, 0], [1, 9]]), ["a", "b"])["macro_accuracy"]


def test_without_intervals_there_are_only_values():
    assert {m.low for m in class_accuracy(CONFUSION, ["a", "b", "c"], intervals=False).values()} == {None}


def test_without_clips_all_is_nan():
    assert all(math.isnan(m.value) for m in class_accuracy(torch.zeros(2, 2), ["a", "b"]).values())
