"""Listening to a sound with a detector: events as they become certain, and, for a picture, what was heard meanwhile."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.sounds import PAD_S, Sound
from lightsleeper.deploy.detector import StreamingDetector
from lightsleeper.metrics.events import Event


@dataclass(frozen=True)
class Found:
    """An event of a sound; seconds count from the sound's first sample."""

    file: str
    start_s: float | None
    """None where the model does not tell."""
    end_s: float
    time_s: float
    """When it fired."""
    score: float


class Watcher(Protocol):
    """Somebody who sees all that goes through the detector: a picture, a level meter."""

    def hear(self, samples: NDArray[np.float32]) -> None: ...

    def score(self, scores: NDArray[np.float32]) -> None: ...


class Listening:
    """One sound through a detector, from its initial state.

    A recording gets ``PAD_S`` of silence on both sides, as in evaluation: a device would go on hearing, and a keyword
    that ends with the file would fire only then. Nothing is kept but the detector's state.

    Example::

        for found in Listening(detector, Recording("clip.wav")):
            print(found.end_s, found.score)
    """

    def __init__(self, detector: StreamingDetector, sound: Sound, *watchers: Watcher) -> None:
        self.detector, self.sound, self.watchers = detector, sound, watchers
        self.pad_s = pad_of(sound)
        self.events = self.samples = 0

    @property
    def seconds(self) -> float:
        """Of the sound that have been heard."""
        return self.samples / self.detector.sample_rate

    def __iter__(self) -> Iterator[Found]:
        self.detector.reset()
        self.events = self.samples = 0
        silence = np.zeros(round(self.pad_s * self.detector.sample_rate), np.float32)
        yield from self._push(silence)
        with closing(self.sound.blocks(self.detector.sample_rate)) as blocks:
            for block in blocks:
                self.samples += len(block)
                yield from self._push(block)
        yield from self._push(silence)
        yield from self.finish()

    def finish(self) -> Iterator[Found]:
        """What the end makes certain; also for a sound that somebody ended."""
        for event in self.detector.finish():
            yield self._found(event)

    def _push(self, samples: NDArray[np.float32]) -> Iterator[Found]:
        for watcher in self.watchers:
            watcher.hear(samples)
        for scores, events in self.detector.frames(samples):
            for watcher in self.watchers:
                watcher.score(scores)
            for event in events:
                yield self._found(event)

    def _found(self, event: Event) -> Found:
        self.events += 1
        length = self.sound.seconds if self.pad_s else None
        start_s, end_s = (self._inside(time_s, length) for time_s in (event.start_s, event.end_s))
        told = None if np.isnan(event.start_s) else start_s
        return Found(self.sound.name, told, end_s, event.time_s - self.pad_s, event.score)

    def _inside(self, time_s: float, length: float | None) -> float:
        """Seconds from the sound's first sample; a keyword neither begins before it nor ends after the last."""
        time_s = max(0.0, time_s - self.pad_s)
        return time_s if length is None else min(time_s, length)


def pad_of(sound: Sound) -> float:
    """Seconds of silence that a sound gets on both sides."""
    return 0.0 if sound.live else PAD_S


def to_json(found: Found) -> dict[str, Any]:
    """Rounded to tenths of a millisecond: frames are 10 to 20 ms long."""
    values = {name: getattr(found, name) for name in ("start_s", "end_s", "time_s")}
    times = {name: None if value is None else round(value, 4) for name, value in values.items()}
    return {"file": found.file, **times, "score": found.score}
