"""Training clips of a wake word, put together anew in every epoch: keyword, neighbours, room, noise, level, place.

All randomness is a pure function of (seed, epoch, index).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightsleeper.data.audio import SAMPLE_RATE, trim_silence
from lightsleeper.data.augment import Audio
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.corpus import Corpus
from lightsleeper.data.noise import NoisePool, disturbed
from lightsleeper.data.rows import ClipSource

FRAME = 160  # samples of a frame of the phone track: 10 ms
_MARGIN_S = 0.05  # of a recording around its keyword
_GAP_S = (0.03, 0.4)  # to the neighbour
_JITTER_DB = 4.0
_NEIGHBOUR = 0.5  # share of clips that go on before their phrase, and of those that go on after it
_RMS = 0.05

Sound = tuple[float, float, int]
"""Begin and end in seconds, phone id."""


@dataclass(frozen=True)
class Piece:
    """Speech to build clips from: a stretch of a recording or of the corpus."""

    source: ClipSource
    clip: int
    begin_s: float
    end_s: float
    phones: tuple[Sound, ...] | None = None
    """None: not known."""


@dataclass(frozen=True)
class Pieces:
    """What one origin (synthesis, recordings) has for training."""

    keywords: Sequence[Piece]
    near: Sequence[Piece]
    speech: Sequence[Piece]


@dataclass(frozen=True)
class Mixture:
    """Shares and ranges of training clips."""

    samples: int
    positive_share: float
    near_share: float
    noise_share: float
    snr_db: tuple[float, float]
    gain_db: tuple[float, float]


def corpus_pieces(corpus: Corpus, part: str, phones: Mapping[str, Sequence[Sequence[int]]]) -> list[Piece]:
    """The clips of a corpus part, with the phone track that the engine's times and the lexicon give."""
    columns = {name: corpus.column(name) for name in ("word_starts_s", "word_ends_s", "phone_starts_s")}
    pieces = []
    for clip in corpus.clips(part).tolist():
        starts, ends, events = (columns[name][clip] for name in columns)
        track = sounded(phones[corpus.texts[clip]], starts, ends, events)
        pieces.append(Piece(corpus, clip, starts[0], ends[-1], track))
    return pieces


def sounded(
    words: Sequence[Sequence[int]], starts: Sequence[float], ends: Sequence[float], events: Sequence[float]
) -> tuple[Sound, ...]:
    """When each phone of the lexicon sounds. ``events``: begins of the engine's own phones.

    Where the engine says as many phones of a word as the lexicon has, theirs are the times; else the word's stretch is
    divided at its events in proportion (accents drop and add phones).
    """
    found: list[Sound] = []
    for word, begin, end in zip(words, starts, ends, strict=True):
        inside = [time for time in events if begin + 1e-4 < time < end - 1e-4]
        edges = np.array([begin, *inside, end])
        at = np.interp(np.linspace(0, len(edges) - 1, len(word) + 1), np.arange(len(edges)), edges)
        found += [(float(a), float(b), int(phone)) for phone, a, b in zip(word, at[:-1], at[1:], strict=True)]
    return tuple(found)


def recorded_piece(source: ClipSource, clip: int) -> Piece:
    """A recording from the first to the last sample of its speech, by energy."""
    first, last = trim_silence(source.audio(clip), margin_s=0.0)
    return Piece(source, clip, first / SAMPLE_RATE, last / SAMPLE_RATE)


