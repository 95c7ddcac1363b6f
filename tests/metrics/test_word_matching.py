import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.word_events import proposals
from lightsleeper.metrics.word_matching import Truths, by_iou, by_score, overlapping

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
