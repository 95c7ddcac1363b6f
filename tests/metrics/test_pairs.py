import math

import pytest
import torch
from lightsleeper.metrics.pairs import CURVE_POINTS, PairMetrics
from lightsleeper.metrics.ranking import measure
from torch import Tensor, nn


def episodes_of(count: int, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Episodes of 3 positives, 3 easy and 3 hard negatives with 1-4 words; easy ones score far lower."""
    kind = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]).repeat(count)
    episode = torch.arange(count).repeat_interleave(9)
    scores = torch.randn(9 * count, generator=torch.Generator().manual_seed(seed)) - torch.tensor([0, 2.5, 1.0])[kind]
    return scores, {"label": (kind == 0).long(), "kind": kind, "episode": episode, "word_count": episode % 4 + 1}


def feed(metrics: PairMetrics, scores: Tensor, batch: dict[str, Tensor], size: int = 50) -> PairMetrics:
    for start in range(0, len(scores), size):
        part = slice(start, start + size)
        metrics.update(scores[part], {name: column[part] for name, column in batch.items()})
    return metrics


def test_easy_and_hard_share_the_positives_and_keep_apart_the_negatives():
    scores, batch = episodes_of(80)
    results = feed(PairMetrics(), scores, batch).results("test/unseen_words/", "dsp_")
    for kind, other in (("easy", 2), ("hard", 1)):
        rows = batch["kind"] != other
        expected = measure(scores[rows], batch["label"][rows], batch["episode"][rows])
        assert results[f"test/unseen_words/dsp_auc_{kind}"] == expected["auc"]
        assert results[f"test/unseen_words/dsp_eer_{kind}"] == expected["eer"]
    assert results["test/unseen_words/dsp_auc_easy"].value > results["test/unseen_words/dsp_auc_hard"].value


def test_every_word_count_has_its_own_rows():
    scores, batch = episodes_of(40)
    results = feed(PairMetrics(), scores, batch).results()
    names = {
        f"test/{m}_{k}{w}" for m in ("auc", "eer") for k in ("easy", "hard") for w in ("", "_w1", "_w2", "_w3", "_w4")
    }
    assert set(results) == names
    rows = (batch["word_count"] == 3) & (batch["kind"] != 1)
    assert results["test/auc_hard_w3"] == measure(scores[rows], batch["label"][rows], batch["episode"][rows])["auc"]
    assert results["test/auc_hard_w3"].n == 10


def test_batch_size_and_order_do_not_matter():
    scores, batch = episodes_of(20)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    shuffled = {name: column[order] for name, column in batch.items()}
    first = feed(PairMetrics(), scores, batch).results()
    assert first == feed(PairMetrics(), scores[order], shuffled, size=7).results()


def test_without_intervals_only_the_values_are_computed():
    scores, batch = episodes_of(20)
    metrics = feed(PairMetrics(), scores, batch)
    quick, full = metrics.results("val/", intervals=False), metrics.results("val/")
    assert {name: m.value for name, m in quick.items()} == {name: m.value for name, m in full.items()}
    assert quick["val/auc_hard"].low is None
    assert quick["val/auc_hard"].method is None
    computed = metrics.compute()
    assert float(computed["auc_hard"]) == pytest.approx(full["val/auc_hard"].value)


def test_a_kind_without_negatives_is_nan_with_its_episodes_and_has_no_curve():
    scores, batch = episodes_of(10)
    rows = batch["kind"] != 2
    metrics = feed(PairMetrics(), scores[rows], {name: column[rows] for name, column in batch.items()})
    results = metrics.results()
    assert math.isnan(results["test/auc_hard"].value)
    assert results["test/auc_hard"].n == 10
    assert results["test/auc_easy"].low is not None
    assert set(metrics.curves()) == {"easy"}


def test_nothing_seen_gives_nan_and_no_curves():
    metrics = PairMetrics()
    assert math.isnan(metrics.results()["test/eer_easy"].value)
    assert metrics.curves() == {}
    assert math.isnan(metrics.equal_error_threshold())


def test_curves_are_short_monotone_and_true():
    scores, batch = episodes_of(500)
    curves = feed(PairMetrics(), scores, batch, size=4500).curves()
    for kind, other in (("easy", 2), ("hard", 1)):
        curve, rows = curves[kind], batch["kind"] != other
        assert set(curve) == {"threshold", "frr", "far"}
        assert 100 < len(curve["frr"]) <= CURVE_POINTS
        assert (curve["frr"][0], curve["far"][0], curve["frr"][-1], curve["far"][-1]) == (0, 1, 1, 0)
        assert curve["frr"] == sorted(curve["frr"])
        assert curve["far"] == sorted(curve["far"], reverse=True)
        assert all(math.isfinite(value) for values in curve.values() for value in values)
        for threshold, frr, far in zip(curve["threshold"][::25], curve["frr"][::25], curve["far"][::25], strict=True):
            accepted, label = scores[rows].double() >= threshold, batch["label"][rows]
            assert frr == pytest.approx(float((~accepted[label == 1]).double().mean()))
            assert far == pytest.approx(float(accepted[label == 0].double().mean()))
        # The trapezoid area of the thinned curve is still the AUC.
        area = -sum((b - a) * (2 - c - d) / 2 for a, b, c, d in _steps(curve["far"], curve["frr"]))
        assert area == pytest.approx(measure(scores[rows], batch["label"][rows], resamples=0)["auc"].value, abs=1e-3)


def _steps(far: list[float], frr: list[float]) -> list[tuple[float, float, float, float]]:
    return list(zip(far, far[1:], frr, frr[1:], strict=False))


def test_perfect_separation_still_draws_a_curve():
    scores, batch = episodes_of(5)
    curve = feed(PairMetrics(), batch["label"] * 100 + scores, batch).curves()["hard"]
    assert 0 in [far for far, frr in zip(curve["far"], curve["frr"], strict=True) if frr == 0]


def test_inside_a_module_it_leaves_no_trace_in_the_weights():
    scores, batch = episodes_of(5)
    module = nn.ModuleDict({"metrics": PairMetrics()})
    feed(module["metrics"], scores, batch)
    assert module.state_dict() == {}
