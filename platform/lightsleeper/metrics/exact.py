"""Exact intervals and tests for counts: misses of so many trials, alarms in so many hours, two systems on one set.

Clopper-Pearson for a share, Garwood for a Poisson rate, McNemar's test on its binomial form. Exact means that they
cover at least the stated confidence at every true value; they take trials for independent, and hours for alike: where
one talker fires ten times, the interval of false alarms is too narrow. Tails are sums of probabilities or torch's
incomplete gamma function, inverted by bisection: SciPy is no dependency.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement

_HALVINGS = 60  # of a bracket: about the resolution of float64


def share(hits: int, trials: int, confidence: float = 0.95) -> Measurement:
    """``hits / trials`` with its two-sided Clopper-Pearson interval; nan without a trial.

    >>> share(3, 150).high
    0.0573...
    """
    if not trials:
        return Measurement(math.nan, n=0)
    _check(hits, confidence)
    if hits > trials:
        raise ValueError(f"{hits} hits of {trials} trials")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _crossing(lambda p: 1 - _binomial_at_most(hits - 1, trials, p), tail, 1.0)
    high = 1.0 if hits == trials else _crossing(lambda p: -_binomial_at_most(hits, trials, p), -tail, 1.0)
    return Measurement(hits / trials, low, high, trials, "Clopper-Pearson")


def rate(events: int, hours: float, confidence: float = 0.95) -> Measurement:
    """``events`` per hour with its two-sided exact Poisson interval; nan in no time. ``n`` counts the events.

    >>> rate(0, 10.0).high  # with nothing seen in 10 hours
    0.3688...
    """
    if hours <= 0:
        return Measurement(math.nan, n=events)
    _check(events, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if events == 0 else _expected(events - 1, 1 - tail)
    return Measurement(events / hours, low / hours, _expected(events, tail) / hours, events, "exact Poisson")


def rate_bound(events: int, hours: float, confidence: float = 0.95) -> float:
    """The highest rate per hour that agrees with ``events``, one-sided: 3 / hours for none (the rule of three)."""
    _check(events, confidence)
    return _expected(events, 1 - confidence) / hours if hours > 0 else math.inf


def hours_needed(per_hour: float, events: int = 0, confidence: float = 0.95) -> float:
    """Hours in which no more than ``events`` may happen for the claim that the rate is at most ``per_hour``.

    >>> hours_needed(0.5)  # about 6 hours without a false alarm
    5.99...
    """
    _check(events, confidence)
    if per_hour <= 0:
        raise ValueError(f"a rate of {per_hour} an hour needs endless hours")
    return _expected(events, 1 - confidence) / per_hour


def mcnemar(first: Tensor, second: Tensor) -> tuple[int, int, float]:
    """Two detectors on the same clips (n,), True is right: clips only the first has, only the second has, and p.

    p is two-sided and exact: under equal error rates each clip that only one of them gets right is a fair coin.
    """
    first, second = first.bool().cpu(), second.bool().cpu()
    if first.shape != second.shape:
        raise ValueError(f"outcomes of the same clips were expected, got {tuple(first.shape)}, {tuple(second.shape)}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    tail = _binomial_at_most(min(only_first, only_second), discordant, 0.5) if discordant else 1.0
    return only_first, only_second, min(1.0, 2 * tail)


def _expected(events: int, tail: float) -> float:
    """The mean of a Poisson variable that is at most ``events`` with probability ``tail``."""
    shape = torch.tensor(events + 1.0, dtype=torch.double)

    def more(mean: float) -> float:  # P(more than `events`)
        return float(torch.special.gammainc(shape, torch.tensor(mean, dtype=torch.double)))

    return _crossing(more, 1 - tail, events + 40 + 10 * math.sqrt(events + 1) - math.log(tail))


def _binomial_at_most(hits: int, trials: int, p: float) -> float:
    """P(at most ``hits`` of ``trials``): the shorter of the two tails is summed."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or hits >= trials else 0.0
    upper = 2 * hits > trials
    counts = torch.arange(hits + 1, trials + 1) if upper else torch.arange(hits + 1)
    counts = counts.double()
    log = math.lgamma(trials + 1) - torch.lgamma(counts + 1) - torch.lgamma(trials - counts + 1)
    log += counts * math.log(p) + (trials - counts) * math.log1p(-p)
    total = float(log.exp().sum())
    return min(1.0, max(0.0, 1 - total if upper else total))


def _crossing(rising: Callable[[float], float], value: float, high: float) -> float:
    """Where a rising function on [0, high] reaches ``value``."""
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _check(count: int, confidence: float) -> None:
    if count < 0 or not 0 < confidence < 1:
        raise ValueError(f"a count of at least 0 and a confidence within (0, 1) were expected: {count}, {confidence}")
