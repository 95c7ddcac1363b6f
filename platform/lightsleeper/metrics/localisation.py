"""Where a detected keyword was said to lie against where it lay, and how late the detector fired.

Compare two detectors on the keywords that both detect (papers/heimdal 8): ``match`` both, keep the common ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.metrics.events import Event
from lightsleeper.metrics.exact import share
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import interval

WITHIN_MS = (50, 100)
Truth = tuple[float, float]
"""Begin and end of a keyword in seconds."""


def match(events: Sequence[Event], truths: Sequence[Truth], tolerance_s: float) -> list[Event | None]:
    """For each keyword the first event whose end lies in [begin, end + tolerance]; None: not detected.

    An event answers for one keyword only.
    """
    left = sorted(events, key=lambda event: event.end_s)
    found: dict[int, Event] = {}
    for number in sorted(range(len(truths)), key=lambda number: truths[number]):
        begin, end = truths[number]
        inside = [event for event in left if begin - 1e-9 <= event.end_s <= end + tolerance_s + 1e-9]
        if inside:
            found[number] = inside[0]
            left.remove(inside[0])
    return [found.get(number) for number in range(len(truths))]


def localisation(
    events: Sequence[Event], truths: Sequence[Truth], prefix: str = "", resamples: int = 1000
) -> dict[str, Measurement]:
    """Errors of detected keywords, event by event, in seconds; what the model does not estimate is left out.

    ``start_error_s`` and ``end_error_s`` (mean absolute), their ``_median_s`` and ``_std_s`` (of the signed error),
    ``start_within_50ms`` ..., ``iou`` of estimated and true stretch, ``latency_s`` from the end of the keyword to the
    firing, and its ``latency_p95_s``. Means and medians have bootstrap intervals over events, shares exact ones.
    """
    truth = np.array(truths, np.float64).reshape(-1, 2)
    known = [index for index, stretch in enumerate(truths) if all(map(math.isfinite, stretch))]
    truth, chosen = truth[known], [events[index] for index in known]
    if not chosen:
        return {}
    time, start, end = (np.array([getattr(e, name) for e in chosen]) for name in ("time_s", "start_s", "end_s"))
    results: dict[str, Measurement] = {}
    for name, error in (("start", start - truth[:, 0]), ("end", end - truth[:, 1])):
        if np.isfinite(error).all():
            results[f"{name}_error_s"] = _resampled(np.abs(error), np.mean, resamples)
            results[f"{name}_error_median_s"] = _resampled(np.abs(error), np.median, resamples)
            results[f"{name}_error_std_s"] = Measurement(float(error.std()), n=len(error))
            for ms in WITHIN_MS:
                results[f"{name}_within_{ms}ms"] = share(int((np.abs(error) <= ms / 1000 + 1e-9).sum()), len(error))
    if np.isfinite(start).all():
        results["iou"] = _resampled(overlap(start, end, truth), np.mean, resamples)
    late = time - truth[:, 1]
    results["latency_s"] = _resampled(late, np.mean, resamples)
    results["latency_p95_s"] = Measurement(float(np.quantile(late, 0.95)), n=len(late))
    return {prefix + name: value for name, value in results.items()}


def overlap(start: NDArray, end: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """Intersection over union of stretches (n,) with those of ``truth`` (n, 2)."""
    common = np.minimum(end, truth[:, 1]) - np.maximum(start, truth[:, 0])
    union = np.maximum(end, truth[:, 1]) - np.minimum(start, truth[:, 0])
    return np.maximum(common, 0) / np.maximum(union, 1e-12)


def _resampled(values: NDArray[np.float64], statistic: Callable[..., Any], resamples: int) -> Measurement:
    value = float(statistic(values))
    if len(values) < 2 or not math.isfinite(value):
        return Measurement(value, n=len(values))
    rng = np.random.default_rng(0)
    drawn = statistic(values[rng.integers(len(values), size=(resamples, len(values)))], axis=1)
    low, high = interval(torch.from_numpy(drawn))
    return Measurement(value, low, high, len(values), f"bootstrap over events, {resamples}")
