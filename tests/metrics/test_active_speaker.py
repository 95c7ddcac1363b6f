import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.active_speaker import ActiveSpeakerAP, average_precision, f1_score


def official(scores, positive, order):
    """AVA's script in plain steps: ranked rows in ``order``, precision made non-increasing, area under its steps."""
    hits = np.asarray(positive, float)[order]
    found = hits.cumsum()
    precision = np.concatenate([[0], found / np.arange(1, len(hits) + 1), [0]])
    recall = np.concatenate([[0], found / hits.sum(), [1]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], 0.8333333),
        ([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1], 0.5),
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 1.0),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 1], 0.5),
    ],
)
def test_average_precision_has_the_golden_values(scores, labels, expected):
    assert float(average_precision(torch.tensor(scores), torch.tensor(labels))) == pytest.approx(expected)


rows = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30).filter(
    lambda rows: any(positive for _, positive in rows)
)


@given(rows, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_ties_count_as_the_official_script_would_in_its_worst_order(rows, random):
    scores, positive = (np.array(column) for column in zip(*rows, strict=True))
    worst = np.lexsort([positive, -scores])  # negatives first among equals
    found = float(average_precision(torch.tensor(scores), torch.tensor(positive)))
    assert found == pytest.approx(official(scores, positive, worst))
    shuffled = random.sample(range(len(rows)), len(rows))
    again = average_precision(torch.tensor(scores[shuffled]), torch.tensor(positive[shuffled]))
    assert float(again) == pytest.approx(found)
    some = np.array(sorted(shuffled, key=lambda i: -scores[i]))
    assert official(scores, positive, some) >= found - 1e-12


@given(rows, st.integers(0, 2**31))
@settings(deadline=None)
def test_a_weight_counts_a_row_so_many_times(rows, seed):
    scores, positive = (torch.tensor(column) for column in zip(*rows, strict=True))
    weights = torch.randint(0, 4, (3, len(rows)), generator=torch.Generator().manual_seed(seed))
    for statistic in (average_precision, lambda s, p, w=None: f1_score(s, p, 3.0, w)):
        for row, value in zip(weights, statistic(scores, positive, weights), strict=True):
            plain = statistic(scores.repeat_interleave(row), positive.repeat_interleave(row))
            assert float(value) == pytest.approx(float(plain), nan_ok=True)


def test_without_a_positive_there_is_no_average_precision():
    assert math.isnan(average_precision(torch.rand(3), torch.zeros(3)))
    assert math.isnan(average_precision(torch.rand(0), torch.zeros(0)))


def track(number, label3, situation="speaking", px=100, faces=1):
    size = len(label3)
    return {
        "entity": f"face:{number}",
        "video": "scene",
        "label3": torch.tensor([label3]),
        "face_px": torch.full((1, size), px),
        "speakers": torch.full((1, size), faces),
        "situation": situation,
    }


def test_speech_that_is_not_audible_is_a_negative():
    metric = ActiveSpeakerAP()
    metric.update(torch.tensor([0.9, 0.8, 0.7, 0.6]), track(0, [2, 0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(0.5)


def test_results_are_told_by_size_of_face_number_of_faces_and_situation():
    metric = ActiveSpeakerAP()
    metric.update(torch.tensor([0.9, 0.2]), track(0, [1, 0], px=63, faces=1))
    metric.update(torch.tensor([0.3, 0.6]), track(1, [1, 0], px=64, faces=2))
    metric.update(torch.tensor([0.8, 0.1]), track(2, [1, 0], px=129, faces=5))
    metric.update(torch.tensor([0.95, 0.7]), track(3, [0, 2], situation="mouthing", px=128, faces=3))
    found = {name: round(value.value, 4) for name, value in metric.results("", intervals=False).items()}
    assert found["map_small"] == found["map_large"] == 1.0
    assert found["map_middle"] == 0.25  # ranked 0.95 -, 0.7 -, 0.6 -, 0.3 +
    assert found["map_faces1"] == 1.0
    assert found["map_faces2"] == 0.5
    assert found["map_faces3"] == 0.5  # 0.95 -, 0.8 +, 0.7 -, 0.1 -
    assert found["auc_speaking"] == round(8 / 9, 4)
    assert found["auc_mouthing"] == round(2 / 6, 4)
    assert found["f1"] == 0.5
    assert "auc_chewing" not in found


def test_intervals_draw_tracks_and_hold_the_value():
    metric = ActiveSpeakerAP()
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        label = torch.randint(0, 2, (20,), generator=generator)
        metric.update(label + torch.randn(20, generator=generator), track(number, label.tolist()))
    found = metric.results("test/", resamples=200)["test/map"]
    assert found.n == 12
    assert found.method == "bootstrap over tracks, 200"
    assert found.low < found.value < found.high
    assert metric.results("test/", resamples=200)["test/map"] == found


def test_tracks_of_one_entity_in_two_videos_are_two():
    metric = ActiveSpeakerAP()
    for video in ("a", "b"):
        metric.update(torch.tensor([0.9, 0.1]), {**track(0, [1, 0]), "video": video})
    assert metric.results("", intervals=False)["map"].n == 2


def test_a_single_track_has_no_interval():
    metric = ActiveSpeakerAP()
    metric.update(torch.tensor([0.9, 0.2]), track(0, [1, 0], px=200))
    metric.update(torch.tensor([0.3, 0.6]), track(1, [1, 0], px=40))
    found = metric.results("", resamples=50)
    assert found["map_large"].n == 1
    assert found["map_large"].low is None
    assert found["map"].low is not None
