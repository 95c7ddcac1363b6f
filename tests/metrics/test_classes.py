import math
from collections.abc import Sequence

import pytest
import torch
from lightsleeper.metrics.classes import ClassMetrics
from lightsleeper.metrics.resampling import draws


def filled(predictions: list[int], labels: list[int], groups: list[int], names: Sequence[str] = ()) -> ClassMetrics:
    metric = ClassMetrics(names)
    rows = [torch.tensor(values) for values in (predictions, labels, groups)]
    metric.update(torch.ones(len(labels)), *rows)
    return metric


def test_macro_accuracy_weighs_classes_alike() -> None:
    found = filled([0, 0, 0, 1, 0], [0, 0, 0, 1, 1], [0, 1, 2, 3, 4]).results("")
    assert found["accuracy"].value == pytest.approx(4 / 5)
    assert found["macro_accuracy"].value == pytest.approx((1 + 0.5) / 2)
    assert found["loss"].value == 1


def test_intervals_come_from_whole_groups() -> None:
    labels, groups = [0, 1] * 60, [row // 12 for row in range(120)]
    right = [label if group < 5 else 1 - label for label, group in zip(labels, groups, strict=True)]
    together = filled(right, labels, groups).results("")["accuracy"]
    apart = filled(right, labels, list(range(120))).results("")["accuracy"]
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert (together.n, apart.n) == (10, 120)


def test_recall_of_each_class_is_told_by_name() -> None:
    labels, predictions = [0] * 10 + [1] * 10, [0] * 8 + [1] * 2 + [1] * 5 + [2] * 5
    found = filled(predictions, labels, [row // 2 for row in range(20)], ["a", "b", "c"]).results("")
    assert found["recall_a"].value == pytest.approx(0.8)
    assert found["recall_a"].low < 0.8 < found["recall_a"].high
    assert found["recall_a"].n == 5
    assert math.isnan(found["recall_c"].value)
    assert found["macro_accuracy"].value == pytest.approx((0.8 + 0.5) / 2)


def test_what_no_resample_could_vary_has_wilsons_interval() -> None:
    found = filled([0] * 10 + [0, 1], [0] * 10 + [1, 1], list(range(12)), ["a", "b"]).results("")
    assert found["recall_a"].method == "Wilson"
    assert found["recall_a"].high == pytest.approx(1.0)
    assert found["recall_a"].low == pytest.approx(0.7225, abs=1e-3)  # of 10 in 10
    assert found["accuracy"].method == "bootstrap over groups, 1000"


def test_one_group_has_no_interval() -> None:
    assert filled([0, 1], [0, 0], [3, 3], ["a", "b"]).results("")["recall_a"].low is None


def test_no_row_has_no_value() -> None:
    found = ClassMetrics(["a", "b"]).results("")
    assert set(found) == {"loss", "accuracy", "macro_accuracy", "recall_a", "recall_b"}
    assert all(math.isnan(value.value) for value in found.values())


def test_draws_are_whole_resamples_and_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.cat(list(draws(7, 50, seed=3)))
    assert drawn.shape == (50, 7)
    assert (drawn.sum(1) == 7).all()
    monkeypatch.setattr("lightsleeper.metrics.resampling._CHUNK", 70)
    assert torch.equal(torch.cat(list(draws(7, 50, seed=3))), drawn)
