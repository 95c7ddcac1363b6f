import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.events import Event, EventDecoder, packed, smoothed

FRAME_S = 0.02


def reference(decoder: EventDecoder, scores: list[float], back: list[float]) -> list[Event]:
    """The rule frame by frame."""
    events, ready, peak, recent = [], 0, None, []
    wait = round(decoder.wait_s / decoder.frame_s)
    for t, score in enumerate(scores):
        recent = [*recent, score][-decoder.smoothing_frames :]
        level = sum(recent) / len(recent)
        if peak is None and t >= ready and level >= decoder.threshold:
            peak, ready = (t, t, level), t + round(decoder.refractory_s / decoder.frame_s)
        if peak is not None and level > peak[2]:
            peak = (peak[0], t, level)
        if peak is not None and (t == peak[0] + wait or t == len(scores) - 1):
            end = (peak[1] + 1) * decoder.frame_s
            events.append(Event((t + 1) * decoder.frame_s, end - back[peak[1]], end, peak[2]))
            peak = None
    return events


scores_and_cuts = st.lists(st.integers(0, 6), min_size=1, max_size=80).flatmap(
    lambda scores: st.tuples(st.just(scores), st.lists(st.integers(0, len(scores)), max_size=6))
)


@given(scores_and_cuts, st.integers(1, 4), st.integers(1, 9), st.integers(0, 8), st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_any_chunking_gives_the_events_of_the_rule(found, smoothing: int, refractory: int, wait: int, threshold: int):
    scores, cuts = found
    wait = min(wait, refractory - 1)
    decoder = EventDecoder(threshold, FRAME_S, smoothing, refractory * FRAME_S, wait * FRAME_S)
    back = [0.3 + 0.01 * t for t in range(len(scores))]
    edges = [0, *sorted(cuts), len(scores)]
    state, events = decoder.initial(), []
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        new, state = decoder.decode(scores[a:b], state, back[a:b])
        events += new
    events += decoder.finish(state)
    assert events == decoder.events(scores, back)
    expected = reference(decoder, scores, back)
    assert len(events) == len(expected)
    for event, wanted in zip(events, expected, strict=True):
        assert [event.time_s, event.start_s, event.end_s, event.score] == pytest.approx(
            [wanted.time_s, wanted.start_s, wanted.end_s, wanted.score]
        )


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_greedy_is_the_most_that_can_lie_a_refractory_time_apart(above: list[bool], refractory: int):
    frames = np.flatnonzero(above)
    best = [0] * (len(above) + 1)  # most events within the first t frames
    for t, active in enumerate(above):
        best[t + 1] = max(best[t], 1 + best[max(0, t + 1 - refractory)] if active else 0)
    assert packed(frames, refractory) == best[-1]
    decoder = EventDecoder(1, FRAME_S, 1, refractory * FRAME_S)
    assert packed(frames, refractory) == len(decoder.events([float(a) for a in above]))


def test_waiting_moves_the_event_to_its_highest_score_and_fires_later():
    scores = [0.0, 0.6, 0.7, 0.9, 0.8, 0.1, 0.0]
    at_once = EventDecoder(0.5, FRAME_S).events(scores, [1.0] * 7)
    waited = EventDecoder(0.5, FRAME_S, wait_s=0.06).events(scores, [1.0] * 7)
    assert [event.time_s for event in at_once] == pytest.approx([0.04])
    assert [(event.time_s, event.end_s, event.score) for event in waited] == [pytest.approx((0.10, 0.08, 0.9))]
    assert waited[0].start_s == pytest.approx(0.08 - 1.0)


def test_the_state_does_not_grow():
    decoder = EventDecoder(0.5, FRAME_S, smoothing_frames=4)
    state = decoder.initial()
    for seed in range(50):
        _, state = decoder.decode(np.random.default_rng(seed).random(1000), state)
        assert len(state.tail) == 3
    assert state.frame == 50_000


def test_a_model_without_times_leaves_the_start_open():
    (event,) = EventDecoder(0.5, FRAME_S).events([0.1, 0.9])
    assert math.isnan(event.start_s)
    assert event.end_s == pytest.approx(0.04)


def test_scores_that_are_no_numbers_never_fire():
    assert EventDecoder(0.5, FRAME_S).events([math.nan, -math.inf]) == []
    assert smoothed(np.array([1.0, -np.inf, 1.0, 1.0]), 2).tolist() == [1.0, -np.inf, -np.inf, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_s": 0.0}, "frame_s 0.0"),
        ({"smoothing_frames": 0}, "smoothing_frames 0"),
        ({"wait_s": 1.0}, "below refractory_s"),
        ({"wait_s": -0.1}, "at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EventDecoder(**{"threshold": 0.5, "frame_s": FRAME_S, **arguments})
