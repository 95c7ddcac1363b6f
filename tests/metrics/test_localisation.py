import math

import numpy as np
import pytest
from lightsleeper.metrics.events import Event
from lightsleeper.metrics.localisation import localisation, match, overlap


def event(end_s: float, start_s: float = math.nan, late_s: float = 0.0) -> Event:
    return Event(end_s + late_s, start_s, end_s, 0.9)


def test_a_keyword_takes_the_first_event_in_its_window_and_no_other_keyword_the_same():
    truths = [(1.0, 1.6), (4.0, 4.5), (4.6, 5.0)]
    events = [event(0.99), event(2.0), event(2.05), event(4.9)]
    assert match(events, truths, 0.5) == [events[1], events[3], None]
    assert match(events, truths, 0.3) == [None, None, events[3]]
    assert match([event(1.0), event(2.1)], [(1.0, 1.6)], 0.5) == [event(1.0)]
    assert match([], truths, 0.5) == [None] * 3


def test_errors_shares_and_overlap_of_known_events():
    truths = [(1.0, 2.0), (5.0, 6.0), (8.0, 9.0)]
    events = [event(2.0, 1.04), event(6.1, 4.9), event(9.0, 8.0, late_s=0.2)]
    found = localisation(events, truths)
    assert found["start_error_s"].value == pytest.approx((0.04 + 0.1 + 0) / 3)
    assert found["start_error_median_s"].value == pytest.approx(0.04)
    assert found["end_error_s"].value == pytest.approx(0.1 / 3)
    assert found["start_error_std_s"].value == pytest.approx(np.std([0.04, -0.1, 0]))
    assert (found["start_within_50ms"].value, found["start_within_100ms"].value) == (2 / 3, 1.0)
    assert found["iou"].value == pytest.approx((0.96 + 1 / 1.2 + 1) / 3)
    assert found["latency_s"].value == pytest.approx((0 + 0.1 + 0.2) / 3)
    assert found["start_error_s"].low <= found["start_error_s"].value <= found["start_error_s"].high
    assert found["start_within_50ms"].method == "Clopper-Pearson"


def test_perfect_estimates_have_no_error():
    truths = [(float(i), i + 0.7) for i in range(9)]
    found = localisation([event(end, begin) for begin, end in truths], truths)
    assert {found[name].value for name in ("start_error_s", "end_error_s", "latency_s")} == {0.0}
    assert found["iou"].value == found["start_within_50ms"].value == 1.0


def test_what_a_model_does_not_estimate_is_left_out():
    found = localisation([event(2.0)], [(1.0, 2.0)])
    assert "start_error_s" not in found
    assert "iou" not in found
    assert found["latency_s"].value == 0
    assert localisation([event(2.0)], [(0.0, math.inf)]) == {}  # a clip whose keyword lies somewhere


def test_stretches_apart_do_not_overlap():
    assert overlap(np.array([3.0]), np.array([4.0]), np.array([[1.0, 2.0]])).tolist() == [0.0]
