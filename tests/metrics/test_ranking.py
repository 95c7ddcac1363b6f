import math
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import (
    AUC,
    EER,
    area,
    bootstrap,
    equal_error,
    equal_error_threshold,
    measure,
    operating_points,
)
from torch import Tensor


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores on a coarse grid, so that ties are common, with both classes present."""
    size = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(lambda row: 0 < sum(row) < len(row)))
    return torch.tensor(scores, dtype=torch.float32) / 4, torch.tensor(labels)


def values(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    found = measure(scores, labels, resamples=0)
    return found["auc"].value, found["eer"].value


def brute_auc(scores: Tensor, labels: Tensor) -> float:
    positive, negative = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    wins = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


def brute_eer(scores: Tensor, labels: Tensor) -> float:
    """Walk the thresholds one by one and intersect the two broken lines where they cross."""
    positive, negative = scores[labels == 1].tolist(), scores[labels == 0].tolist()
    before = (0.0, 1.0)
    for threshold in [*sorted(set(scores.tolist())), math.inf]:
        frr = sum(p < threshold for p in positive) / len(positive)
        far = sum(n >= threshold for n in negative) / len(negative)
        if frr >= far:
            gap, after = before[1] - before[0], frr - far
            return frr if gap + after == 0 else before[0] + (frr - before[0]) * gap / (gap + after)
        before = (frr, far)
    raise AssertionError("the curves always cross")


@given(pairs())
@settings(max_examples=150, deadline=None)
def test_equal_brute_force_with_ties(sample: tuple[Tensor, Tensor]):
    auc, eer = values(*sample)
    assert auc == pytest.approx(brute_auc(*sample), abs=1e-12)
    assert eer == pytest.approx(brute_eer(*sample), abs=1e-12)


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_a_monotone_transform_of_the_scores_changes_nothing(sample: tuple[Tensor, Tensor]):
    scores, labels = sample
    assert values(scores, labels) == values(scores.exp() * 3 - 8, labels)


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_swapped_labels_mirror_both_values(sample: tuple[Tensor, Tensor]):
    auc, eer = values(*sample)
    swapped_auc, swapped_eer = values(sample[0], 1 - sample[1])
    assert swapped_auc == pytest.approx(1 - auc)
    assert swapped_eer == pytest.approx(1 - eer)


@pytest.mark.parametrize(
    ("scores", "labels", "auc", "eer"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 1.0, 0.0),
        ([0, 1, 2, 3], [1, 1, 0, 0], 0.0, 1.0),
        ([5, 5, 5, 5], [1, 0, 1, 0], 0.5, 0.5),
        ([math.inf, 0, -math.inf, 0], [1, 1, 0, 0], 0.875, 0.25),  # curves cross half-way up the tie
        ([4, 3, 2, 1], [1, 0, 1, 0], 0.75, 0.5),
    ],
)
def test_closed_forms(scores: list[float], labels: list[int], auc: float, eer: float):
    assert values(torch.tensor(scores, dtype=torch.float32), torch.tensor(labels)) == pytest.approx((auc, eer))


def test_normal_scores_give_the_textbook_values():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200_000) % 2
    scores = torch.randn(200_000, generator=generator) + 2.0 * labels
    normal = torch.distributions.Normal(0.0, 1.0)
    auc, eer = values(scores, labels)
    assert auc == pytest.approx(float(normal.cdf(torch.tensor(2 / math.sqrt(2)))), abs=0.002)
    assert eer == pytest.approx(float(normal.cdf(torch.tensor(-1.0))), abs=0.003)


def test_classes_accumulate_over_updates():
    scores, labels = torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0])
    for metric, expected in ((AUC(), 0.875), (EER(), 0.25)):
        metric.update(scores[:1], labels[:1])
        metric.update(scores[1:], labels[1:], torch.tensor([0, 0, 1]))
        assert float(metric.compute()) == pytest.approx(expected)
        metric.reset()
        metric.update(scores[[0, 3]], labels[[0, 3]])
        assert float(metric.compute()) == (1.0 if isinstance(metric, AUC) else 0.0)


@pytest.mark.parametrize("metric", [AUC(), EER()])
@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_one_class_is_nan_with_its_count(metric: AUC | EER, labels: list[int]):
    metric.reset()
    metric.update(torch.rand(3), torch.tensor(labels), torch.tensor([0, 0, 1]))
    found = metric.interval()
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n, found.method) == (None, None, 2, None)


def test_nothing_seen_is_nan_and_a_nan_score_is_not_ranked():
    assert math.isnan(AUC().interval().value)
    assert AUC().interval().n == 0
    assert math.isnan(measure(torch.tensor([0.1, math.nan]), torch.tensor([0, 1]))["auc"].value)


def test_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one value per pair"):
        AUC().update(torch.rand(3), torch.tensor([0, 1]))


@given(pairs())
@settings(max_examples=60, deadline=None)
def test_the_threshold_separates_the_errors_as_evenly_as_any(sample: tuple[Tensor, Tensor]):
    scores, labels = sample
    threshold = equal_error_threshold(scores, labels)

    def gap(at: float) -> float:
        rejected = (scores[labels == 1] < at).double().mean()
        return abs(float(rejected - (scores[labels == 0] >= at).double().mean()))

    assert math.isfinite(threshold)
    assert gap(threshold) <= min(gap(s) for s in scores.tolist()) + 1e-9


def test_the_threshold_lies_in_the_middle_of_the_gap():
    assert equal_error_threshold(torch.tensor([4.0, 3, 1, 0]), torch.tensor([1, 1, 0, 0])) == 2.0
    assert math.isnan(equal_error_threshold(torch.rand(3), torch.ones(3)))


# Intervals


def test_a_resample_equals_the_metric_of_the_repeated_rows():
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.randint(0, 6, (60,), generator=generator).float(), torch.arange(60) % 2
    weights = torch.randint(0, 4, (60, 5), generator=generator)
    _, frr, far = operating_points(scores, labels, weights.float())
    for column in range(5):
        rows = torch.arange(60).repeat_interleave(weights[:, column])
        _, frr_rows, far_rows = operating_points(scores[rows], labels[rows])
        for statistic in (area, equal_error):
            expected = float(statistic(frr_rows, far_rows))
            assert float(statistic(frr[:, column], far[:, column])) == pytest.approx(expected, abs=1e-6)


def test_the_same_seed_gives_the_same_interval_in_any_chunking(monkeypatch: pytest.MonkeyPatch):
    labels = torch.arange(300) % 2
    scores = torch.randn(300, generator=torch.Generator().manual_seed(0)) + labels
    whole = measure(scores, labels, torch.arange(300) // 6)
    monkeypatch.setattr("lightsleeper.metrics.ranking._CHUNK", 10_000)
    assert measure(scores, labels, torch.arange(300) // 6) == whole
    assert whole["auc"].method == "bootstrap over episodes, 1000"
    assert whole["auc"].n == 50
    assert measure(scores, labels)["auc"].method == "bootstrap over pairs, 1000"


def test_intervals_cover_the_true_value_about_as_often_as_they_say():
    """60 samples of 50 independent episodes; 95 % intervals of a known AUC miss it at most 9 times (p < 0.002)."""
    truth = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1 / math.sqrt(2))))
    generator = torch.Generator().manual_seed(0)
    labels, episodes = torch.arange(300) % 2, torch.arange(300) // 6
    missed, widths = 0, []
    for _ in range(60):
        scores = torch.randn(300, generator=generator) + labels
        found = measure(scores, labels, episodes, resamples=300)["auc"]
        assert found.low <= found.value <= found.high
        missed += not found.low <= truth <= found.high
        widths.append(found.high - found.low)
    assert missed <= 9
    assert 0.08 < sum(widths) / 60 < 0.16  # Hanley-McNeil: 2 x 1.96 x 0.028


def test_dependent_pairs_widen_the_interval_over_episodes():
    generator = torch.Generator().manual_seed(0)
    episodes, labels = torch.arange(1200) // 12, torch.arange(1200) % 2
    shared = torch.randn(100, 2, generator=generator)[episodes, labels]  # one score per episode and class
    by_episode = measure(shared + labels, labels, episodes)["auc"]
    by_pair = measure(shared + labels, labels)["auc"]
    assert by_episode.value == by_pair.value
    assert by_episode.high - by_episode.low > 1.5 * (by_pair.high - by_pair.low)


def test_five_thousand_pairs_resample_a_thousand_times_in_about_a_second():
    labels = torch.arange(5000) % 2
    scores = torch.randn(5000) + labels
    started = time.perf_counter()
    draws = bootstrap(scores, labels, torch.arange(5000) // 6, [lambda frr, far: frr[1]], 1000, 0)
    assert draws.shape == (1, 1000)
    assert time.perf_counter() - started < 3  # 0.25 s alone; three others may share the machine


# Distributed

WORKER = """
    import sys, torch, torch.distributed as dist
    from lightsleeper.metrics.ranking import AUC, EER
    from lightsleeper.metrics.pairs import PairMetrics

    rank = int(sys.argv[1])
    dist.init_process_group("gloo", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(3)
    scores, labels = torch.randn(101, generator=generator), torch.arange(101) % 2
    kinds, episodes = (1 - labels) * (1 + torch.arange(101) // 2 % 2), torch.arange(101) // 6
    # Rows split over both, and all on the first.
    for rows in (torch.arange(101)[rank::2], torch.arange(101 if rank == 0 else 0)):
        out = []
        for metric in (AUC(), EER()):
            if len(rows):
                metric.update(scores[rows], labels[rows], episodes[rows])
            out += [metric.interval(resamples=50), float(metric.compute()), len(metric.rows("scores"))]
        metric = PairMetrics()
        if len(rows):
            columns = {"label": labels, "kind": kinds, "episode": episodes, "word_count": torch.ones_like(labels)}
            metric.update(scores[rows], {name: column[rows] for name, column in columns.items()})
        out += [metric.results("")["auc_hard"], float(metric.compute()["auc_hard"]), metric.equal_error_threshold()]
        print(repr(out[:2] + out[3:5] + out[6:]), "rows", out[2], out[5])
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_equal_one_however_rows_are_spread(tmp_path: Path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([sys.executable, str(script), str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    printed = [worker.communicate(timeout=120)[0].strip().splitlines() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    split, empty = ([line.split(" rows ") for line in pair] for pair in zip(*printed, strict=True))
    for outputs, kept in ((split, [51, 50]), (empty, [101, 0])):
        assert outputs[0][0] == outputs[1][0]
        assert [output[1] for output in outputs] == [f"{n} {n}" for n in kept]  # each has its own rows back afterwards

    scores, labels = torch.randn(101, generator=torch.Generator().manual_seed(3)), torch.arange(101) % 2
    kinds, episodes = (1 - labels) * (1 + torch.arange(101) // 2 % 2), torch.arange(101) // 6
    alone = measure(scores, labels, episodes, resamples=50)
    hard = kinds != 1
    for outputs in (split, empty):
        found = eval(outputs[0][0], {"Measurement": Measurement, "nan": math.nan})
        assert found[0] == alone["auc"]
        assert found[2] == alone["eer"]
        assert found[1] == pytest.approx(alone["auc"].value)
        assert found[4] == measure(scores[hard], labels[hard], episodes[hard])["auc"]
        assert found[6] == pytest.approx(equal_error_threshold(scores, labels))
