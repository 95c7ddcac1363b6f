import numpy as np
import pytest
import torch
from lightsleeper.metrics.term_weighted import Term, at_best_thresholds, term_weighted_value

ALL = torch.ones(1, 2, dtype=torch.double)
SECONDS = np.array([600.0, 400.0])


def mtwv(terms: list[Term], seconds, weights: torch.Tensor = ALL) -> torch.Tensor:
    return term_weighted_value(at_best_thresholds(terms, seconds), seconds, weights)


def term(score, hit, stream, spoken) -> Term:
    return Term(np.array(score), np.array(hit, bool), np.array(stream, int), np.array(spoken))


def test_a_perfect_system_is_worth_one_and_one_that_finds_nothing_zero():
    perfect = term([0.9, 0.8], [True, True], [0, 1], [1, 1])
    empty = term([], [], [], [1, 1])
    assert mtwv([perfect], SECONDS).item() == 1
    assert mtwv([empty], SECONDS).item() == 0
    assert mtwv([perfect, empty], SECONDS).item() == 0.5


def test_a_false_alarm_costs_what_the_formula_says():
    mixed = term([0.9, 0.8, 0.7], [True, False, True], [0, 0, 1], [2, 2])
    # above 0.8: one of four found, none spurious; above 0.6: two of four found at 999.9 / 996 for the spurious one
    assert mtwv([mixed], SECONDS).item() == pytest.approx(max(1 / 4, 2 / 4 - 999.9 / 996))
    long = mtwv([mixed], 1000 * SECONDS).item()
    assert long == pytest.approx(2 / 4 - 999.9 / (1e6 - 4))


def test_events_of_one_score_stand_or_fall_together():
    tied = term([0.9, 0.9], [True, False], [0, 0], [1, 0])
    assert mtwv([tied], 1000 * SECONDS).item() == pytest.approx(1 - 999.9 / (1e6 - 1))


def test_weights_draw_whole_streams():
    uneven = term([0.9], [True], [0], [1, 1])
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.double)
    assert mtwv([uneven], SECONDS, weights).tolist() == [0.5, 1.0, 0.0]


def test_drawn_streams_keep_the_threshold_of_all():
    """Drawn twice, the second stream alone would be better off without the event."""
    uneven = term([0.9, 0.8], [True, False], [0, 1], [4, 1])
    counts = at_best_thresholds([uneven], 1000 * SECONDS)
    assert counts.tolist() == [[[4], [1]], [[1], [0]], [[0], [0]]]
    late = term([0.9, 0.8, 0.7], [True, False, True], [0, 1, 0], [2, 1])
    twice = torch.tensor([[0.0, 2.0]], dtype=torch.double)
    assert term_weighted_value(at_best_thresholds([late], 1e6 * SECONDS), 1e6 * SECONDS, twice).item() < 0


def test_keywords_that_nobody_speaks_do_not_count():
    silent = term([0.9], [False], [0], [0, 0])
    assert mtwv([silent], SECONDS).isnan().all()
    spoken = term([0.9], [True], [0], [1, 0])
    assert mtwv([silent, spoken], SECONDS).item() == 1


def test_time_that_a_keyword_takes_is_no_time_for_false_alarms():
    """A second for each time it is spoken."""
    frequent = term([0.9] * 1500 + [0.8] * 2, [True] * 1500 + [True, False], [0] * 1502, [1000, 1000])
    value = mtwv([frequent], 10 * SECONDS).item()
    assert value == pytest.approx(1500 / 2000)
    worth = mtwv([frequent], 20_000 * SECONDS).item()
    assert worth == pytest.approx(1501 / 2000 - 999.9 / (2e7 - 2000), abs=1e-9)
