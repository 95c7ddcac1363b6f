"""The bootstrap for sums and counts: draws whole units (documents, files), because rows of one are not independent."""

from collections.abc import Iterator

import torch
from torch import Tensor

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
