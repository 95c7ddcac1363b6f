"""Whether one way of training beats another: tests over trainings, and over the items that all of them were judged by.

Two questions, two tests. Over seeds: would another training of each way come out the same way round? Its units are
trainings, so with five on each side no p below 2 / 252 exists. Over items (the keywords of one test set): are these
trained networks better on keywords like these? A claim about a method needs the first, one about a file the second.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import interval

EXACT = 20_000  # rearrangements that are counted one by one; of more, as many are drawn
_SLACK = 1e-9  # ties count against a difference


def permutation_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p that two groups of trainings differ in their mean only by who is called which.

    Exact up to ``EXACT`` divisions of all trainings into groups of these sizes. nan where a group is empty.

    >>> permutation_test([3.0, 4.0, 5.0, 6.0, 7.0], [1.0, 1.1, 1.2, 1.3, 1.4])  # 2 of 252 divisions
    0.0079...
    """
    together = np.array([*first, *second], np.float64)
    size, total = len(first), len(together)
    if not 0 < size < total:
        return math.nan
    found = abs(np.mean(first) - np.mean(second))
    if math.comb(total, size) <= EXACT:
        chosen = np.array(list(combinations(range(total), size)))
        drawn = 0
    else:
        rng = np.random.default_rng(0)
        chosen = np.array([rng.permutation(total)[:size] for _ in range(EXACT)])
        drawn = 1  # the division at hand is one of them
    mine = together[chosen].sum(1)
    differences = np.abs(mine / size - (together.sum() - mine) / (total - size))
    return float(((differences >= found - _SLACK).sum() + drawn) / (len(chosen) + drawn))


def sign_flip_test(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Two-sided p that paired differences (n,) are symmetric about zero: each could have had the other sign.

    Exact where up to 14 of them are not zero, else of ``EXACT`` drawn signs. 1 where all are zero.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.abs(values) > _SLACK]
    if not len(values):
        return 1.0
    found, count = abs(values.sum()), len(values)
    if 2**count <= EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float((np.abs(signs @ values) >= found - _SLACK).mean())
    rng = np.random.default_rng(0)
    sums = np.array([rng.choice((-1.0, 1.0), count) @ values for _ in range(EXACT)])
    return float(((np.abs(sums) >= found - _SLACK).sum() + 1) / (EXACT + 1))


def relative_reduction(
    first: NDArray[np.bool_], second: NDArray[np.bool_], paired: bool = False, resamples: int = 2000
) -> Measurement:
    """By what share ``second`` has fewer errors than ``first``, both (trainings, items), True an error.

    The interval is a bootstrap over trainings and items at once; items are the same on both sides, so they are drawn
    together. ``paired``: so are trainings. nan where ``first`` has none.
    """
    if first.shape[1] != second.shape[1] or (paired and len(first) != len(second)):
        raise ValueError(f"the same items were expected, got {first.shape} and {second.shape}")
    sides = [np.asarray(side, np.float64) for side in (first, second)]
    n = first.shape[1]
    if not first.any() or not n:
        return Measurement(math.nan, n=n)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        items = np.bincount(rng.integers(n, size=n), minlength=n) / n
        rows = [rng.integers(len(side), size=len(side)) for side in sides]
        rates = [
            float((side[rows[0] if paired else row] @ items).mean()) for side, row in zip(sides, rows, strict=True)
        ]
        values.append(1 - rates[1] / rates[0] if rates[0] else math.nan)
    low, high = interval(torch.tensor([value for value in values if not math.isnan(value)], dtype=torch.double))
    method = f"bootstrap over trainings and items, {resamples}"
    return Measurement(1 - float(second.mean()) / float(first.mean()), low, high, n, method)
