"""The stretch of a window that fits a keyword best, against an exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy import segments
from lightsleeper.deploy.segments import Sought, best_segments


def exhaustive(log_probs: np.ndarray, phones: list[int]) -> float:
    """The best sum over all stretches and all paths that begin and end with a phone and spell ``phones``."""
    cost = log_probs - log_probs.max(1, keepdims=True)
    best = -np.inf
    for first in range(len(cost)):
        for end in range(first + 1, len(cost) + 1):
            for path in itertools.product(range(cost.shape[1]), repeat=end - first):
                spelled = [p for p, before in zip(path, (0, *path), strict=False) if p not in (0, before)]
                if path[0] and path[-1] and spelled == phones:
                    best = max(best, sum(cost[first + t, p] for t, p in enumerate(path)))
    return best


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), phones=st.lists(st.integers(1, 2), min_size=1, max_size=3))
def test_the_fit_is_that_of_an_exhaustive_search(seed: int, phones: list[int]) -> None:
    log_probs = np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32)
    table = np.zeros((2, 6), int)
    for row in (0, 1):  # a neighbour of another length, behind or before, changes nothing
        table[row, : len(phones)] = phones
        table[1 - row] = [1, 2, 0, 0, 0, 0]
        fit, _ = best_segments(log_probs, Sought.of(table))
        assert fit[row] * len(phones) == pytest.approx(exhaustive(log_probs, phones), abs=1e-4)
        table[:] = 0


def heard(*frames: int) -> np.ndarray:
    """Log-probabilities of an encoder that is certain."""
    table = np.full((len(frames), 40), -8.0, np.float32)
    table[np.arange(len(frames)), frames] = 0.0
    return table


def test_a_stretch_begins_with_the_first_phone_and_ends_with_the_last_with_a_margin_inside_the_window() -> None:
    log_probs = heard(0, 0, 0, 0, 7, 7, 0, 9, 0, 0, 0, 0)
    fit, stretches = best_segments(log_probs, Sought.of(np.array([[7, 9], [9, 0]])))
    assert fit.tolist() == [0.0, 0.0]
    assert stretches.tolist() == [
        [4 - segments.MARGIN, 8 + segments.MARGIN],
        [7 - segments.MARGIN, 8 + segments.MARGIN],
    ]


def test_a_row_begins_no_earlier_than_it_may() -> None:
    log_probs = heard(0, 7, 0, 0, 0, 0, 0, 7, 0, 0)
    sought = Sought.of(np.array([[7], [7]]))
    fit, stretches = best_segments(log_probs, sought, np.array([0, 2]))
    assert fit.tolist() == [0.0, 0.0]
    assert stretches.tolist() == [[0, 4], [5, 10]]


def test_equal_phones_need_a_blank_between_them() -> None:
    sought = Sought.of(np.array([[5, 5]]))
    assert best_segments(heard(5, 5, 5), sought)[0][0] < -3
    assert best_segments(heard(5, 0, 5), sought)[0][0] == 0


def test_more_phones_than_frames_do_not_fit() -> None:
    fit, stretches = best_segments(heard(1, 2), Sought.of(np.array([[1, 2, 3]])))
    assert fit[0] < -1e8
    assert stretches.tolist() == [[0, 2]]
