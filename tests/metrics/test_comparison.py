import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.metrics import comparison
from lightsleeper.metrics.comparison import permutation_test, relative_reduction, sign_flip_test

RATES = st.lists(st.floats(0, 1, allow_nan=False, width=16), min_size=1, max_size=5)


def test_groups_that_do_not_overlap_have_the_smallest_p_there_is():
    assert permutation_test([3, 4, 5, 6, 7], [1, 1.1, 1.2, 1.3, 1.4]) == pytest.approx(2 / 252)
    assert permutation_test([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)


@given(RATES, RATES)
def test_the_order_of_groups_and_of_trainings_does_not_matter(first: list[float], second: list[float]):
    p = permutation_test(first, second)
    assert 0 < p <= 1
    assert permutation_test(second, first) == pytest.approx(p)
    assert permutation_test(first[::-1], second) == pytest.approx(p)


def test_equal_groups_show_nothing():
    assert permutation_test([0.1, 0.1], [0.1, 0.1]) == 1
    assert math.isnan(permutation_test([], [1.0]))


def test_many_trainings_are_drawn_and_agree_with_the_exact_count(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.5, 1, 8), rng.normal(0, 1, 8)
    exact = permutation_test(list(first), list(second))  # 12,870 divisions
    monkeypatch.setattr(comparison, "EXACT", 10_000)
    assert permutation_test(list(first), list(second)) == pytest.approx(exact, abs=0.015)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=7))
def test_flipping_signs_equals_counting_all_of_them(values: list[int]):
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=len(values))
    ]
    assert sign_flip_test(values) == pytest.approx(sum(s >= abs(sum(values)) for s in sums) / len(sums))


def test_items_without_a_difference_say_nothing():
    assert sign_flip_test([0.0] * 1000) == 1
    assert sign_flip_test([1.0] * 5) == sign_flip_test([1.0] * 5 + [0.0] * 1000) == pytest.approx(2 / 32)


def test_many_items_are_drawn_and_a_clear_difference_is_seen():
    rng = np.random.default_rng(2)
    assert sign_flip_test(rng.choice((-1.0, 1.0), 200)) > 0.05
    assert sign_flip_test(np.ones(200)) == pytest.approx(1 / 20_001)


def test_a_reduction_is_of_the_mean_rates_with_an_interval_around_it():
    rng = np.random.default_rng(3)
    first, second = rng.random((5, 800)) < 0.10, rng.random((5, 800)) < 0.05
    found = relative_reduction(first, second)
    assert found.value == pytest.approx(1 - second.mean() / first.mean())
    assert 0.3 < found.low < found.value < found.high < 0.7
    assert found.n == 800


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, second = rng.random((4, 400)) < 0.2, rng.random((4, 400)) < 0.12
        found = relative_reduction(first, second, resamples=200)
        covered += found.low <= 0.4 <= found.high
    assert covered >= 16


def test_without_an_error_there_is_nothing_to_reduce():
    none = np.zeros((2, 10), np.bool_)
    assert math.isnan(relative_reduction(none, none).value)
    with pytest.raises(ValueError, match="same items"):
        relative_reduction(none, none[:, :5])