class WakeClips(Dataset):
    """Clips of one length; see `data.wake_words.WakeWords` for their keys.

    Args:
        origins: synthesised pieces, recorded ones, or both.
        weights: share of the clips from each origin.
        noise: what is laid under them.
        mixture: shares and ranges.
        clips: in an epoch.
        seed: of everything.
        epoch: the one under way.
    """

    def __init__(
        self,
        origins: Sequence[Pieces],
        weights: Sequence[float],
        noise: NoisePool,
        mixture: Mixture,
        clips: int,
        seed: int,
        epoch: SharedEpoch,
    ) -> None:
        self.origins, self.weights, self.noise, self.mixture = origins, weights, noise, mixture
        self.clips, self.seed, self.epoch = clips, seed, epoch
        self.positives = round(clips * mixture.positive_share)

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch = self.epoch.get()
        rng = np.random.default_rng([self.seed, epoch, index, 5])
        kind = "keywords" if index < self.positives else self._kind(rng)
        piece = None if kind == "noise" else self._piece(kind, index + epoch * self.positives, rng)
        audio, begin, phones = self._compose(piece, rng)
        times = (np.nan, np.nan)
        if kind == "keywords" and piece is not None:
            times = (begin, begin + piece.end_s - piece.begin_s)
        return {
            "audio": torch.from_numpy(disturbed(audio, self.noise, self.mixture.snr_db, self.mixture.gain_db, rng)),
            "keyword": int(kind == "keywords"),
            "begin_s": torch.tensor(times[0], dtype=torch.float32),
            "end_s": torch.tensor(times[1], dtype=torch.float32),
            "phones": torch.from_numpy(phones),
            "clip": -1 if piece is None else piece.clip,
        }

    def _kind(self, rng: np.random.Generator) -> str:
        """Of a negative. The shares are of all clips."""
        chance = float(rng.random()) * (1 - self.mixture.positive_share)
        if chance < self.mixture.near_share:
            return "near"
        return "noise" if chance < self.mixture.near_share + self.mixture.noise_share else "speech"

    def _piece(self, kind: str, turn: int, rng: np.random.Generator) -> Piece:
        """Keywords of each origin take turns, so that none is missed; the others are drawn."""
        able = [(o, w) for o, w in zip(self.origins, self.weights, strict=True) if len(getattr(o, kind)) and w > 0]
        if not able:
            return self._piece("speech", turn, rng)
        share = np.array([weight for _, weight in able])
        drawn = int(rng.choice(len(able), p=share / share.sum()))
        if kind == "keywords":
            drawn, turn = _turn(share, turn)
        pool = getattr(able[drawn][0], kind)
        return pool[turn % len(pool) if kind == "keywords" else int(rng.integers(len(pool)))]

    def _compose(self, piece: Piece | None, rng: np.random.Generator) -> tuple[Audio, float, NDArray[np.int64]]:
        """The piece in the clip with its neighbours: audio (S,), seconds where it begins, phones (S / 160,)."""
        size = self.mixture.samples
        audio, phones = np.zeros(size, np.float32), np.zeros(size // FRAME, np.int64)
        if piece is None:
            return audio, 0.0, phones
        sound = _cut(piece)
        lead = min(round(_MARGIN_S * SAMPLE_RATE), round(piece.begin_s * SAMPLE_RATE))
        room = size - len(sound)
        # Running speech longer than the clip: any stretch of it.
        start = int(rng.integers(room + 1)) if room >= 0 else -int(rng.integers(-room + 1))
        begin = start / SAMPLE_RATE + lead / SAMPLE_RATE
        _place(audio, phones, sound, start, piece, begin)
        after = start + len(sound)
        while start > 0 and rng.random() < _NEIGHBOUR:
            other, neighbour = self._neighbour(rng)
            start -= len(neighbour) + _gap(rng)
            _place(audio, phones, neighbour, start, other, start / SAMPLE_RATE + _lead(other))
        while after < size and rng.random() < _NEIGHBOUR:
            other, neighbour = self._neighbour(rng)
            after += _gap(rng)
            _place(audio, phones, neighbour, after, other, after / SAMPLE_RATE + _lead(other))
            after += len(neighbour)
        return audio, begin, phones

    def _neighbour(self, rng: np.random.Generator) -> tuple[Piece, Audio]:
        piece = self._piece("speech", 0, rng)
        return piece, _cut(piece) * np.float32(10 ** (rng.uniform(-_JITTER_DB, _JITTER_DB) / 20))


def _turn(shares: NDArray[np.float64], turn: int) -> tuple[int, int]:
    """Whose turn it is when sources take turns by their shares, and how many it has had before."""
    for source, share in enumerate(shares[:-1]):
        part = float(share / shares[source:].sum())
        before = math.floor(turn * part)
        if math.floor((turn + 1) * part) > before:
            return source, before
        turn -= before
    return len(shares) - 1, turn


def _lead(piece: Piece) -> float:
    return min(_MARGIN_S, piece.begin_s)


def _gap(rng: np.random.Generator) -> int:
    return int(rng.uniform(*_GAP_S) * SAMPLE_RATE)


def _cut(piece: Piece) -> Audio:
    """The speech of a piece with a little margin, at one level."""
    audio = piece.source.audio(piece.clip)
    margin = round(_MARGIN_S * SAMPLE_RATE)
    begin, end = round(piece.begin_s * SAMPLE_RATE), round(piece.end_s * SAMPLE_RATE)
    sound = audio[max(0, begin - margin) : end + margin]
    level = float(np.sqrt(np.mean(np.square(audio[begin:end], dtype=np.float64)))) if end > begin else 0.0
    return sound * np.float32(_RMS / max(level, 1e-5))


def _place(audio: Audio, phones: NDArray[np.int64], sound: Audio, start: int, piece: Piece, begin_s: float) -> None:
    """Add ``sound`` from sample ``start``; the piece itself begins at ``begin_s``."""
    first, last = max(0, start), min(len(audio), start + len(sound))
    if first >= last:
        return
    audio[first:last] += sound[first - start : last - start]
    if piece.phones is None:
        phones[first // FRAME : -(-last // FRAME)] = -1
        return
    shift = begin_s - piece.begin_s
    for begin, end, phone in piece.phones:
        a, b = (round((time + shift) * SAMPLE_RATE / FRAME) for time in (begin, end))
        phones[max(0, a) : max(0, b)] = phone
