"""Accuracy, macro accuracy and recall of a classifier, with intervals over groups of rows that belong together.

Rows of one group (clips of a speaker, places in a file) are not independent: the bootstrap draws whole groups.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric
from lightsleeper.metrics.resampling import draws, interval, wilson


class ClassMetrics(RowMetric):
    """Collects predictions of one test set.

    Args:
        names: Of the classes, in the order of their numbers, to tell the recall of each; none: recalls are not told.

    >>> metrics = ClassMetrics()
    >>> metrics.update(losses, predictions, labels, groups)
    >>> metrics.results("test/")["test/accuracy"]
    Measurement(value=0.61, low=0.59, high=0.63, n=142, method='bootstrap over groups, 1000')
    """

    columns = ("scores", "predictions", "labels", "groups")

    def __init__(self, names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = list(names)

    def update(self, losses: Tensor, predictions: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Loss, predicted class, true class and group of each row, all (B,); rows of one group are drawn together."""
        self.append(scores=losses, predictions=predictions, labels=labels, groups=groups)

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(m.value) for name, m in self.results("", intervals=False).items()}

    def results(self, prefix: str = "test/", intervals: bool = True, resamples: int = 1000) -> dict[str, Measurement]:
        """``{prefix}loss``, ``accuracy``, ``macro_accuracy`` (the mean recall of the classes that occur) and, with
        names, ``recall_<name>``; nan where there is no row.

        n counts groups. A share that is 0 or 1 in all of them has Wilson's interval: drawn again, it never varies.
        """
        with self.gathered():
            losses, predictions, labels, groups = (self.rows(column).cpu() for column in self.columns)
        units, group = groups.unique(return_inverse=True)
        classes, label = labels.unique(return_inverse=True)
        rows = torch.eye(len(classes), dtype=torch.double)[label]  # (rows, classes that occur)
        hits = rows * (predictions == labels)[:, None]
        found, counts = (torch.zeros(len(units), len(classes), dtype=torch.double).index_add_(0, group, values)
                         for values in (hits, rows))  # fmt: skip
        recall = {f"recall_{self.names[c]}": i for i, c in enumerate(classes.tolist())} if self.names else {}
        values = _shares(found.sum(0)[None], counts.sum(0)[None], recall)
        sizes = dict.fromkeys(values, len(units)) | {name: int((counts[:, i] > 0).sum()) for name, i in recall.items()}
        results = {name: Measurement(float(value), n=sizes[name]) for name, value in values.items()}
        if intervals and len(units) > 1:
            drawn = [_shares(weights @ found, weights @ counts, recall) for weights in draws(len(units), resamples)]
            for name, n in sizes.items():
                value = results[name].value
                if value in (0.0, 1.0):
                    results[name] = wilson(value, n)
                else:
                    low, high = interval(torch.cat([shares[name] for shares in drawn]))
                    results[name] = Measurement(value, low, high, n, f"bootstrap over groups, {resamples}")
        absent = {f"recall_{name}": Measurement(math.nan, n=0) for name in self.names}
        results = {"loss": Measurement(float(losses.mean()), n=len(units)), **absent, **results}
        return {f"{prefix}{name}": value for name, value in results.items()}


def _shares(found: Tensor, counts: Tensor, recall: dict[str, int]) -> dict[str, Tensor]:
    """Of rows found and all rows, both (n, classes): each share (n,); ``recall`` has the classes to tell by name."""
    each = found / counts
    shares = {"accuracy": found.sum(1) / counts.sum(1), "macro_accuracy": each.nanmean(1)}
    return shares | {name: each[:, index] for name, index in recall.items()}
