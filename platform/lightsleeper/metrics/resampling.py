"""Intervals: the bootstrap for sums and counts, which draws whole units (documents, files, speakers), because rows of
one are not independent; and Wilson's, for shares that a bootstrap cannot vary."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement

_CHUNK = 1 << 22  # counts held at once: 32 MB in float64


def draws(units: int, resamples: int, seed: int = 0) -> Iterator[Tensor]:
    """How often each unit is drawn, with replacement: (chunk, units) float64, ``resamples`` rows in all.

    The same seed and units give the same draws, so that differences between two models can be paired.
    """
    generator = torch.Generator().manual_seed(seed)
    step = max(_CHUNK // max(units, 1), 1)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = torch.randint(units, (rows, units), generator=generator)
        flat = (drawn + units * torch.arange(rows)[:, None]).flatten()
        yield torch.bincount(flat, minlength=rows * units).view(rows, units).double()


def interval(values: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of values (resamples,); nan is left out."""
    tail = (1 - confidence) / 2
    low, high = values.double().nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return low, high


def wilson(share: float, count: int) -> Measurement:
    """A share of ``count`` independent trials with Wilson's 95 % interval, which stays within 0 and 1."""
    if not count:
        return Measurement(math.nan, n=0)
    z = 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Measurement(share, max(0.0, centre - half), min(1.0, centre + half), count, "Wilson")
