"""Accuracy over classes from a confusion matrix: overall, averaged over classes, and of each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement

Z = 1.959964  # of a 95 % interval


def class_accuracy(
    confusion: Tensor, names: Sequence[str], intervals: bool = True, resamples: int = 1000, seed: int = 0
) -> dict[str, Measurement]:
    """``accuracy``, ``macro_accuracy`` (mean recall of the classes that occur) and ``recall_<name>`` of each class.

    ``confusion`` (C, C): rows are true, columns predicted classes. Intervals take clips for independent: Wilson's, and
    for the mean a bootstrap within classes. Where few speakers say many clips, they are too narrow. A class that does
    not occur is nan.
    """
    confusion = confusion.double().cpu()
    right, total = confusion.diagonal(), confusion.sum(1)
    found = {"accuracy": _wilson(float(right.sum()), float(total.sum()), intervals)}
    seen = total > 0
    recall = (right / total)[seen]
    value = float(recall.mean()) if seen.any() else math.nan
    if intervals and seen.any():
        counts = total[seen].expand(resamples, -1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.binomial(counts, recall.expand(resamples, -1), generator=generator) / counts
        low, high = drawn.mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
        found["macro_accuracy"] = Measurement(
            value, low, high, int(total.sum()), f"bootstrap over clips within classes, {resamples}"
        )
    else:
        found["macro_accuracy"] = Measurement(value, n=int(total.sum()))
    for name, hits, count in zip(names, right.tolist(), total.tolist(), strict=True):
        found[f"recall_{name}"] = _wilson(hits, count, intervals)
    return found


def _wilson(hits: float, count: float, interval: bool) -> Measurement:
    if not count:
        return Measurement(math.nan, n=0)
    share = hits / count
    if not interval:
        return Measurement(share, n=int(count))
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return Measurement(share, max(0.0, centre - half), min(1.0, centre + half), int(count), "Wilson")
