import pytest
import torch
from lightsleeper.metrics.skipping import SkippedMACs

MODULES, FIXED = (100, 300), 50


def gates(*rows: tuple[int, int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


# dossier 11, test 8
def test_nothing_is_skipped_with_open_gates_and_all_but_the_fixed_part_with_closed_ones():
    metric = SkippedMACs(MODULES, FIXED)
    metric.update(0, "speech", 0, gates((1, 1), (1, 1)))
    metric.update(1, "noise", 0, gates((0, 0)))
    found = metric.results("test/")
    assert found["test/skipped_speech"].value == 0
    assert found["test/skipped_noise"].value == pytest.approx(400 / 450)
    assert found["test/skipped"].value == pytest.approx(400 / 450 / 3)
    assert float(metric.compute()) == pytest.approx(400 / 450 / 3)
    assert set(found) == {"test/skipped", "test/skipped_speech", "test/skipped_noise"}


def test_modules_count_by_what_they_cost():
    metric = SkippedMACs(MODULES, FIXED)
    metric.update(0, "speech", 0, gates((0, 1), (1, 0)))
    assert metric.results("")["skipped"].value == pytest.approx((100 + 300) / 2 / 450)


def test_hops_of_a_stream_that_two_processes_heard_count_once():
    metric = SkippedMACs(MODULES, FIXED)
    for _ in range(2):
        metric.update(4, "babble", 0, gates((0, 0)))
    metric.update(4, "babble", 1, gates((1, 1)))
    assert metric.results("")["skipped_babble"].value == pytest.approx(0.5 * 400 / 450)


def test_the_interval_is_over_streams():
    metric = SkippedMACs(MODULES, FIXED)
    for stream in range(12):
        metric.update(stream, "noise", 0, gates(*[(stream % 2, 0)] * 5))
    found = metric.results("", intervals=True)["skipped_noise"]
    assert found.low < found.value < found.high
    assert (found.n, found.method) == (12, "bootstrap over streams, 1000")
    assert metric.results("", intervals=False)["skipped_noise"].low is None


def test_the_distribution_tells_the_mean_from_its_hops():
    metric = SkippedMACs(MODULES, FIXED)
    metric.update(0, "noise", 0, gates(*[(0, 0)] * 9, (1, 1)))
    spread = metric.distribution()["noise"]
    assert spread["p50"] == 50
    assert spread["mean"] == pytest.approx(90)
    assert spread["p99"] > 400


def test_without_gates_there_is_nothing_to_say():
    metric = SkippedMACs((), FIXED)
    assert metric.results("test/") == {}
    metric.update(0, "silence", 0, gates((1, 1))[:, :0])
    metric.reset()
    assert metric.distribution() == {}
