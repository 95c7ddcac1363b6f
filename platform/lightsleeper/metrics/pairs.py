"""AUC and EER of keyword pairs the way the results tables ask for them: easy, hard, and per word count.

Easy is positives with easy negatives, hard the same positives with hard negatives, pooled over word counts
(papers/kws_benchmarks 1.3, P1; a data module that expands P2 labels its pairs accordingly).
"""

from typing import Any

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric, equal_error_threshold, measure, operating_points

KINDS = {"easy": 1, "hard": 2}  # value of ``kind`` that marks the negatives; positives are 0
CURVE_POINTS = 200


class PairMetrics(RowMetric):
    """Collects scored evaluation batches of one test set.

    >>> metrics = PairMetrics()
    >>> metrics.update(scores, batch)
    >>> metrics.results("test/")["test/auc_hard"]
    Measurement(value=0.86, low=0.85, high=0.87, n=400, method='bootstrap over episodes, 1000')
    """

    columns = ("scores", "labels", "kinds", "episodes", "word_counts")

    def update(self, scores: Tensor, batch: dict[str, Any]) -> None:
        """scores (B,), larger is a likelier match, of an evaluation batch (label, kind, episode, word_count)."""
        columns = {"labels": "label", "kinds": "kind", "episodes": "episode", "word_counts": "word_count"}
        # A batch may stay on the CPU while its scores come from the device.
        self.append(scores=scores, **{name: batch[key].to(scores.device) for name, key in columns.items()})

    def compute(self) -> dict[str, Tensor]:
        """Values without intervals, by bare name such as ``auc_hard``."""
        return {name: torch.tensor(m.value) for name, m in self.results("", intervals=False).items()}

    def results(self, prefix: str = "test/", name: str = "", intervals: bool = True) -> dict[str, Measurement]:
        """``{prefix}{name}auc_easy``, ``eer_easy``, ``auc_hard``, ``eer_hard``, and ``..._w1`` on per word count.

        ``name`` tells scorers apart, for example ``dsp_``. A kind or word count with one class only is nan.
        """
        resamples = 1000 if intervals else 0
        results: dict[str, Measurement] = {}
        with self.gathered():
            word_counts = self.rows("word_counts")
            for kind in KINDS:
                chosen = self._of_kind(kind)
                for metric, value in self._measure(chosen, resamples).items():
                    results[f"{prefix}{name}{metric}_{kind}"] = value
            for words in word_counts.unique().tolist():
                for kind in KINDS:
                    chosen = self._of_kind(kind) & (word_counts == words)
                    for metric, value in self._measure(chosen, resamples).items():
                        results[f"{prefix}{name}{metric}_{kind}_w{words}"] = value
        return results

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """Operating points for ROC (1 - frr over far) and DET (frr over far), at most ``CURVE_POINTS`` a kind.

        Points lie evenly along the DET curve, whose axes stretch small rates. A kind with one class only is left out.
        """
        curves = {}
        with self.gathered():
            for kind in KINDS:
                chosen = self._of_kind(kind)
                scores, labels = self.rows("scores")[chosen].cpu(), self.rows("labels")[chosen].cpu()
                if len(labels.unique()) == 2 and not scores.isnan().any():
                    curves[kind] = _thin(*operating_points(scores, labels))
        return curves

    def equal_error_threshold(self) -> float:
        """Score at which both errors are equally frequent, over easy and hard pairs together; nan for one class."""
        with self.gathered():
            return equal_error_threshold(self.rows("scores"), self.rows("labels"))

    def _of_kind(self, kind: str) -> Tensor:
        kinds = self.rows("kinds")
        return (kinds == 0) | (kinds == KINDS[kind])

    def _measure(self, chosen: Tensor, resamples: int) -> dict[str, Measurement]:
        scores, labels, episodes = (self.rows(column)[chosen] for column in ("scores", "labels", "episodes"))
        return measure(scores, labels, episodes, resamples=resamples)


def _thin(thresholds: Tensor, frr: Tensor, far: Tensor) -> dict[str, list[float]]:
    """At most ``CURVE_POINTS`` of the operating points; the last threshold, +inf, becomes the largest float32."""
    floor = 0.5 / len(frr)  # rates of 0 and 1 lie at infinity on a DET axis
    axes = [torch.special.ndtri(rate.clamp(floor, 1 - floor)) for rate in (frr, far)]
    along = sum((axis.diff().abs() for axis in axes), torch.zeros(len(frr) - 1, dtype=frr.dtype)).cumsum(0)
    along = torch.cat([along.new_zeros(1), along])
    marks = torch.linspace(0, float(along[-1]), CURVE_POINTS, dtype=along.dtype)
    keep = torch.searchsorted(along, marks).clamp(max=len(frr) - 1).unique()
    keep = torch.cat([keep, torch.tensor([0, len(frr) - 1])]).unique()
    if len(keep) > CURVE_POINTS:
        keep = torch.cat([keep[:1], keep[len(keep) - CURVE_POINTS + 1 :]])
    limit = torch.finfo(torch.float32).max
    kept = {"threshold": thresholds[keep].clamp(-limit, limit), "frr": frr[keep], "far": far[keep]}
    return {name: values.tolist() for name, values in kept.items()}
