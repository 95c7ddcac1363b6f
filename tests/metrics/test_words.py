import math
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from lightsleeper.metrics.words import MTWV_KEYWORDS, WordDetection

STEP_S, SEES_S = 0.04, 1.0
WORDS = ["one", "two", "three"]
SPOKEN = [(0.3, 0.9, 0), (1.0, 1.5, 1), (1.9, 2.6, 2), (4.0, 4.4, 0)]  # words may follow each other at once


def perfect(events, seconds=6.0):
    """What a perfect model proposes: each step the word that lies in what it sees, the surer the better centred."""
    columns = []
    for step in range(round((seconds - SEES_S) / STEP_S) + 1):
        middle = step * STEP_S + SEES_S / 2
        inside = [e for e in events if e[0] >= middle - SEES_S / 2 - 1e-9 and e[1] <= middle + SEES_S / 2 + 1e-9]
        if not inside:
            columns.append((0.0, 0, 0.0, 0.0))
            continue
        begin, end, word = min(inside, key=lambda e: abs((e[0] + e[1]) / 2 - middle))
        columns.append((1 - abs((begin + end) / 2 - middle) / 10, word, begin, end))
    return [torch.tensor(column) for column in zip(*columns, strict=True)]


def metric_of(*streams, threshold=0.5, **more) -> WordDetection:
    """Streams of (events, steps, seconds, content)."""
    metric = WordDetection(WORDS, threshold, **more)
    for number, (events, steps, seconds, content) in enumerate(streams):
        metric.add_stream(number, events, seconds, content)
        metric.update(number, 0, *steps)
    return metric


def values(metric: WordDetection, **more) -> dict[str, float]:
    return {name: found.value for name, found in metric.results("", intervals=False, **more).items()}


def steps(*rows):
    """(score, word, begin, end) each."""
    return [torch.tensor(column, dtype=torch.double) for column in zip(*rows, strict=True)]


def test_a_perfect_model_finds_and_places_every_word():
    found = values(metric_of((SPOKEN, perfect(SPOKEN), 6.0, "speech")))
    assert {
        name: found[name] for name in ("f1", "f1_strict", "recall", "precision", "accuracy", "mtwv")
    } == dict.fromkeys(("f1", "f1_strict", "recall", "precision", "accuracy", "mtwv"), 1.0)
    assert found["mean_iou"] == pytest.approx(1)
    assert found["fa_per_second"] == found["fa_per_hour"] == found["frr"] == 0


def test_a_model_that_finds_nothing():
    found = values(metric_of((SPOKEN, steps((0.0, 0, 0.0, 0.0)), 6.0, "speech")))
    assert found["f1"] == found["recall"] == found["accuracy"] == found["mtwv"] == 0
    assert found["frr"] == 1
    assert math.isnan(found["precision"])
    assert math.isnan(found["mean_iou"])


def test_a_second_event_for_one_word_is_a_false_alarm():
    """Two of one word, side by side, both within the word that was spoken; and one where nothing was."""
    found = values(
        metric_of(
            ([(1.0, 2.0, 1)], steps((0.9, 1, 1.0, 1.6), (0.8, 1, 1.6, 2.0), (0.7, 0, 3.0, 3.5)), 7200.0, "speech")
        )
    )
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["recall"] == 1
    assert found["f1"] == pytest.approx(0.5)
    assert found["fa_per_hour"] == pytest.approx(1)  # 2 in all of the audio, 2 hours of it
    assert found["fa_per_second"] == pytest.approx(2 / 7200)
    assert found["mean_iou"] == pytest.approx(0.6)


def test_any_overlap_is_right_by_the_published_rule_and_half_of_it_by_the_strict_one():
    near, far = (0.9, 1, 1.1, 2.1), (0.9, 0, 4.9, 5.9)
    found = values(metric_of(([(1.0, 2.0, 1), (4.0, 5.0, 0)], steps(near, far), 10.0, "speech")))
    assert found["f1"] == 1
    assert found["f1_strict"] == 0.5
    assert found["accuracy"] == 0.5  # the centre of the far one lies outside of the word
    assert found["mean_iou"] == pytest.approx((0.9 / 1.1 + 0.1 / 1.9) / 2)


