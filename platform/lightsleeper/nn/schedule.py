"""Learning-rate schedules as pure functions of the step."""

import math
from collections.abc import Callable


def warmup_cosine(warmup_steps: int, total_steps: int, floor: float = 0.02) -> Callable[[int], float]:
    """Factor of the base rate: linear to 1 over ``warmup_steps``, then half a cosine down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def noam(warmup_steps: int) -> Callable[[int], float]:
    """The transformer schedule scaled so that its peak, at ``warmup_steps``, is the base rate."""
    warmup = max(1, warmup_steps)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))

    return factor
