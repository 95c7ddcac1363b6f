"""Clips of made-up speech for tests: bursts of noise, each at its own level."""

import numpy as np
from numpy.typing import NDArray

RATE = 16_000


class MadeSpeech:
    """A `ClipSource` of ``count`` clips, half a second and longer."""

    def __init__(self, count: int = 20) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def seconds(self, clip: int) -> float:
        return 0.5 + 0.1 * (clip % 7)

    def audio(self, clip: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(clip)
        return (0.02 * (1 + clip % 5) * rng.standard_normal(round(self.seconds(clip) * RATE))).astype(np.float32)