def test_another_word_in_the_place_of_the_spoken_one_is_both_kinds_of_error():
    found = values(metric_of(([(1.0, 2.0, 1)], steps((0.9, 2, 1.0, 2.0)), 10.0, "speech")))
    assert (found["precision"], found["recall"], found["f1"]) == (0, 0, 0)


def test_events_are_those_above_the_threshold_after_suppression():
    metric = metric_of(([(1.0, 2.0, 1)], steps((0.6, 1, 1.0, 2.0), (0.8, 2, 1.5, 2.5)), 10.0, "speech"))
    assert values(metric, threshold=0.5)["recall"] == 0  # the better one was the wrong word
    assert values(metric, threshold=0.79)["precision"] == 0
    assert math.isnan(values(metric, threshold=0.81)["precision"])
    assert metric.threshold == 0.5


def test_false_alarms_are_told_for_each_content():
    alarm = steps((0.9, 0, 1.0, 1.5))
    metric = metric_of(
        (SPOKEN, perfect(SPOKEN), 1800.0, "speech"),
        ([], alarm, 3600.0, "noise"),
        ([], steps((0.0, 0, 0, 0)), 900.0, "silence"),
    )
    found = values(metric)
    assert {name: value for name, value in found.items() if name.startswith("fa_per_hour_")} == {
        "fa_per_hour_speech": 0, "fa_per_hour_noise": 1, "fa_per_hour_silence": 0
    }  # fmt: skip
    assert found["fa_per_hour"] == pytest.approx(1 / 1.75)
    assert found["f1_speech"] == 1
    assert found["f1"] == pytest.approx(8 / 9)
    assert "f1_noise" not in found
    assert "f1_speech" not in values(metric_of((SPOKEN, perfect(SPOKEN), 6.0, "speech")))


def test_counts_have_exact_intervals_and_the_rest_a_bootstrap_over_streams():
    good, bad = perfect(SPOKEN), steps((0.9, 0, 0.3, 0.8), (0.9, 1, 3.0, 3.5))
    metric = metric_of(*[(SPOKEN, good if number % 3 else bad, 600.0, "speech") for number in range(12)])
    found = metric.results("test/", resamples=200)
    methods = {name.removeprefix("test/"): value.method for name, value in found.items()}
    assert {methods[name] for name in ("precision", "recall", "frr", "accuracy")} == {"Clopper-Pearson"}
    assert {methods[name] for name in ("fa_per_hour", "fa_per_second", "fa_per_hour_speech")} == {"exact Poisson"}
    assert {methods[name] for name in ("f1", "f1_strict", "mean_iou", "mtwv")} == {"bootstrap over streams, 200"}
    assert all(value.low <= value.value <= value.high for value in found.values())
    assert found["test/fa_per_second"].high == pytest.approx(found["test/fa_per_hour"].high / 3600)
    assert found["test/f1"].n == 48


def test_a_perfect_f1_has_the_interval_of_a_share():
    metric = metric_of(*[(SPOKEN, perfect(SPOKEN), 6.0, "speech")] * 3)
    found = metric.results("", resamples=50)["f1"]
    assert (found.high, found.method) == (1, "Wilson")
    assert found.low < 0.9


def test_the_best_threshold_has_the_highest_f1_and_lies_between_two_scores():
    right, wrong = (0.9, 1, 1.0, 2.0), (0.6, 0, 5.0, 6.0)
    metric = metric_of(([(1.0, 2.0, 1), (9.0, 9.5, 2)], steps(right, wrong), 20.0, "speech"))
    assert metric.best_threshold() == pytest.approx(0.75)
    assert values(metric, threshold=metric.best_threshold())["f1"] == pytest.approx(2 / 3)
    assert math.isnan(metric_of(([], steps(wrong), 20.0, "speech")).best_threshold())
    assert math.isnan(metric_of((SPOKEN, steps(wrong), 20.0, "speech")).best_threshold())


def test_the_curve_holds_the_results_at_its_thresholds():
    metric = metric_of((SPOKEN, perfect(SPOKEN), 6.0, "speech"), ([], steps((0.97, 0, 1, 2)), 3600.0, "noise"))
    curve = metric.curve()
    assert curve["kind"] == "frr_fah"
    for x, y, threshold in zip(curve["x"], curve["y"], curve["threshold"], strict=True):
        found = values(metric, threshold=threshold)
        assert (found["fa_per_hour"], found["frr"]) == pytest.approx((x, y))
    assert curve["y"][-1] == 0


