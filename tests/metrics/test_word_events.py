import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics import word_events
from lightsleeper.metrics.word_events import Suppressor, WordEvent, decode, proposals, suppress

TIMES = st.integers(0, 40)  # few values: touching and equal stretches occur


@st.composite
def steps(draw, most: int = 40):
    """Columns of proposals in any order."""
    rows = draw(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), TIMES, st.integers(1, 12)), max_size=most)
    )  # score, word, begin, length
    score, word, begin, length = (np.array(column, float) for column in zip(*rows, strict=True)) if rows else [[]] * 4
    return np.array(score) / 10, np.array(word, int), np.array(begin), np.array(begin) + np.array(length)


def plain(score, word, begin, end, per_word=False):
    """The rule as it is told: the best one stays, what overlaps it goes."""
    kept: list[int] = []
    for i in sorted(range(len(score)), key=lambda i: (-score[i], begin[i], end[i], word[i])):
        clashing = (
            min(end[i], end[j]) > max(begin[i], begin[j]) and not (per_word and word[i] != word[j]) for j in kept
        )
        if not any(clashing):
            kept.append(i)
    return kept


def events(columns, index):
    return sorted(zip(*(np.asarray(column)[index].tolist() for column in columns), strict=True))


@settings(deadline=None)
@given(steps(), st.booleans(), st.sampled_from([1, 3, 128]))
def test_suppression_equals_the_plain_rule(columns, per_word, block):
    before, word_events._BLOCK = word_events._BLOCK, block
    try:
        kept = suppress(*columns, per_word=per_word)
    finally:
        word_events._BLOCK = before
    assert events(columns, kept) == events(columns, plain(*columns, per_word))


@settings(deadline=None)
@given(steps(), st.randoms(use_true_random=False))
def test_the_order_of_proposals_does_not_matter(columns, random):
    order = list(range(len(columns[0])))
    random.shuffle(order)
    shuffled = [np.asarray(column)[order] for column in columns]
    assert events(shuffled, suppress(*shuffled)) == events(columns, suppress(*columns))


@settings(deadline=None)
@given(steps())
def test_what_is_kept_does_not_overlap_holds_the_best_and_is_kept_again(columns):
    score, _, begin, end = columns
    kept = suppress(*columns)
    assert (end[kept][:-1] <= begin[kept][1:]).all()
    if len(score):
        assert score[kept].max() == score.max()
    once = [column[kept] for column in columns]
    assert suppress(*once).tolist() == list(range(len(kept)))


@settings(deadline=None)
@given(steps(), st.integers(0, 10))
def test_a_threshold_may_be_applied_before_or_after(columns, tenths):
    threshold = tenths / 10
    assert decode(*columns, threshold) == [event for event in decode(*columns) if event.score > threshold]


@settings(deadline=None)
@given(steps(), st.lists(TIMES, max_size=6))
def test_any_division_of_a_stream_settles_the_same(columns, horizons):
    given_, suppressor = proposals(*columns), Suppressor()
    found, last = [], -1.0
    for horizon in sorted(horizons):
        fresh = (given_.begin >= last) & (given_.begin < horizon)
        kept = suppressor.push(given_.at(np.flatnonzero(fresh)), horizon)
        found += kept.events()
        last = horizon
    found += (
        suppressor.push(given_.at(np.flatnonzero(given_.begin >= last)), 41).events() + suppressor.finish().events()
    )
    key = lambda event: (event.begin_s, event.end_s, event.word)  # noqa: E731
    assert sorted(found, key=key) == sorted(decode(*columns, -1.0), key=key)


def test_what_nothing_can_change_is_settled_at_once():
    suppressor = Suppressor()
    kept = suppressor.push(proposals([0.9, 0.8], [0, 1], [0.0, 0.5], [0.4, 1.2]), horizon=0.6)
    assert kept.events() == [WordEvent(0, 0.0, 0.4, 0.9)]
    kept = suppressor.push(proposals([0.99], [2], [0.6], [1.0]), horizon=1.5)  # a better one came
    assert kept.events() == [WordEvent(2, 0.6, 1.0, 0.99)]
    assert suppressor.finish().events() == []


def test_steps_without_a_finite_stretch_propose_nothing():
    nan = float("nan")
    assert decode([0.9, nan, 0.9, 0.9, 0.5], [0, 0, 0, 0, 1], [nan, 0, 3, 2, 0], [1, 1, 2, 2, 1]) == [
        WordEvent(1, 0.0, 1.0, 0.5)
    ]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="same steps"):
        decode([0.9], [0, 1], [0.0], [1.0])


def test_twice_the_stream_is_twice_the_work(monkeypatch):
    """Not in time, which others disturb: in entries of the matrices of clashes."""
    entries = []
    settle = word_events._settle

    def counted(given, *more):
        entries.append(len(given.score) ** 2)
        return settle(given, *more)

    monkeypatch.setattr(word_events, "_settle", counted)
    work = []
    for count in (20_000, 40_000):
        rng = np.random.default_rng(0)
        begin = 0.04 * np.arange(count) + rng.uniform(0, 0.5, count)
        entries.clear()
        suppress(rng.random(count), rng.integers(0, 1000, count), begin, begin + rng.uniform(0.2, 0.6, count))
        work.append(sum(entries))
    assert work[1] / work[0] == pytest.approx(2, rel=0.02)
