"""Hours of audio to test a detector on, made while they are read: nothing is stored, any chunk size gives the same.

A `Scenery` is planned from a seed (which utterance begins at which sample, in which room, over which noise at which
SNR) and rendered stretch by stretch, so the times of its events are exact: keywords placed evenly among other speech,
or the words of running speech. `Clip` and `Joined` are recordings read the same way: one keyword each, or speech, one
recording after the other.
"""

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.augment import Audio, draw_scene, mixed
from lightsleeper.data.batch import _ranks
from lightsleeper.data.noise import NoiseSource
from lightsleeper.data.rows import ClipSource
from lightsleeper.data.sounds import PAD_S
from lightsleeper.errors import UserError

HOP = 320
"""Streams and chunks are whole multiples of it: 20 ms, the longest hop of our models."""
FULL_SCALE = 32768
KEYWORD_SECONDS = 8.0  # room that a keyword and what surrounds it take at least
_GAP_S = (0.1, 1.2)  # between two utterances
_TALK_S, _QUIET_S = (15.0, 60.0), (5.0, 30.0)
_TALK = 0.75  # share of passages with speech
_SPEECH_DBFS, _QUIET_DBFS = (-36.0, -18.0), (-50.0, -22.0)
_JITTER_DB = 4.0  # by which other speech is louder or softer than its passage
_RING_S = 0.2  # of a room after an utterance
_FADE = 320  # samples in which noise comes and goes
_KEPT = {"passage": 2, "utterance": 4}  # rendered pieces in memory: the next chunk needs them again


Content = Literal["speech", "negatives", "babble", "noise", "silence"]
"""What a stream holds: speech with events; speech without any; many talkers at once; noise; next to nothing."""

Event = tuple[float, ...]
"""Begin and end in seconds, and where words are told apart, the word's number."""


class Stream(Protocol):
    """Audio of ``samples`` samples with events at known times."""

    samples: int
    content: Content
    events: list[Event]
    """Of a keyword (0, inf) where it lies anywhere in the stream."""

    def read(self, start: int, count: int) -> Audio: ...


@dataclass(frozen=True)
class Keyword:
    """A clip that holds the keyword from ``begin_s`` to ``end_s``."""

    clip: int
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Passage:
    """A stretch of a scenery: one noise at one level, and for its speech one level."""

    start: int
    end: int
    noise: str
    """Kind of noise."""
    speech_db: float
    """Of full scale: the level that keywords have, mean square over the keyword."""
    noise_db: float
    """Of full scale. In a passage with speech ``speech_db - snr``."""
    seed: int

    @property
    def snr_db(self) -> float:
        return self.speech_db - self.noise_db


@dataclass(frozen=True)
class Placed:
    """An utterance in a scenery."""

    start: int
    end: int
    clip: int
    level_db: float
    keyword: Keyword | None
    seed: int


