"""The front is what brute force says it is; machines are not mixed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.dashboard.pareto import candidates, front, front_rows

NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(), st.just(float("nan")))
BETTER = st.sampled_from(["higher", "lower"])


def brute_force(x: list[float], y: list[float], x_better: str, y_better: str) -> list[bool]:
    signs = [-1.0 if better == "higher" else 1.0 for better in (x_better, y_better)]
    points = [(signs[0] * a, signs[1] * b) for a, b in zip(x, y, strict=True)]
    known = [bool(np.isfinite(a) and np.isfinite(b)) for a, b in points]

    def dominates(p: tuple[float, float], q: tuple[float, float]) -> bool:
        return p[0] <= q[0] and p[1] <= q[1] and p != q

    return [
        known[i] and not any(known[j] and dominates(points[j], points[i]) for j in range(len(points)))
        for i in range(len(points))
    ]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=25), BETTER, BETTER)
def test_the_front_equals_brute_force(points: list[tuple[float, float]], x_better: Any, y_better: Any):
    x, y = ([point[axis] for point in points] for axis in (0, 1))
    found = front(np.array(x), np.array(y), x_better, y_better)
    assert found.tolist() == brute_force(x, y, x_better, y_better)


def test_equal_points_stay_together_and_a_worse_twin_goes():
    x, y = np.array([1.0, 1.0, 1.0, 2.0, 2.0]), np.array([0.5, 0.5, 0.4, 0.5, 0.9])
    assert front(x, y).tolist() == [True, True, False, False, True]


def test_no_points_have_no_front():
    assert front(np.array([]), np.array([])).tolist() == []
    assert front(np.array([np.nan]), np.array([1.0])).tolist() == [False]


def test_five_thousand_points_take_milliseconds():
    draw = np.random.default_rng(0)
    assert front(draw.random(5000), draw.random(5000)).sum() < 50


# --- of records ---


def payload(better: str | None = "higher") -> dict[str, Any]:
    return {
        "runs": {
            "id": list("abcdef"),
            "status": ["finished", "finished", "failed", "finished", "finished", "pruned"],
            "fingerprint": ["m1", "m1", "m1", "m2", None, "m1"],
        },
        "metrics": {
            "auc": {"value": [0.9, 0.8, 0.99, 0.95, 0.9, 0.99], "better": better, "machine": False},
            "ms": {"rows": [0, 1, 2, 3, 5], "value": [2, 1, 0.1, 0.5, 0.1], "better": "lower", "machine": True},
            "bytes": {"value": [5, 4, 1, 3, 9, 1], "better": "lower", "machine": False},
        },
    }


def test_only_finished_runs_with_both_values_compete():
    assert candidates(payload(), "bytes", "auc").tolist() == [0, 1, 3, 4]
    assert candidates(payload(), "ms", "auc").tolist() == [0, 1, 3]


def test_a_latency_axis_shows_one_machine_and_all_when_asked():
    assert front_rows(payload(), "ms", "auc", "m1").tolist() == [0, 1]
    assert front_rows(payload(), "ms", "auc", "m2").tolist() == [3]
    assert front_rows(payload(), "ms", "auc", None).tolist() == [3]


def test_the_machine_does_not_matter_on_other_axes():
    assert front_rows(payload(), "bytes", "auc", "m1").tolist() == [3]


@pytest.mark.parametrize("x", ["bytes", "ms"])
def test_without_a_direction_there_is_no_front(x: str):
    assert front_rows(payload(better=None), x, "auc").tolist() == []
