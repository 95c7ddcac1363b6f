"""The term-weighted value: what a detector of many keywords is worth, misses against false alarms, each keyword alike.

    TWV = 1 - mean over keywords of (missed / spoken + 999.9 * spurious / (seconds - spoken))

A perfect system has 1, one that finds nothing 0. MTWV takes each keyword at the threshold that is best for it on these
very streams (SpeechYOLO, papers/dynamic_conformer 8), so it is a little optimistic, and never below 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FALSE_ALARM_COST = 999.9  # NIST; SpeechYOLO's code


class Term(NamedTuple):
    """One keyword in all streams: its events, best first, and how often it was spoken."""

    score: NDArray[np.float64]
    """(n,)"""
    hit: NDArray[np.bool_]
    """(n,)"""
    stream: NDArray[np.int64]
    """(n,) index of the stream of each."""
    spoken: NDArray[np.int64]
    """(streams,)"""


def at_best_thresholds(terms: Sequence[Term], seconds: NDArray[np.float64]) -> Tensor:
    """Spoken, hits and spurious events (3, streams, keywords), float64, each keyword at its best threshold."""
    counts = np.zeros((3, len(seconds), len(terms)))
    for number, term in enumerate(terms):
        kept = _best(term, float(seconds.sum()))
        counts[0, :, number] = term.spoken
        for row, chosen in ((1, term.hit[:kept]), (2, ~term.hit[:kept])):
            counts[row, :, number] = np.bincount(term.stream[:kept][chosen], minlength=len(seconds))
    return torch.from_numpy(counts)


def _best(term: Term, seconds: float) -> int:
    """How many events the best threshold keeps: the fewest where several are equally good. Equal scores go together."""
    spoken = int(term.spoken.sum())
    if not spoken or not len(term.score):
        return 0
    last = np.flatnonzero(np.append(np.diff(term.score) != 0, True))
    hits, spurious = term.hit.cumsum()[last], (~term.hit).cumsum()[last]
    gains = np.append(0.0, hits / spoken - FALSE_ALARM_COST * spurious / max(seconds - spoken, 1.0))
    best = int(gains.argmax())
    return int(last[best - 1]) + 1 if best else 0


def term_weighted_value(counts: Tensor, seconds: NDArray[np.float64], weights: Tensor) -> Tensor:
    """TWV (R,) of weightings of the streams (R, streams), of counts as `at_best_thresholds` gives them.

    Keywords that nobody speaks do not count; nan where nobody speaks any.
    """
    spoken, hits, spurious = (weights @ table for table in counts)  # (R, keywords) each
    total = weights @ torch.from_numpy(seconds)
    cost = (spoken - hits) / spoken + FALSE_ALARM_COST * spurious / (total[:, None] - spoken).clamp(min=1.0)
    return 1 - torch.where(spoken > 0, cost, torch.nan).nanmean(1)
