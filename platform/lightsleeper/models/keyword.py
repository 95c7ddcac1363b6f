"""What the families of typed keywords share: pairs of a clip and a text, scored, judged by AUC and equal error rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.pairs import PairMetrics
from lightsleeper.models.family import Batch, Family


class KeywordFamily(Family):
    """A family whose ``score`` judges pairs.

    Args:
        scorers: Name of each score that ``score`` gives -> what its metrics are called by (``dsp_`` for
            ``test/dsp_auc_hard``); the one that ships first.
    """

    threshold: Tensor
    """Score from which a text counts as said; nan before `calibrate`."""

    def __init__(self, scorers: dict[str, str]) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(math.nan))
        self._labels = scorers
        self.pair_metrics = nn.ModuleDict({name: PairMetrics() for name in scorers})

    @property
    def shipped(self) -> str:
        """Name of the score that the threshold is for."""
        return next(iter(self._labels))

    def observe(self, batch: Batch) -> None:
        for name, scores in self.score(batch).items():
            self._metric(name).update(scores, batch)

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        for name, label in self._labels.items():
            found |= self._metric(name).results(prefix, label, intervals)
        return found

    def test_curves(self) -> dict[str, dict[str, Any]]:
        return dict(self._metric(self.shipped).curves())

    def _metric(self, name: str) -> PairMetrics:
        return self.pair_metrics[name]  # type: ignore[return-value]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Threshold at equal error on the validation pairs."""
        return self.set_threshold((self.score(batch)[self.shipped], batch) for batch in batches)

    def set_threshold(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, Any]:
        """Threshold at equal error of ``scored`` pairs, kept and as the record's entry; pairs of one class set none."""
        metrics = PairMetrics()
        for scores, batch in scored:
            metrics.update(scores, batch)
        threshold = metrics.equal_error_threshold()
        if math.isnan(threshold):
            return {}
        self.threshold.fill_(threshold)
        return {"value": float(self.threshold), "target": "equal error rate on validation, easy and hard"}
