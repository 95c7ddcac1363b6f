"""From a score per frame to events: smoothing, threshold, refractory time, and where the keyword began.

The rule: the mean of the last few scores reaches the threshold, an event fires, and nothing fires for the refractory
time. It is greedy, and greedy is best possible: among the frames at or above a threshold it picks as many as can lie a
refractory time apart. A higher threshold leaves a subset of the frames, hence never more events: that is what lets
`metrics.detection` count false alarms at all thresholds.

NumPy only: the same code decides in evaluation and on a device. Frame ``t`` of a stream is known at ``(t + 1)`` frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
_FEW = 64  # so many scores are compared faster one by one


@dataclass(frozen=True)
class Event:
    """One detection; seconds count from the start of the stream."""

    time_s: float
    """When it fired: later than ``end_s`` by the time waited for a higher score."""
    start_s: float
    """Estimated start of the keyword; nan where the model does not tell."""
    end_s: float
    """Estimated end: the frame with the highest score, which is the firing one where nothing is waited for."""
    score: float


@dataclass(frozen=True)
class Peak:
    """An event that still waits for a higher score."""

    until: int
    """Frame at which it fires."""
    frame: int
    score: float
    start_s: float


@dataclass(frozen=True)
class DecoderState:
    """All that a decoder keeps of a stream: a few scores and counters, however long it runs."""

    frame: int = 0
    """Number of the next frame."""
    ready: int = 0
    """First frame that may fire."""
    tail: Scores = field(default_factory=lambda: np.zeros(0))
    """Newest scores, those that smoothing still needs."""
    waiting: Peak | None = None


@dataclass(frozen=True)
class EventDecoder:
    """Turns scores into events, chunk by chunk; any chunking gives the same events.

    Args:
        threshold: smoothed scores at or above it fire.
        frame_s: seconds of a frame.
        smoothing_frames: frames whose mean is compared; at the start of a stream, those there are. 1: no smoothing.
        refractory_s: no further event for so long after one.
        wait_s: after the threshold is reached, wait so long for a higher score and report that frame: better times, and
            so much later. The number of events does not change.

    Example::

        decoder = EventDecoder(threshold=0.8, frame_s=0.02)
        events, state = decoder.decode(scores, decoder.initial())

    Raises:
        ValueError: an argument is out of range.
    """

    threshold: float
    frame_s: float
    smoothing_frames: int = 1
    refractory_s: float = 1.0
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        if self.frame_s <= 0 or self.smoothing_frames < 1:
            raise ValueError(f"frame_s {self.frame_s} must be above 0, smoothing_frames {self.smoothing_frames} >= 1")
        if not 0 <= self.wait_s < max(self.refractory_s, self.frame_s):
            raise ValueError(f"wait_s {self.wait_s} must be at least 0 and below refractory_s {self.refractory_s}")

    @property
    def refractory_frames(self) -> int:
        """Least distance of two events."""
        return refractory_frames(self.refractory_s, self.frame_s)

    def initial(self) -> DecoderState:
        """The state before the first frame."""
        return DecoderState()

    def decode(
        self, scores: Sequence[float] | NDArray, state: DecoderState, starts_s: Sequence[float] | NDArray | None = None
    ) -> tuple[list[Event], DecoderState]:
        """Events of the next frames (T,), and the state after them.

        ``starts_s`` (T,): the model's estimate, for each frame, of how many seconds before it the keyword began.
        """
        raw = np.asarray(scores, np.float64)
        first, end = state.frame, state.frame + len(raw)
        keep = self.smoothing_frames - 1
        if state.waiting is None and self._quiet(raw, state.tail):
            return [], DecoderState(end, state.ready, _newest(state.tail, raw, keep))
        levels = smoothed(raw, self.smoothing_frames, state.tail, first)
        back = np.full(len(raw), math.nan) if starts_s is None else np.asarray(starts_s, np.float64)
        above = np.flatnonzero(levels >= self.threshold) + first
        wait = round(self.wait_s / self.frame_s)
        events: list[Event] = []
        ready, waiting = state.ready, state.waiting
        while True:
            if waiting is None:
                at = int(np.searchsorted(above, ready))
                if at == len(above):
                    break
                fired = int(above[at])
                ready = fired + self.refractory_frames
                waiting = Peak(fired + wait, fired, -math.inf, math.nan)
            waiting = self._highest(waiting, levels, back, first)
            if waiting.until >= end:
                break
            events.append(self._event(waiting))
            waiting = None
        return events, DecoderState(end, ready, _newest(state.tail, raw, keep), waiting)

    def finish(self, state: DecoderState) -> list[Event]:
        """What a stream that ends leaves: the event that still waited, if any."""
        return [] if state.waiting is None else [self._event(replace(state.waiting, until=state.frame - 1))]

    def events(
        self, scores: Sequence[float] | NDArray, starts_s: Sequence[float] | NDArray | None = None
    ) -> list[Event]:
        """All events of a whole stream (T,)."""
        found, state = self.decode(scores, self.initial(), starts_s)
        return found + self.finish(state)

    def _quiet(self, raw: Scores, tail: Scores) -> bool:
        """Whether no mean of these scores can reach the threshold: nearly always, and much cheaper than the means."""
        low = self.threshold - 1e-9 * (1 + abs(self.threshold))  # far beyond the rounding of a mean
        if len(raw) > _FEW:
            return bool(raw.max() < low) and not (len(tail) and tail.max() >= low)
        return all(score < low for score in raw.tolist()) and all(score < low for score in tail.tolist())

    def _highest(self, peak: Peak, levels: Scores, back: Scores, first: int) -> Peak:
        """The peak after the frames at hand; the earliest among equals."""
        begin = max(peak.frame if peak.score == -math.inf else 0, first)
        seen = levels[begin - first : peak.until + 1 - first]
        if not len(seen) or seen.max() <= peak.score:
            return peak
        at = int(seen.argmax()) + begin
        return Peak(peak.until, at, float(levels[at - first]), float(back[at - first]))

    def _event(self, peak: Peak) -> Event:
        end_s = (peak.frame + 1) * self.frame_s
        return Event((peak.until + 1) * self.frame_s, end_s - peak.start_s, end_s, peak.score)


def _newest(tail: Scores, raw: Scores, keep: int) -> Scores:
    """The last ``keep`` scores of ``tail`` and ``raw``, in an array of their own."""
    if len(raw) >= keep:
        return raw[len(raw) - keep :].copy()
    return np.concatenate([tail, raw])[-keep:]


def refractory_frames(refractory_s: float, frame_s: float) -> int:
    return max(1, round(refractory_s / frame_s))


def smoothed(scores: NDArray, frames: int, before: Scores | None = None, seen: int = 0) -> Scores:
    """Mean of each score and those before it, ``frames`` in all (fewer at the start), in float64; nan counts as -inf.

    ``before`` holds the scores ahead of the chunk, ``seen`` says how many there were. The sum runs over taps in one
    order, never along the stream, so that it does not depend on the chunk and does not drift.
    """
    raw = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if frames == 1:
        return raw
    past = np.zeros(0) if before is None else np.nan_to_num(before, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    past = past[-(frames - 1) :]
    padded = np.concatenate([np.zeros(frames - 1 - len(past)), past, raw])
    total = np.zeros(len(raw))
    for tap in range(frames):
        total += padded[tap : tap + len(raw)]
    return total / np.minimum(np.arange(seen + 1, seen + len(raw) + 1), frames)


def packed(frames: NDArray[np.int64], refractory: int) -> int:
    """How many events the ascending ``frames`` at or above a threshold give: the greedy count."""
    if not len(frames):
        return 0
    after = np.searchsorted(frames, frames + refractory).tolist()  # the next frame that may fire
    count = at = 0
    while at < len(after):
        count, at = count + 1, after[at]
    return count