class Scenery:
    """Speech in noise and music: passages of talk and of noise alone, changing every minute or so.

    Every keyword has exactly its passage's SNR, and so has the stretch from the first to the last word of an annotated
    utterance; other speech lies up to 4 dB around its level. Each utterance is heard
    in a room, through a microphone or line of its own. With ``talk`` 0 it is noise alone.

    Args:
        source: clips without noise of their own.
        keywords: to place, evenly over the stream.
        speech: clips of running speech, taken in random order and again when all are used.
        noise: makes the noise.
        seconds: length, to the nearest 20 ms.
        seed: of everything.
        snr_db: lowest and highest SNR, drawn for each passage.
        words: events within a clip, (begin, end, word): what running speech is annotated with.
        content: what the stream is reported as.
        talk: share of passages with speech.
        gap_s: shortest and longest pause between two utterances.
        kinds: of noise that are drawn from; None: all that ``noise`` makes.
        quiet_dbfs: lowest and highest level of passages without speech.

    Raises:
        UserError: there is no room for so many keywords, or no speech to place them in.
    """

    def __init__(
        self,
        source: ClipSource,
        keywords: Sequence[Keyword],
        speech: Sequence[int],
        noise: NoiseSource,
        seconds: float,
        seed: int,
        snr_db: tuple[float, float] = (0.0, 30.0),
        words: Mapping[int, Sequence[Event]] | None = None,
        content: Content = "speech",
        talk: float = _TALK,
        gap_s: tuple[float, float] = _GAP_S,
        kinds: Sequence[str] | None = None,
        quiet_dbfs: tuple[float, float] = _QUIET_DBFS,
    ) -> None:
        self.source, self.noise, self.snr_db = source, noise, snr_db
        self.content, self.talk, self.gap_s, self.quiet_dbfs = content, talk, gap_s, quiet_dbfs
        self.kinds = noise.kinds if kinds is None else tuple(kinds)
        self.words = words or {}
        self.samples = round(seconds * SAMPLE_RATE / HOP) * HOP
        if len(keywords) * KEYWORD_SECONDS > seconds:
            raise UserError(
                f"{len(keywords)} keywords need {len(keywords) * KEYWORD_SECONDS / 3600:.2f} hours of stream at "
                f"{KEYWORD_SECONDS:.0f} s each; there are {seconds / 3600:.2f}: ask for more hours or fewer keywords."
            )
        if talk > 0 and not len(speech):
            raise UserError("a stream needs running speech around its keywords; there is none.")
        self.passages: list[Passage] = []
        self.placed: list[Placed] = []
        self._plan(list(keywords), speech, np.random.default_rng([seed, 40]))
        self.events: list[Event] = []
        for placed in self.placed:
            at = placed.start / SAMPLE_RATE
            if placed.keyword is not None:
                self.events.append((at + placed.keyword.begin_s, at + placed.keyword.end_s))
            for begin, end, *word in self.words.get(placed.clip, ()):
                self.events.append((at + begin, at + end, *word))
        self._starts = [placed.start for placed in self.placed]
        self._longest = max((placed.end - placed.start for placed in self.placed), default=0)
        self._passage_starts = [passage.start for passage in self.passages]
        self._kept: dict[str, OrderedDict[int, Audio]] = {what: OrderedDict() for what in _KEPT}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {what: OrderedDict() for what in _KEPT}}

    def _plan(self, keywords: list[Keyword], speech: Sequence[int], rng: np.random.Generator) -> None:
        order = [keywords[i] for i in rng.permutation(len(keywords))]
        share = self.samples / max(len(order), 1)
        due = [int((i + rng.uniform(0.1, 0.4)) * share) for i in range(len(order))]
        needed = sum(self._span(keyword.clip) for keyword in order)  # samples that the keywords still to come take
        queue: list[int] = []
        at = 0
        while at < self.samples:
            latest = min(due[0], self.samples - needed) if due else self.samples  # of the next keyword
            talk = at >= latest or rng.random() < self.talk
            length = rng.uniform(*(_TALK_S if talk else _QUIET_S)) * SAMPLE_RATE
            start, level_db = at, float(rng.uniform(*_SPEECH_DBFS))
            at += self._gap(rng)
            while talk and at < start + length:
                queue = queue or [int(speech[i]) for i in rng.permutation(len(speech))]
                late = len(due) > 0 and (due[0] <= at or at + self._span(queue[-1]) + needed > self.samples)
                keyword = order.pop(0) if late else None
                clip = queue.pop() if keyword is None else keyword.clip
                if keyword is not None:
                    due.pop(0)
                    needed -= self._span(clip)
                end = at + round((self.source.seconds(clip) + _RING_S) * SAMPLE_RATE)
                if end > self.samples:
                    if keyword is not None:
                        order.insert(0, keyword)
                    at = self.samples
                    break
                louder = 0.0 if keyword is not None else float(rng.uniform(-_JITTER_DB, _JITTER_DB))
                louder = 0.0 if self.words.get(clip) else louder
                self.placed.append(Placed(at, end, clip, level_db + louder, keyword, int(rng.integers(2**62))))
                at = end + self._gap(rng)
            at = min(self.samples, at if talk else max(at, min(start + int(length), latest)))
            kind = self.kinds[int(rng.integers(len(self.kinds)))]
            noise_db = level_db - float(rng.uniform(*self.snr_db)) if talk else float(rng.uniform(*self.quiet_dbfs))
            self.passages.append(Passage(start, at, kind, level_db, noise_db, int(rng.integers(2**62))))
        if order:
            raise UserError(
                f"{len(order)} keywords found no place in a stream of {self.samples / SAMPLE_RATE / 3600:.2f} hours: "
                "ask for more hours, fewer keywords or shorter utterances."
            )

    def _span(self, clip: int) -> int:
        """Samples that an utterance takes at most, with the gap after it."""
        return round((self.source.seconds(clip) + _RING_S + self.gap_s[1]) * SAMPLE_RATE)

    def _gap(self, rng: np.random.Generator) -> int:
        return int(rng.uniform(*self.gap_s) * SAMPLE_RATE)

    def read(self, start: int, count: int) -> Audio:
        """Samples (count,) from ``start``, in [-1, 1), of 16 bits: as a converter gives them."""
        audio = np.zeros(count, np.float32)
        for index in range(max(0, bisect_right(self._passage_starts, start) - 1), len(self.passages)):
            passage = self.passages[index]
            if passage.start >= start + count:
                break
            _add(audio, start, passage.start, self._rendered("passage", index))
        for index in range(bisect_right(self._starts, start - self._longest), len(self.placed)):
            placed = self.placed[index]
            if placed.start >= start + count:
                break
            if placed.end > start:
                _add(audio, start, placed.start, self._rendered("utterance", index))
        audio *= FULL_SCALE
        np.rint(audio, out=audio)
        return np.clip(audio, -FULL_SCALE, FULL_SCALE - 1, out=audio) / np.float32(FULL_SCALE)

    def _rendered(self, what: str, index: int) -> Audio:
        """One noise or utterance, from memory where it was just used."""
        kept = self._kept[what]
        if index not in kept:
            kept[index] = (self._noise if what == "passage" else self._utterance)(index)
            if len(kept) > _KEPT[what]:
                kept.popitem(last=False)
        kept.move_to_end(index)
        return kept[index]

    def _noise(self, index: int) -> Audio:
        passage = self.passages[index]
        length = passage.end - passage.start
        noise = self.noise.make(passage.noise, length, np.random.default_rng(passage.seed))
        noise *= np.float32(10 ** (passage.noise_db / 20))
        fade = min(_FADE, length // 2)
        noise[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
        noise[length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        return noise

    def _utterance(self, index: int) -> Audio:
        placed = self.placed[index]
        scene = replace(draw_scene(placed.seed), speed=1.0, lead_s=0.0, tail_s=_RING_S, noise="none", peak=0.5)
        sound = mixed(scene, self.source.audio(placed.clip), _SILENT)[: placed.end - placed.start]
        heard = sound
        span = None if placed.keyword is None else (placed.keyword.begin_s, placed.keyword.end_s)
        if events := self.words.get(placed.clip):
            span = events[0][0], events[-1][1]
        if span is not None:
            begin, end = (round(t * SAMPLE_RATE) for t in span)
            heard = sound[begin:end]
        return sound * np.float32(10 ** (placed.level_db / 20) / max(_level(heard), 1e-6))


class Clip:
    """A recording with ``pad_s`` of silence around it, as a stream; the keyword lies anywhere in it."""

    def __init__(self, source: ClipSource, clip: int, positive: bool = True, pad_s: float = PAD_S) -> None:
        self.source, self.clip, self.pad = source, clip, round(pad_s * SAMPLE_RATE)
        length = round(source.seconds(clip) * SAMPLE_RATE) + 2 * self.pad
        self.samples = -(-length // HOP) * HOP
        self.content: Content = "speech" if positive else "negatives"
        self.events: list[Event] = [(0.0, math.inf)] if positive else []

    def read(self, start: int, count: int) -> Audio:
        audio = np.zeros(count, np.float32)
        _add(audio, start, self.pad, self.source.audio(self.clip))
        return audio


class Joined:
    """Recordings one after the other with half a second of silence between, as one stream.

    Args:
        source: of the recordings.
        clips: in their order.
        gap_s: silence after each.
        words: events within a clip; None: the stream has none.
        step: samples whose whole multiple the stream's length is.
    """

    def __init__(
        self,
        source: ClipSource,
        clips: Sequence[int],
        gap_s: float = PAD_S,
        words: Mapping[int, Sequence[Event]] | None = None,
        step: int = HOP,
    ) -> None:
        self.source, self.clips = source, list(clips)
        self.content: Content = "negatives" if words is None else "speech"
        gap = round(gap_s * SAMPLE_RATE)
        lengths = [round(source.seconds(clip) * SAMPLE_RATE) + gap for clip in self.clips]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self.samples = -(-self._starts[-1] // step) * step
        self.events: list[Event] = [
            (start / SAMPLE_RATE + begin, start / SAMPLE_RATE + end, *word)
            for start, clip in zip(self._starts[:-1], self.clips, strict=True)
            for begin, end, *word in (words or {}).get(clip, ())
        ]

    def read(self, start: int, count: int) -> Audio:
        audio = np.zeros(count, np.float32)
        for index in range(max(0, bisect_right(self._starts, start) - 1), len(self.clips)):
            if self._starts[index] >= start + count:
                break
            _add(audio, start, self._starts[index], self.source.audio(self.clips[index]))
        return audio


class StreamChunks(IterableDataset):
    """Streams in consecutive chunks, one after the other; every process of a distributed run has whole streams.

    Items: ``audio`` (1, samples), ``stream`` its number, ``first``, ``last``, ``start_s`` of the chunk's first sample,
    ``seconds``, ``events`` and ``content`` of the whole stream.
    Use it with ``batch_size=None`` and at most one worker.
    """

    def __init__(self, streams: Mapping[int, Stream], chunk: int) -> None:
        if chunk % HOP:
            raise ValueError(f"a chunk of {chunk} samples is not a multiple of {HOP}")
        self.streams, self.chunk = streams, chunk

    def __len__(self) -> int:
        return sum(-(-self.streams[number].samples // self.chunk) for number in self._mine())

    def _mine(self) -> list[int]:
        rank, world = _ranks()
        numbers = list(self.streams)
        # A process with nothing to do would skip the evaluation that the others wait in; metrics count a stream once.
        return numbers[rank::world] or numbers[:1]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in self._mine():
            stream = self.streams[number]
            for start in range(0, stream.samples, self.chunk):
                count = min(self.chunk, stream.samples - start)
                yield {
                    "audio": torch.from_numpy(stream.read(start, count))[None],
                    "stream": number,
                    "first": start == 0,
                    "last": start + count == stream.samples,
                    "start_s": start / SAMPLE_RATE,
                    "seconds": stream.samples / SAMPLE_RATE,
                    "events": stream.events,
                    "content": stream.content,
                }


class _NoNoise:
    def cut(self, name: str, length: int, rng: np.random.Generator) -> Audio:
        raise AssertionError("a scene without noise cuts none")


_SILENT = _NoNoise()


def _level(sound: Audio) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) if len(sound) else 0.0


def _add(audio: Audio, start: int, at: int, piece: Audio) -> None:
    """Add what of ``piece``, which begins at sample ``at``, lies in ``audio``, which begins at ``start``."""
    first, last = max(start, at), min(start + len(audio), at + len(piece))
    if first < last:
        audio[first - start : last - start] += piece[first - at : last - at]
