import math

import pytest
import torch
from lightsleeper.metrics.classes import ClassMetrics
from lightsleeper.metrics.resampling import draws


def filled(predictions: list[int], labels: list[int], groups: list[int]) -> ClassMetrics:
    metric = ClassMetrics()
    rows = [torch.tensor(values) for values in (predictions, labels, groups)]
    metric.update(torch.ones(len(labels)), *rows)
    return metric


def test_accuracy_macro_weighs_classes_alike() -> None:
    found = filled([0, 0, 0, 1, 0], [0, 0, 0, 1, 1], [0, 1, 2, 3, 4]).results("")
    assert found["accuracy"].value == pytest.approx(4 / 5)
    assert found["accuracy_macro"].value == pytest.approx((1 + 0.5) / 2)
    assert found["loss"].value == 1


def test_intervals_come_from_whole_groups() -> None:
    labels, groups = [0, 1] * 60, [row // 12 for row in range(120)]
    right = [label if group < 5 else 1 - label for label, group in zip(labels, groups, strict=True)]
    together = filled(right, labels, groups).results("")["accuracy"]
    apart = filled(right, labels, list(range(120))).results("")["accuracy"]
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert (together.n, apart.n) == (10, 120)


def test_no_row_has_no_value() -> None:
    assert math.isnan(ClassMetrics().results("")["accuracy"].value)


def test_draws_are_whole_resamples_and_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.cat(list(draws(7, 50, seed=3)))
    assert drawn.shape == (50, 7)
    assert (drawn.sum(1) == 7).all()
    monkeypatch.setattr("lightsleeper.metrics.resampling._CHUNK", 70)
    assert torch.equal(torch.cat(list(draws(7, 50, seed=3))), drawn)
