import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.exact import hours_needed, mcnemar, rate, rate_bound, share


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.308497),  # 1 - 0.025 ** (1 / 10)
        (10, 10, 0.691503, 1.0),
        (1, 20, 0.001265, 0.248733),
    ],
)
def test_shares_have_the_tabulated_clopper_pearson_intervals(hits: int, trials: int, low: float, high: float):
    found = share(hits, trials)
    assert found.value == hits / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)
    assert (found.n, found.method) == (trials, "Clopper-Pearson")


@pytest.mark.parametrize(("hits", "trials"), [(3, 150), (81, 263), (262, 263), (1900, 2000)])
def test_each_end_of_an_interval_leaves_a_fortieth_in_its_tail(hits: int, trials: int):
    def at_most(k: int, p: float) -> float:
        return math.fsum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(k + 1))

    def at_most_large(k: int, p: float) -> float:  # in logarithms, where p**i leaves the range of a float
        terms = [math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in range(k + 1)]
        return math.fsum(math.exp(t + i * math.log(p) + (trials - i) * math.log1p(-p)) for i, t in enumerate(terms))

    tail = at_most if trials < 300 else at_most_large
    found = share(hits, trials)
    assert tail(hits, found.high) == pytest.approx(0.025, rel=1e-6)
    assert 1 - tail(hits - 1, found.low) == pytest.approx(0.025, rel=1e-6)


def test_no_hit_has_the_closed_form():
    for trials in (1, 7, 1000, 20_000):
        assert share(0, trials).high == pytest.approx(1 - 0.025 ** (1 / trials), rel=1e-9)


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(0, 0.0, 3.688879), (1, 0.025318, 5.571643), (5, 1.623486, 11.668332), (100, 81.36396, 121.6270)],
)
def test_rates_have_the_tabulated_poisson_intervals(events: int, low: float, high: float):
    found = rate(events, 10.0)
    assert found.value == events / 10
    assert (10 * found.low, 10 * found.high) == pytest.approx((low, high), rel=1e-5)
    assert found.n == events


@given(st.integers(1, 25), st.floats(0.05, 0.95))
@settings(max_examples=10, deadline=None)
def test_a_share_covers_its_true_value_at_least_as_often_as_promised(trials: int, p: float):
    covered = 0.0
    for hits in range(trials + 1):
        found = share(hits, trials)
        if found.low <= p <= found.high:
            covered += math.comb(trials, hits) * p**hits * (1 - p) ** (trials - hits)
    assert covered >= 0.95 - 1e-9


def test_the_rule_of_three():
    assert hours_needed(0.5) == pytest.approx(-math.log(0.05) / 0.5)  # 5.99 h
    assert hours_needed(0.1) == pytest.approx(29.957, abs=1e-3)
    assert hours_needed(0.5, events=2) > 2 * hours_needed(0.5)
    assert rate_bound(0, 10) == pytest.approx(-math.log(0.05) / 10)
    assert rate_bound(3, hours_needed(0.5, events=3)) == pytest.approx(0.5)


def test_nothing_measured_has_no_value():
    assert math.isnan(share(0, 0).value)
    assert math.isnan(rate(0, 0.0).value)
    assert rate_bound(0, 0.0) == math.inf


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="5 hits of 4 trials"):
        share(5, 4)
    with pytest.raises(ValueError, match="endless hours"):
        hours_needed(0.0)
    with pytest.raises(ValueError, match="same clips"):
        mcnemar(torch.ones(2), torch.ones(3))


def test_mcnemar_looks_only_at_clips_that_one_detector_gets_right():
    both, first, second, neither = 140, 9, 1, 5
    right_1 = torch.tensor([1] * both + [1] * first + [0] * second + [0] * neither)
    right_2 = torch.tensor([1] * both + [0] * first + [1] * second + [0] * neither)
    only_first, only_second, p = mcnemar(right_1, right_2)
    assert (only_first, only_second) == (9, 1)
    assert p == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(right_2, right_1)[2] == pytest.approx(p)
    assert mcnemar(right_1, right_1) == (0, 0, 1.0)
    assert mcnemar(torch.tensor([1, 0]), torch.tensor([0, 1]))[2] == 1.0
