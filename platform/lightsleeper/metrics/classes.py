"""Accuracy and macro accuracy of a classifier, with intervals over groups of rows that belong together."""

import math

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric
from lightsleeper.metrics.resampling import draws, interval


class ClassMetrics(RowMetric):
    """Collects predictions of one test set.

    >>> metrics = ClassMetrics()
    >>> metrics.update(losses, predictions, labels, groups)
    >>> metrics.results("test/")["test/accuracy"]
    Measurement(value=0.61, low=0.59, high=0.63, n=142, method='bootstrap over groups, 1000')
    """

    columns = ("scores", "predictions", "labels", "groups")

    def update(self, losses: Tensor, predictions: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Loss, predicted class, true class and group of each row, all (B,); rows of one group are drawn together."""
        self.append(scores=losses, predictions=predictions, labels=labels, groups=groups)

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(m.value) for name, m in self.results("", intervals=False).items()}

    def results(self, prefix: str = "test/", intervals: bool = True, resamples: int = 1000) -> dict[str, Measurement]:
        """``{prefix}loss``, ``accuracy`` and ``accuracy_macro``: the mean over classes of the share found.

        Classes without a row are left out; nan where there is no row at all.
        """
        with self.gathered():
            losses, predictions, labels, groups = (self.rows(column).cpu() for column in self.columns)
        if not len(labels):
            return {f"{prefix}{name}": Measurement(math.nan, n=0) for name in ("loss", "accuracy", "accuracy_macro")}
        names, group = groups.unique(return_inverse=True)
        classes, label = labels.unique(return_inverse=True)
        rows = torch.nn.functional.one_hot(label, len(classes)).double()  # (rows, classes)
        hits = rows * (predictions == labels)[:, None]
        counts, found = (torch.zeros(len(names), len(classes), dtype=torch.double).index_add_(0, group, values)
                         for values in (rows, hits))  # fmt: skip
        values = _accuracies(found.sum(0)[None], counts.sum(0)[None])
        results = {name: Measurement(float(value[0]), n=len(names)) for name, value in values.items()}
        if intervals and len(names) > 1:
            parts = [_accuracies(weights @ found, weights @ counts) for weights in draws(len(names), resamples)]
            method = f"bootstrap over groups, {resamples}"
            for name in results:
                low, high = interval(torch.cat([part[name] for part in parts]))
                results[name] = Measurement(results[name].value, low, high, len(names), method)
        results = {"loss": Measurement(float(losses.mean()), n=len(names)), **results}
        return {f"{prefix}{name}": value for name, value in results.items()}


def _accuracies(found: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Of rows found and all rows, both (n, classes)."""
    return {"accuracy": found.sum(1) / counts.sum(1), "accuracy_macro": (found / counts).nanmean(1)}
