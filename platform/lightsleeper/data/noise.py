"""Noise and music to hear a keyword through, made from a seed: no file is needed. A folder of recordings may be added.

Kinds: white, pink and brown noise; babble of six talkers from the speech of the same part; hum of a mains-driven
machine; knocks; music (chords, bass, a tune and drums); recorded. The music is plain, but it has what upsets a detector
of speech: harmonics that move, onsets and rests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.augment import Audio, _babble, _coloured, draw_scene, mixed
from lightsleeper.data.clip_cache import ClipCache, cached_clips
from lightsleeper.data.rows import ClipSource
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import content_hash

KINDS = ("white", "pink", "brown", "babble", "hum", "knocks", "music")
RECORDED = "recorded"
AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
_SLOPES = {"pink": 1, "brown": 2}
_LOOP = 1 << 18  # samples after which coloured noise repeats, without a seam: longer transforms leave the cache
_BABBLE_CLIPS = 24  # that a stretch of babble is mixed from
_NOISY = 0.85  # share of training clips that are heard through noise
_POOL_SECONDS, _POOL_PIECES = 6.0, 6  # of each kind for training
_TABLE = 4096
_CHORDS = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16), (2, 5, 9))  # semitones over the key
_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)

Speech = Callable[[np.random.Generator], Audio]
"""Draws a clip of speech."""


@dataclass(frozen=True)
class DrawnSpeech:
    """A random one of some clips."""

    source: ClipSource
    clips: Sequence[int]

    def __call__(self, rng: np.random.Generator) -> Audio:
        return self.source.audio(int(self.clips[int(rng.integers(len(self.clips)))]))


def audio_files(folder: Path) -> list[Path]:
    """Recordings below a folder, by name. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"folder of recordings {folder} does not exist.")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise UserError(f"{folder} holds no recording ({', '.join(sorted(AUDIO_SUFFIXES))}).")
    return found


