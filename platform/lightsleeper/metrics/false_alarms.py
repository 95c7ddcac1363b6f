"""How often a detector fires on negative audio, exactly, at every threshold.

Events are what the greedy rule of `metrics.events` picks, and that is the most frames at or above the threshold that
lie a refractory time apart. Fewer frames never hold more events, so the count falls, in steps, as the threshold rises.
Hence the lowest threshold under a target is found by bisection over the scores that occur; and where two thresholds
give equal counts, so does everything between them, so a whole curve costs about as many walks over the frames above the
threshold as the count has steps. No grid of thresholds, nothing interpolated.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightsleeper.metrics.events import Scores, packed


class FalseAlarms:
    """Counts of events on negative audio at any threshold.

    Args:
        tracks: smoothed scores of streams; events of different ones are independent.
        negative: for each stream, which of its frames are negative audio; None: all.
        refractory: frames between two events at least.
        frame_s: seconds of a frame.

    Example::

        alarms = FalseAlarms([scores], None, refractory=50, frame_s=0.02)
        alarms.count(0.9) / alarms.hours
    """

    def __init__(
        self,
        tracks: Sequence[Scores],
        negative: Sequence[NDArray[np.bool_]] | None,
        refractory: int,
        frame_s: float,
    ) -> None:
        kept = [np.ones(len(track), np.bool_) for track in tracks] if negative is None else negative
        apart = np.full(refractory, -np.inf)
        pieces = [p for track, keep in zip(tracks, kept, strict=True) for p in (np.where(keep, track, -np.inf), apart)]
        self.scores = np.concatenate(pieces) if pieces else np.zeros(0)
        self.refractory = refractory
        self.hours = sum(int(keep.sum()) for keep in kept) * frame_s / 3600

    def count(self, threshold: float) -> int:
        """Events at one threshold. Frames scored -inf never fire."""
        return packed(np.flatnonzero((self.scores >= threshold) & (self.scores > -np.inf)), self.refractory)

    def counts(self, thresholds: Sequence[float] | NDArray) -> NDArray[np.int64]:
        """Events at each of the ascending thresholds."""
        found = np.full(len(thresholds), -1, np.int64)

        def between(low: int, high: int) -> None:  # both known
            if high - low < 2 or found[low] == found[high]:
                found[low:high] = found[low]
                return
            middle = (low + high) // 2
            found[middle] = self.count(thresholds[middle])
            between(low, middle)
            between(middle, high)

        if len(found):
            found[0], found[-1] = self.count(thresholds[0]), self.count(thresholds[-1])
            between(0, len(found) - 1)
        return found

    def highest_over(self, most: int) -> float:
        """The highest score that, as threshold, gives more than ``most`` events; -inf where none does.

        Any threshold above it keeps to ``most``.
        """
        values = np.unique(self.scores[self.scores > -np.inf])
        low, high = 0, len(values)  # values[:low] give more than `most`; values[high:] do not
        while low < high:
            middle = (low + high) // 2
            if self.count(values[middle]) > most:
                low = middle + 1
            else:
                high = middle
        return float(values[low - 1]) if low else -math.inf
