import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.word_events import proposals
from lightsleeper.metrics.word_matching import Term, Truths, best_term_values, by_iou, by_score, overlapping

ROW = st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(1, 8))


def truths(rows) -> Truths:
    """(word, begin, end) each."""
    rows = sorted(rows, key=lambda row: row[1:])
    word, begin, end = (np.array([row[k] for row in rows], float) for k in range(3))
    return Truths(word.astype(int), begin, end)


@settings(deadline=None)
@given(st.lists(ROW, max_size=12), st.lists(ROW, max_size=12))
def test_pairs_are_all_that_share_a_moment_and_a_word(found, spoken):
    words, begins, lengths = ([row[k] for row in found] for k in range(3))
    ends = [b + length for b, length in zip(begins, lengths, strict=True)]
    known = truths([(word, begin, begin + length) for word, begin, length in spoken])
    pairs = overlapping(proposals([1.0] * len(found), words, begins, ends), known)
    got = {(e, t): iou for e, t, iou in zip(*(column.tolist() for column in pairs), strict=True)}
    expected = {}
    for e, (word, begin, end) in enumerate(zip(words, begins, ends, strict=True)):
        for t, (other, first, last) in enumerate(zip(*(column.tolist() for column in known), strict=True)):
            common = min(end, last) - max(begin, first)
            if word == other and common > 0:
                expected[e, t] = common / (max(end, last) - min(begin, first))
    assert got == pytest.approx(expected)


def test_the_higher_score_chooses_first_and_one_answers_for_one():
    events = proposals([0.7, 0.9, 0.8], [0, 0, 0], [0.0, 0.3, 2.0], [0.4, 1.0, 2.5])
    pairs = overlapping(events, truths([(0, 0.0, 1.0), (0, 5.0, 6.0)]))
    matched = by_score(pairs, events.score)
    assert matched.event.tolist() == [1]
    assert matched.truth.tolist() == [0]
    assert matched.iou.tolist() == pytest.approx([0.7])


def test_by_iou_the_better_placed_one_wins():
    events = proposals([0.9, 0.7], [0, 0], [0.0, 0.3], [0.2, 1.0])
    pairs = overlapping(events, truths([(0, 0.0, 1.0)]))
    assert by_score(pairs, events.score).event.tolist() == [0]
    assert by_iou(pairs).event.tolist() == [1]


def test_the_strict_rule_asks_for_half_of_the_union():
    events = proposals([0.9, 0.8], [0, 0], [0.0, 4.0], [0.5, 4.49])
    pairs = overlapping(events, truths([(0, 0.0, 1.0), (0, 4.0, 5.0)]))
    assert by_score(pairs, events.score, 0.5).event.tolist() == [0]


ALL = torch.ones(1, 2, dtype=torch.double)
SECONDS = np.array([600.0, 400.0])


def term(score, hit, stream, spoken) -> Term:
    return Term(np.array(score), np.array(hit, bool), np.array(stream, int), np.array(spoken))


def test_a_perfect_system_is_worth_one_and_one_that_finds_nothing_zero():
    perfect = term([0.9, 0.8], [True, True], [0, 1], [1, 1])
    empty = term([], [], [], [1, 1])
    assert best_term_values([perfect], SECONDS, ALL).item() == 1
    assert best_term_values([empty], SECONDS, ALL).item() == 0
    assert best_term_values([perfect, empty], SECONDS, ALL).item() == 0.5


def test_a_false_alarm_costs_what_the_formula_says():
    mixed = term([0.9, 0.8, 0.7], [True, False, True], [0, 0, 1], [2, 2])
    # above 0.8: one of four found, none spurious; above 0.6: two of four found at 999.9 / 996 for the spurious one
    assert best_term_values([mixed], SECONDS, ALL).item() == pytest.approx(max(1 / 4, 2 / 4 - 999.9 / 996))
    long = best_term_values([mixed], 1000 * SECONDS, ALL).item()
    assert long == pytest.approx(2 / 4 - 999.9 / (1e6 - 4))


def test_events_of_one_score_stand_or_fall_together():
    tied = term([0.9, 0.9], [True, False], [0, 0], [1, 0])
    assert best_term_values([tied], 1000 * SECONDS, ALL).item() == pytest.approx(1 - 999.9 / (1e6 - 1))


def test_weights_draw_whole_streams():
    uneven = term([0.9], [True], [0], [1, 1])
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.double)
    assert best_term_values([uneven], SECONDS, weights).tolist() == [0.5, 1.0, 0.0]


def test_keywords_that_nobody_speaks_do_not_count():
    silent = term([0.9], [False], [0], [0, 0])
    assert best_term_values([silent], SECONDS, ALL).isnan().all()
    spoken = term([0.9], [True], [0], [1, 0])
    assert best_term_values([silent, spoken], SECONDS, ALL).item() == 1


def test_time_that_a_keyword_takes_is_no_time_for_false_alarms():
    """A second for each time it is spoken."""
    frequent = term([0.9] * 1500 + [0.8] * 2, [True] * 1500 + [True, False], [0] * 1502, [1000, 1000])
    value = best_term_values([frequent], 10 * SECONDS, ALL).item()
    assert value == pytest.approx(1500 / 2000)
    worth = best_term_values([frequent], 20_000 * SECONDS, ALL).item()
    assert worth == pytest.approx(1501 / 2000 - 999.9 / (2e7 - 2000), abs=1e-9)
