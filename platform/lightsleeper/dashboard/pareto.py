"""The Pareto front of runs over two metrics: what cannot be had better in one without losing in the other."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightsleeper.dashboard.columns import dense
from lightsleeper.dashboard.quantities import Better


def front(x: np.ndarray, y: np.ndarray, x_better: Better = "lower", y_better: Better = "higher") -> np.ndarray:
    """Mask (N,) of the points that no other point dominates.

    A point dominates another when it is at least as good in both and better in one; so equal points stay or go
    together. A point without one of its values (NaN, infinite) neither is on the front nor dominates.
    """
    keys = [np.asarray(values, dtype=np.float64) for values in (x, y)]
    fine = np.flatnonzero(np.isfinite(keys[0]) & np.isfinite(keys[1]))
    # From here on less is better.
    first, second = (
        -key[fine] if better == "higher" else key[fine] for key, better in zip(keys, (x_better, y_better), strict=True)
    )
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    start = np.searchsorted(first, first, side="left")  # of the points with an equal first value
    before = np.concatenate([[np.inf], np.minimum.accumulate(second)])[start]  # best of those better in the first
    mask = np.zeros(len(keys[0]), dtype=bool)
    mask[fine[order]] = (second == second[start]) & (second < before)
    return mask


def candidates(payload: Mapping[str, Any], x: str, y: str, machine: str | None = None) -> np.ndarray:
    """Rows (K,) of the finished runs that have both metrics.

    ``machine``: a fingerprint; on an axis that depends on the machine only its runs count. None mixes all machines.
    """
    kept = np.array([status == "finished" for status in payload["runs"]["status"]], dtype=bool)
    kept &= np.isfinite(dense(payload, x)) & np.isfinite(dense(payload, y))
    if machine is not None and any(payload["metrics"][name]["machine"] for name in (x, y)):
        kept &= np.array([name == machine for name in payload["runs"]["fingerprint"]], dtype=bool)
    return np.flatnonzero(kept)


def front_rows(payload: Mapping[str, Any], x: str, y: str, machine: str | None = None) -> np.ndarray:
    """Rows of the front among `candidates`; none when the direction of a metric is not known."""
    rows = candidates(payload, x, y, machine)
    better = [payload["metrics"][name]["better"] for name in (x, y)]
    if None in better:
        return rows[:0]
    return rows[front(dense(payload, x)[rows], dense(payload, y)[rows], *better)]
