import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.events import EventDecoder
from lightsleeper.metrics.false_alarms import FalseAlarms

FRAME_S = 0.02
tracks = st.lists(st.lists(st.integers(0, 5), max_size=40), min_size=1, max_size=3)


def brute(scores: list[list[int]], refractory: int, threshold: float) -> int:
    decoder = EventDecoder(threshold, FRAME_S, 1, refractory * FRAME_S)
    return sum(len(decoder.events([float(s) for s in track])) for track in scores)


@given(tracks, st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_counts_at_every_threshold_are_those_of_the_decoder_and_never_rise(scores: list[list[int]], refractory: int):
    alarms = FalseAlarms([np.array(track, float) for track in scores], None, refractory, FRAME_S)
    thresholds = [-1.0, *np.arange(0, 6, 0.5)]
    counts = alarms.counts(thresholds)
    assert counts.tolist() == [brute(scores, refractory, threshold) for threshold in thresholds]
    assert counts.tolist() == [alarms.count(threshold) for threshold in thresholds]
    assert (np.diff(counts) <= 0).all()


@given(tracks, st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_the_highest_score_over_a_count_parts_the_thresholds(scores: list[list[int]], refractory: int, most: int):
    alarms = FalseAlarms([np.array(track, float) for track in scores], None, refractory, FRAME_S)
    over = alarms.highest_over(most)
    assert alarms.count(np.nextafter(over, np.inf)) <= most
    assert math.isinf(over) or alarms.count(over) > most


def test_a_track_with_known_crossings_gives_the_known_number():
    track = np.zeros(500)
    track[[10, 12, 59, 60, 200, 400]] = [0.9, 0.95, 0.9, 0.6, 0.7, 0.99]
    alarms = FalseAlarms([track], None, 50, FRAME_S)
    # 10 starts a refractory time until 60; 12 and 59 lie in it.
    assert alarms.counts([0.5, 0.65, 0.8, 0.92, 0.97, 1.0]).tolist() == [4, 3, 2, 2, 1, 0]
    assert alarms.hours == pytest.approx(10 / 3600)


def test_a_detector_that_always_fires_fires_once_a_refractory_time():
    alarms = FalseAlarms([np.ones(180_000)], None, 50, FRAME_S)
    assert alarms.count(1.0) / alarms.hours == pytest.approx(3600 / 1.0)
    assert alarms.count(1.01) == 0


def test_streams_do_not_shadow_each_other_and_masked_frames_are_no_hours():
    ends = [np.array([0.0, 1.0]), np.array([1.0, 0.0])]
    assert FalseAlarms(ends, None, 50, FRAME_S).count(1.0) == 2
    masked = FalseAlarms(ends, [np.array([True, False]), np.array([True, True])], 50, FRAME_S)
    assert masked.count(1.0) == 1
    assert masked.hours == pytest.approx(3 * FRAME_S / 3600)


def test_frames_scored_minus_infinity_are_hours_that_never_fire():
    alarms = FalseAlarms([np.full(100, -np.inf)], None, 50, FRAME_S)
    assert alarms.hours > 0
    assert alarms.count(-np.inf) == 0
    assert alarms.highest_over(0) == -math.inf


def test_ten_hours_are_counted_at_all_thresholds_in_seconds():
    rng = np.random.default_rng(0)
    noise = np.convolve(rng.standard_normal(1_800_000), np.ones(10) / 10, mode="same")
    alarms = FalseAlarms([noise], None, 50, FRAME_S)
    began = time.perf_counter()
    over = alarms.highest_over(5)
    counts = alarms.counts(np.sort(rng.uniform(over, noise.max(), 1000)))
    assert counts[0] <= 5
    assert time.perf_counter() - began < 10  # 1.0 s on one core