def test_details_name_each_word_and_each_false_alarm():
    metric = metric_of(
        ([(1.0, 2.0, 1), (4.0, 5.0, 0)], steps((0.9, 1, 1.1, 2.0), (0.8, 2, 7.0, 8.0)), 10.0, "speech"), threshold=0.5
    )
    found = metric.details()
    assert found["streams"] == {"stream": [0], "content": ["speech"], "seconds": [10.0]}
    assert found["words"] == {
        "stream": [0, 0], "word": [1, 0], "begin_s": [1.0, 4.0], "end_s": [2.0, 5.0],
        "score": [pytest.approx(0.9), None], "iou": [pytest.approx(0.9), None],
    }  # fmt: skip
    assert found["false_alarms"]["begin_s"] == [7.0]
    assert metric.details(0.85)["false_alarms"]["word"] == []


def test_mtwv_is_of_the_published_keywords_where_the_vocabulary_has_them():
    words = ["house", *MTWV_KEYWORDS]
    metric = WordDetection(words)
    metric.add_stream(0, [(1.0, 2.0, 0), (3.0, 4.0, 3)], 60.0)
    metric.update(0, 0, *steps((0.9, 3, 3.0, 4.0)))
    found = metric.results("", intervals=False)["mtwv"]
    assert (found.value, found.n) == (1, 1)  # `house` is none of them, and one of them is spoken
    assert WordDetection(words[:-1]).keywords is None


def test_chunks_in_any_order_are_the_stream():
    whole = metric_of((SPOKEN, perfect(SPOKEN), 6.0, "speech"))
    parts = WordDetection(WORDS, 0.5)
    columns = perfect(SPOKEN)
    for first in (60, 0, 30, 60):  # one of them twice, as two processes may see it
        parts.update(4, first, *(column[first : first + (30 if first < 60 else len(column))] for column in columns))
    for _ in range(2):
        parts.add_stream(4, SPOKEN, 6.0)
    assert values(parts) == values(whole)


def test_a_reset_metric_is_new():
    metric = metric_of((SPOKEN, perfect(SPOKEN), 6.0, "speech"))
    assert metric.compute() == 1
    metric.reset()
    assert math.isnan(values(metric)["f1"])
    metric.add_stream(0, SPOKEN, 6.0)
    assert values(metric)["recall"] == 0


def test_what_does_not_fit_is_refused():
    metric = WordDetection(WORDS)
    with pytest.raises(ValueError, match="none of speech, negatives, babble"):
        metric.add_stream(0, [], 1.0, "music")
    with pytest.raises(ValueError, match="3 classes"):
        metric.add_stream(0, [(0.0, 1.0, 3)], 1.0)
    with pytest.raises(ValueError, match="same steps"):
        metric.update(0, 0, [0.5], [0, 1], [0.0], [1.0])
    metric.update(5, 0, [0.5], [0], [0.0], [1.0])
    with pytest.raises(ValueError, match="stream 5"):
        metric.compute()
    metric = WordDetection(WORDS)
    metric.add_stream(0, [], 1.0)
    metric.update(0, 0, [0.5, 0.5], [0, 0], [0.0, 0.0], [1.0, 1.0])
    metric.update(0, 1, [0.5], [0], [0.0], [1.0])
    with pytest.raises(ValueError, match="step 1 was scored twice"):
        metric.compute()


RANK = """
    import os, sys, torch
    sys.path.insert(0, sys.argv[1])
    from test_words import SPOKEN, WORDS, WordDetection, perfect, values
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    metric = WordDetection(WORDS, 0.5)
    for stream in (0, 1) if rank == 0 else ():
        metric.add_stream(stream, SPOKEN, 6.0)
        metric.update(stream, 0, *perfect(SPOKEN[stream:]))
    print("found", values(metric)["recall"], values(metric)["fa_per_hour"])
"""


@pytest.mark.slow
def test_processes_share_what_one_of_them_saw(tmp_path: Path):
    (tmp_path / "rank.py").write_text(textwrap.dedent(RANK))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "rank.py"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(2)
    ]
    lines = [rank.communicate(timeout=120)[0].strip() for rank in ranks]
    assert lines == [f"found {7 / 8} 0.0"] * 2