def divided(files: Sequence[Path], parts: Sequence[str]) -> dict[str, list[Path]]:
    """Files by part, of three: a tenth are the second's, a fifth the third's, drawn by a hash of their names.

    Fewer than three are in every part.
    """
    if len(files) < len(parts):
        return {part: list(files) for part in parts}
    drawn = sorted(files, key=lambda file: content_hash(file.name))
    second, third = max(1, len(files) // 10), max(1, len(files) // 5)
    cuts = (drawn[second + third :], drawn[:second], drawn[second : second + third])
    return {part: sorted(cut) for part, cut in zip(parts, cuts, strict=True)}


class NoiseSource:
    """Makes stretches of noise; a pure function of kind, length and generator.

    Args:
        speech: draws the clips that babble is mixed from; None: no babble.
        files: recordings of noise.
        kinds: those that are drawn from; None: all that can be made. `make` makes the others too.

    Raises:
        UserError: a kind is unknown, or has nothing to be made of.
    """

    def __init__(
        self, speech: Speech | None = None, files: Sequence[Path] = (), kinds: Sequence[str] | None = None
    ) -> None:
        self.speech = speech
        self.recorded: ClipCache | None = None
        if files:
            self.recorded = cached_clips(files, trim=False, on_bad_file="refuse")
        self.kinds = tuple(kind for kind in KINDS if kind != "babble" or speech is not None)
        self.kinds += (RECORDED,) if files else ()
        for kind in kinds or ():
            if kind not in self.kinds:
                raise UserError(f"noise '{kind}' is none of {', '.join(self.kinds)}.{did_you_mean(kind, self.kinds)}")
        self.kinds = tuple(kinds) if kinds else self.kinds

    def make(self, kind: str, length: int, rng: np.random.Generator) -> Audio:
        """``length`` samples whose mean square is 1."""
        if kind == "white":
            noise = rng.standard_normal(length, dtype=np.float32)
        elif kind in _SLOPES:
            noise = _falling(length, _SLOPES[kind], rng)
        elif kind == "babble":
            assert self.speech is not None
            noise = _babble([self.speech(rng) for _ in range(_BABBLE_CLIPS)], length, rng)
        elif kind == RECORDED:
            noise = self._recorded(length, rng)
        else:
            noise = {"hum": hum, "knocks": knocks, "music": music}[kind](length, rng)
        level = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
        return (noise / max(level, 1e-9)).astype(np.float32)

    def _recorded(self, length: int, rng: np.random.Generator) -> Audio:
        assert self.recorded is not None
        sound = self.recorded.audio(int(rng.integers(len(self.recorded))))
        start = int(rng.integers(max(1, len(sound) - length + 1)))
        return np.resize(sound[start:] if len(sound) - start >= length else sound, length)


class NoisePool:
    """A few seconds of every kind, made once, to cut from while training (see `augment.Noises`)."""

    def __init__(self, source: NoiseSource, seed: int) -> None:
        rng = np.random.default_rng([seed, 31])
        size = int(_POOL_SECONDS * SAMPLE_RATE)
        self.kinds = source.kinds
        self._pieces = {kind: [source.make(kind, size, rng) for _ in range(_POOL_PIECES)] for kind in source.kinds}

    def cut(self, name: str, length: int, rng: np.random.Generator) -> Audio:
        """``length`` samples from a random place of a random piece."""
        piece = self._pieces[name][int(rng.integers(_POOL_PIECES))]
        start = int(rng.integers(max(1, len(piece) - length)))
        return np.resize(piece[start:] if len(piece) - start >= length else piece, length)


def disturbed(
    audio: Audio,
    pool: NoisePool,
    snr_db: tuple[float, float],
    gain_db: tuple[float, float],
    rng: np.random.Generator,
) -> Audio:
    """A training clip (S,) in a drawn room, noise and channel, its peak within ``gain_db``; of zeros, noise alone."""
    kind = pool.kinds[int(rng.integers(len(pool.kinds)))]
    peak = float(10 ** (rng.uniform(*gain_db) / 20))
    if not audio.any():
        audio = pool.cut(kind, len(audio), rng).copy()
        kind = "none"
    noise = kind if rng.random() < _NOISY else "none"
    scene = replace(
        draw_scene(int(rng.integers(2**62))), speed=1.0, lead_s=0.0, tail_s=0.0, noise=noise,
        snr_db=float(rng.uniform(*snr_db)), peak=peak,
    )  # fmt: skip
    return np.clip(mixed(scene, audio, pool), -1, 1)


def hum(length: int, rng: np.random.Generator) -> Audio:
    """Harmonics of 50 or 60 Hz that swell slowly, over a little noise: a fan, a fridge, a vacuum cleaner."""
    times = np.arange(-(-length // 160) + 1) / 100  # swells are slow: 100 points a second
    samples = np.arange(length) / 160
    base = float(rng.choice((50.0, 60.0))) * float(rng.choice((1, 2)))
    sound = 0.1 * _falling(length, 1, rng)
    for _ in range(3):  # groups of harmonics that swell together
        swell = 1 + 0.3 * np.sin(2 * np.pi * float(rng.uniform(0.1, 2)) * times)
        swell_at = np.interp(samples, np.arange(len(times)), swell).astype(np.float32)
        sound += swell_at * _timbre(rng)[_phase(base, length)]
    return sound


def _falling(length: int, slope: int, rng: np.random.Generator) -> Audio:
    """Noise whose power falls with frequency to the power ``slope``."""
    size = min(_LOOP, 1 << max(length - 1, 1).bit_length())  # other lengths can take ten times as long
    return np.resize(_coloured(size, slope, rng), length)


def knocks(length: int, rng: np.random.Generator) -> Audio:
    """Short ringing impulses, a few a second, at random times: typing, dishes, steps; faint noise between."""
    sound = 0.01 * rng.standard_normal(length, dtype=np.float32)
    count = max(1, rng.poisson(float(rng.uniform(1, 8)) * length / SAMPLE_RATE))
    for at in rng.integers(length, size=count):
        size = int(rng.uniform(0.02, 0.15) * SAMPLE_RATE)
        burst = rng.standard_normal(size, dtype=np.float32)
        burst += 2 * _tone(float(rng.uniform(150, 4000)), size, 0.0)
        burst *= np.exp(-np.arange(size, dtype=np.float32) * np.float32(6 / size)) * np.float32(rng.uniform(0.2, 1))
        sound[at : at + size] += burst[: length - at]
    return sound


def music(length: int, rng: np.random.Generator) -> Audio:
    """A piece of ``length`` samples: key, tempo and instruments are drawn, then bars until it is full."""
    sound = np.zeros(length, np.float32)
    beat = int(60 / rng.uniform(70, 150) * SAMPLE_RATE)
    key = float(110 * 2 ** (rng.integers(12) / 12))
    timbres = [_timbre(rng) for _ in range(3)]
    drums = rng.random() < 0.7
    for bar, start in enumerate(range(0, length, 4 * beat)):
        chord = _CHORDS[int(rng.integers(len(_CHORDS))) if bar % 4 else 0]
        for semitone in chord:  # pad
            _play(sound, start, 4 * beat, key * 2 * 2 ** (semitone / 12), timbres[0], 0.25, 0.3)
        for quarter in range(4):
            at = start + quarter * beat
            _play(sound, at, beat, key / 2 * 2 ** (chord[0] / 12), timbres[1], 0.5, 2.0)  # bass
            if drums:
                _drum(sound, at, 0.3 if quarter % 2 else 0.6, bool(quarter % 2), rng)
            for part in range(2):  # a tune in eighths with rests
                if rng.random() < 0.6:
                    semitone = _SCALE[int(rng.integers(len(_SCALE)))]
                    at_part = at + part * beat // 2
                    _play(sound, at_part, beat // 2, key * 4 * 2 ** (semitone / 12), timbres[2], 0.35, 1.5)
    return sound


def _timbre(rng: np.random.Generator) -> NDArray[np.float32]:
    """One period of a tone with a dozen harmonics."""
    phase = np.arange(_TABLE) / _TABLE
    table = sum(float(rng.random()) / n**1.2 * np.sin(2 * np.pi * n * phase) for n in range(1, 13))
    return np.asarray(table / np.abs(table).max(), np.float32)


def _play(
    sound: Audio, start: int, size: int, hertz: float, table: NDArray[np.float32], loudness: float, decay: float
) -> None:
    size = min(size, len(sound) - start)
    if size <= 0 or hertz > SAMPLE_RATE / 2:
        return
    ramp = min(160, size)
    note = table[_phase(hertz, size)] * np.exp(np.arange(size, dtype=np.float32) * np.float32(-decay / SAMPLE_RATE))
    note[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)  # a jump would click
    note[-ramp:] *= np.linspace(1, 0, ramp, dtype=np.float32)
    sound[start : start + size] += np.float32(loudness) * note


def _phase(hertz: float, size: int) -> NDArray[np.int32]:
    """Places in a table of one period, sample by sample."""
    return (np.arange(size) * (hertz * _TABLE / SAMPLE_RATE)).astype(np.int32) & (_TABLE - 1)


def _drum(sound: Audio, start: int, loudness: float, snare: bool, rng: np.random.Generator) -> None:
    size = min(int(0.12 * SAMPLE_RATE), len(sound) - start)
    if size <= 0:
        return
    hit = rng.standard_normal(size, dtype=np.float32) if snare else 2 * _tone(60, size, 0.0)
    sound[start : start + size] += loudness * hit * np.exp(-np.arange(size, dtype=np.float32) * np.float32(5 / size))


def _tone(hertz: float, length: int, phase: float) -> Audio:
    return np.sin(2 * np.pi * (hertz / SAMPLE_RATE * np.arange(length) + phase)).astype(np.float32)
