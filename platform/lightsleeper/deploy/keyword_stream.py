"""Typed keywords in a stream: samples in, events out, whatever the number of keywords and of samples a call.

Published is a matcher of clips only; how to stream is ours. Every hop the encoder hears the last window, once for all
keywords, and for each keyword the stretch is found where its phones fit best (`deploy.segments`). The best stretch that
was not looked at before is then looked at: it goes through encoder and matcher alone, as clips did in training, with
all keywords that fit about there. (Matched on the window's own frames instead, 0.8 s of silence or of other words on
both sides cost a keyword as much score as lies between a median one and the threshold.)

Between two calls it keeps one window of samples, and what was looked at and told that is still inside it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.cohort import Cohort
from lightsleeper.deploy.hops import Rest, threshold_of
from lightsleeper.deploy.many_keywords import Enrolled, ManyKeywords
from lightsleeper.errors import UserError

WINDOW_S, HOP_S = 2.0, 0.24
SLOW_PHONE_S, AROUND_S = 0.14, 0.3  # a slow speaker's phone (7 a second), and what is kept around a keyword
LEAST_FIT = -4.0
"""Log-probability a phone below which a stretch is not looked at: with -5 hardly more keywords are found
(docs/results.md)."""
LOOKED = 2  # frames: nearer stretches of a keyword are one, of which the first is looked at
SAME = 0.5  # of the stretch that two keywords cover: more in common, and only the better one was said


@dataclass(frozen=True)
class KeywordEvent:
    """A keyword that was heard; seconds count from the start of the stream, good to about a tenth of one."""

    keyword: str
    row: int
    """Which pronunciation: its row among the enrolled."""
    start_s: float
    end_s: float
    score: float
    time_s: float
    """When it was told."""


class KeywordStream:
    """Listens for enrolled keywords.

    An utterance is told once: later windows that hold it too add nothing. Where stretches of two keywords are mostly
    the same, the better one counts, if it is there before the other is told.

    Args:
        matcher: the graphs.
        enrolled: the keywords.
        threshold: of the score; None: the one stored with the model.
        window_s: what the encoder hears at once. None: 2 s, or what the longest keyword takes of a slow speaker.
        hop_s: from one window to the next.
        wait_s: an event waits so long for a better one in its place.
        cohort: scores are measured against those of other texts; None: as they are.
        least_fit: see `LEAST_FIT`; minus infinity looks at something in every window.

    Example::

        stream = KeywordStream(matcher, matcher.enroll(keywords))
        for samples in microphone:
            for event in stream.push(samples):
                print(event.keyword, event.start_s, event.score)

    Raises:
        UserError: there is no threshold, or the window is shorter than a hop.
    """

    def __init__(
        self,
        matcher: ManyKeywords,
        enrolled: Enrolled,
        threshold: float | None = None,
        window_s: float | None = None,
        hop_s: float = HOP_S,
        wait_s: float = 0.0,
        cohort: Cohort | None = None,
        least_fit: float = LEAST_FIT,
    ) -> None:
        window_s = longest_s(enrolled) if window_s is None else window_s
        if not 0 < hop_s <= window_s:
            raise UserError(f"a window of {window_s:g} s and a hop of {hop_s:g} s: expected 0 < hop <= window.")
        if not wait_s >= 0:
            raise UserError(f"expected a wait of 0 s or more, got {wait_s:g}.")
        self.matcher, self.enrolled, self.cohort = matcher, enrolled, cohort
        self.threshold = threshold_of({} if cohort is not None else matcher.metadata, threshold)
        self.sample_rate = matcher.sample_rate
        self.hop, self.window = round(hop_s * self.sample_rate), round(window_s * self.sample_rate)
        self.wait_s, self.least_fit = wait_s, least_fit
        self.reset()

    def reset(self) -> None:
        """Begin a new stream."""
        self._heard = np.zeros(0, np.float32)  # the last window
        self._samples = 0
        self._rest = Rest(self.hop)
        self._waiting: list[KeywordEvent] = []
        self._told: list[KeywordEvent] = []
        self._looked: list[tuple[int, int, int]] = []  # row, first and last sample

    @property
    def seconds(self) -> float:
        """Of the stream that have been scored."""
        return self._samples / self.sample_rate

    def push(self, samples: NDArray) -> list[KeywordEvent]:
        """Events of the next samples (n,): float in [-1, 1], or int16."""
        audio = self._rest.whole(samples)
        return [event for at in range(0, len(audio), self.hop) for event in self._hear(audio[at : at + self.hop])]

    def finish(self) -> list[KeywordEvent]:
        """What the end of the stream makes certain: its last samples, filled up with silence, and events that wait."""
        found = self.push(np.zeros(-len(self._rest) % self.hop, np.float32)) if len(self._rest) else []
        return found + self._settle(math.inf)

    def _hear(self, hop: NDArray[np.float32]) -> list[KeywordEvent]:
        self._heard = np.concatenate([self._heard, hop])[-self.window :]
        self._samples += len(hop)
        begin = self._samples - len(self._heard)
        frame = round(self.matcher.frame_s * self.sample_rate)
        fit, stretches = self.matcher.segments(
            self.matcher.encode(self._heard), self.enrolled, self._earliest(begin, frame)
        )
        places = begin + np.minimum(stretches * frame, len(self._heard))  # samples of the stream
        self._told = [event for event in self._told if event.end_s * self.sample_rate > begin]
        self._looked = [seen for seen in self._looked if seen[2] > begin]
        rows = self._next(fit, places, frame)
        if len(rows):
            for event in self.look(rows, *places[rows[0]].tolist()):
                if event.score >= self.threshold:
                    self._offer(event)
        return self._settle(self.seconds)

    def _earliest(self, begin: int, frame: int) -> NDArray[np.int64]:
        """The first frame (R,) of the window, which starts at sample ``begin``, that a row may start in: a keyword that
        was told is looked for after it."""
        ends = {event.keyword: round(event.end_s * self.sample_rate) for event in self._told}
        told = [ends.get(self.enrolled.texts[owner], begin) for owner in self.enrolled.owner]
        return (np.array(told) - begin) // frame

    def _next(self, fit: NDArray[np.float32], places: NDArray[np.int64], frame: int) -> NDArray[np.intp]:
        """Rows to look at together, the best first: those in its place; none where all that fit were looked at."""
        order = np.argsort(-fit, kind="stable")
        order = order[fit[order] >= self.least_fit]
        seen = np.array(self._looked, np.int64).reshape(-1, 3)
        for row in order:
            near = np.abs(seen[:, 1:] - places[row]).max(1, initial=0) <= LOOKED * frame
            if (near & (seen[:, 0] == row)).any():
                continue
            others = [other for other in order if other != row and _shared(places[row], places[other]) > SAME]
            rows = np.array([row, *others])
            self._looked += [(int(other), *places[other].tolist()) for other in rows]
            return rows
        return order[:0]

    def look(self, rows: NDArray[np.intp], first: int, end: int) -> list[KeywordEvent]:
        """``rows`` matched on a stretch of the stream inside the window, given in samples; the best first."""
        begin = self._samples - len(self._heard)
        frames = self.matcher.encode(self._heard[first - begin : end - begin])
        scores = self.matcher.match(frames, self.enrolled, rows=rows)["score"]
        if self.cohort is not None:
            scores = self.cohort.measured(self.matcher, frames, scores, rows)
        times = (first / self.sample_rate, end / self.sample_rate)
        owners = [self.enrolled.texts[self.enrolled.owner[row]] for row in rows]
        return [
            KeywordEvent(owners[place], int(rows[place]), *times, float(scores[place]), self.seconds)
            for place in np.argsort(-scores, kind="stable")
        ]

    def _offer(self, event: KeywordEvent) -> None:
        """Let ``event`` wait, unless it was told already or something better is in its place."""
        if any(same(event, told) for told in self._told):
            return
        rivals = [other for other in self._waiting if same(event, other)]
        if all(event.score > other.score for other in rivals):
            since = min([other.time_s for other in rivals], default=event.time_s)  # a better one begins no new wait
            self._waiting = [other for other in self._waiting if other not in rivals]
            self._waiting.append(KeywordEvent(**{**vars(event), "time_s": since}))

    def _settle(self, now_s: float) -> list[KeywordEvent]:
        """Events whose wait is over, in the order of their ends."""
        ready = [event for event in self._waiting if event.time_s + self.wait_s <= now_s + 1e-9]
        self._waiting = [event for event in self._waiting if event not in ready]
        ready = [KeywordEvent(**{**vars(e), "time_s": self.seconds}) for e in sorted(ready, key=lambda e: e.end_s)]
        self._told += ready
        return ready

    def state_bytes(self) -> int:
        """Kept between two calls: a window and the rest of a hop."""
        return 4 * (self.window + self.hop - 1)


def same(a: KeywordEvent, b: KeywordEvent) -> bool:
    """Whether both cannot have been said: one keyword twice in one place, or two in mostly the same."""
    shared = _shared((a.start_s, a.end_s), (b.start_s, b.end_s))
    return shared > (0 if a.keyword == b.keyword else SAME)


def _shared(a: Sequence[float] | NDArray, b: Sequence[float] | NDArray) -> float:
    """What two stretches have in common, as a share of what they cover together."""
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / (max(a[1], b[1]) - min(a[0], b[0]))


def longest_s(enrolled: Enrolled) -> float:
    """Seconds of a window that every keyword fits into."""
    return max(WINDOW_S, AROUND_S + SLOW_PHONE_S * max(len(keyword.phones) for keyword in enrolled.keywords))


def detect_stream(stream: KeywordStream, audio: NDArray) -> Iterator[KeywordEvent]:
    """All events of a whole recording (S,), from a fresh stream."""
    stream.reset()
    yield from stream.push(audio)
    yield from stream.finish()
