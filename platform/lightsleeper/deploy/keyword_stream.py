"""Typed keywords in a stream: samples in, events out, whatever the number of keywords and of samples a call.

Every hop the encoder hears the last window, once for all keywords; each keyword is matched on the stretch of it where
its phones fit best (`deploy.segments`), and a score that reaches the threshold is an event. Published is a matcher of
clips only; window, hop and all that follows are ours. Between two calls it keeps one window of samples and the events
that are still inside it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.cohort import Cohort
from lightsleeper.deploy.hops import Rest, threshold_of
from lightsleeper.deploy.many_keywords import Enrolled, ManyKeywords
from lightsleeper.errors import UserError

WINDOW_S, HOP_S = 2.0, 0.24
LEAST_FIT = -6.0
"""Log-probability a phone below which a stretch is not matched at all. Of 720 validation clips that say the phrase none
fitted below -2.7, of 150 digits by people none below -5.7; of clips that say something else, a third to a half do."""
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
        window_s: what the encoder hears at once. Keywords must fit into it.
        hop_s: from one window to the next.
        wait_s: an event waits so long for a better one in its place.
        cohort: scores are measured against those of other texts; None: as they are.
        least_fit: see `LEAST_FIT`; minus infinity matches every keyword in every window.

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
        window_s: float = WINDOW_S,
        hop_s: float = HOP_S,
        wait_s: float = 0.0,
        cohort: Cohort | None = None,
        least_fit: float = LEAST_FIT,
    ) -> None:
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

    def scores(self, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.intp]]:
        """Of one window (S,): the best score of each keyword (K,), -inf where it does not fit; its stretch (K, 2) in
        frames; and the row (K,) that reached it."""
        frames = self.matcher.encode(audio)
        fit, stretches = self.matcher.segments(frames, self.enrolled)
        rows = np.flatnonzero(fit >= self.least_fit)
        scores = np.full(len(fit), -np.inf, np.float32)
        if len(rows):
            scores[rows] = self.matcher.match(frames, self.enrolled, stretches[rows], rows)["score"]
            if self.cohort is not None:
                scores[rows] = self.cohort.measured(self.matcher, frames, scores[rows], stretches[rows], rows)
        best = self.enrolled.best(scores)
        return scores[best], stretches[best], best

    def _hear(self, hop: NDArray[np.float32]) -> list[KeywordEvent]:
        self._heard = np.concatenate([self._heard, hop])[-self.window :]
        self._samples += len(hop)
        scores, stretches, rows = self.scores(self._heard)
        begin_s = self.seconds - len(self._heard) / self.sample_rate
        for keyword in np.argsort(-scores, kind="stable"):
            if not scores[keyword] >= self.threshold:
                break
            first, end = (begin_s + stretches[keyword] * self.matcher.frame_s).tolist()
            text, row = self.enrolled.texts[keyword], int(rows[keyword])
            self._offer(KeywordEvent(text, row, first, min(end, self.seconds), float(scores[keyword]), self.seconds))
        self._told = [event for event in self._told if event.end_s > begin_s]
        return self._settle(self.seconds)

    def _offer(self, event: KeywordEvent) -> None:
        """Let ``event`` wait, unless it was told already or something better is in its place."""
        if any(_same(event, told) for told in self._told):
            return
        rivals = [other for other in self._waiting if _same(event, other)]
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


def _same(a: KeywordEvent, b: KeywordEvent) -> bool:
    """Whether both cannot have been said: one keyword twice in one place, or two in mostly the same."""
    common = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    if a.keyword == b.keyword:
        return common > 0
    return common > SAME * (max(a.end_s, b.end_s) - min(a.start_s, b.start_s))


def detect_stream(stream: KeywordStream, audio: NDArray) -> Iterator[KeywordEvent]:
    """All events of a whole recording (S,), from a fresh stream."""
    stream.reset()
    yield from stream.push(audio)
    yield from stream.finish()
