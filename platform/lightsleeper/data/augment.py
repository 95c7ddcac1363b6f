"""What a clip goes through once, when the corpus is made: speed, room, noise, channel, silence, level.

Everything random is drawn first into a ``Scene`` from the clip's own seed and kept beside the audio, so a clip can be
explained and made again alone. Room, noise and channel are one product in the frequency domain: three transforms a
clip, about a millisecond. NumPy only, because worker processes should start fast.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
NOISES = ("white", "pink", "brown", "babble")
NOISE_SECONDS = 8.0  # of each kind in a bank; a clip takes a stretch of it from anywhere
BABBLE_VOICES = 6
_EQ_KNOTS_HZ = (0.0, 150.0, 400.0, 1000.0, 2200.0, 4500.0, 8000.0)
_EQ_DB = 6.0
_TELEPHONE_DB = -45.0  # beyond the band
_MAX_T60_S = 0.6

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """All random choices of one clip."""

    speed: float
    """Playback speed: changes length and pitch together. 1 for most clips."""
    lead_s: float
    """Silence before the phrase, seconds."""
    tail_s: float
    """Silence after it, seconds."""
    room_t60_s: float
    """Reverberation time (60 dB decay), seconds; 0 without a room."""
    direct_db: float
    """Energy of the direct sound over that of the reverberation."""
    noise: str
    """white, pink, brown, babble or none."""
    snr_db: float
    """Speech energy over noise energy, both over the whole clip; infinite without noise."""
    telephone_hz: tuple[float, float] | None
    """Pass band of a telephone line; None for a full band."""
    eq_db: tuple[float, ...]
    """Gain of the microphone at the knots 0, 150, 400, 1000, 2200, 4500, 8000 Hz."""
    peak: float
    """Largest absolute sample of the finished clip."""
    seed: int
    """For the waveforms: reverberation tail, stretch of noise."""


def draw_scene(seed: int) -> Scene:
    """The scene of a clip, a pure function of its seed. Shares as in the feasibility study."""
    rng = np.random.default_rng(seed)
    chance = rng.random(4)
    uniform = rng.uniform
    return Scene(
        speed=float(uniform(0.88, 1.14)) if chance[0] < 0.30 else 1.0,
        lead_s=float(uniform(0.0, 0.15)),
        tail_s=float(uniform(0.0, 0.15)),
        room_t60_s=float(uniform(0.1, _MAX_T60_S)) if chance[1] < 0.50 else 0.0,
        direct_db=float(uniform(0.0, 12.0)),
        noise=NOISES[int(rng.integers(len(NOISES)))] if chance[2] < 0.90 else "none",
        snr_db=float(uniform(5.0, 30.0)) if chance[2] < 0.90 else float("inf"),
        telephone_hz=(float(uniform(150, 350)), float(uniform(3000, 4000))) if chance[3] < 0.35 else None,
        eq_db=tuple(float(g) for g in uniform(-_EQ_DB, _EQ_DB, len(_EQ_KNOTS_HZ))),
        peak=float(10 ** (uniform(-20.0, -0.5) / 20)),
        seed=int(rng.integers(2**63)),
    )


def dry_scene(seed: int) -> Scene:
    """The drawn speed alone: no room, noise, line or silence, for corpora that are disturbed when they are read."""
    return replace(
        draw_scene(seed), lead_s=0.0, tail_s=0.0, room_t60_s=0.0, noise="none", snr_db=float("inf"), telephone_hz=None,
        eq_db=(0.0,) * len(_EQ_KNOTS_HZ), peak=0.5,
    )  # fmt: skip


class Noises(Protocol):
    """Anything to cut noise from."""

    def cut(self, name: str, length: int, rng: np.random.Generator) -> Audio: ...


class NoiseBank:
    """Noise to cut from: three colours, and babble mixed from ``speech`` (clips of the same part, so nothing leaks)."""

    def __init__(self, speech: list[Audio], seed: int) -> None:
        rng = np.random.default_rng(seed)
        size = int(NOISE_SECONDS * SAMPLE_RATE)
        self._noises = {name: _coloured(size, slope, rng) for name, slope in (("white", 0), ("pink", 1), ("brown", 2))}
        self._noises["babble"] = _babble(speech, size, rng)

    def cut(self, name: str, length: int, rng: np.random.Generator) -> Audio:
        """``length`` samples of a noise from a random place, repeated where the bank is shorter."""
        noise = self._noises[name]
        start = int(rng.integers(len(noise)))
        return np.resize(np.concatenate((noise[start:], noise[:start])) if start else noise, length)


def apply(scene: Scene, speech: Audio, bank: Noises) -> NDArray[np.int16]:
    """The finished clip. ``speech`` is mono at 16 kHz, already at the scene's speed; see ``stretch``.

    Its time axis is moved by ``lead_s``: add that to times measured in ``speech``.
    """
    return np.rint(mixed(scene, speech, bank, 32767)).astype(np.int16)


def mixed(scene: Scene, speech: Audio, bank: Noises, full_scale: float = 1.0) -> Audio:
    """``apply`` without the rounding: samples whose largest is the scene's peak times ``full_scale``."""
    rng = np.random.default_rng(scene.seed)
    lead = int(scene.lead_s * SAMPLE_RATE)
    length = lead + len(speech) + int(scene.tail_s * SAMPLE_RATE)
    response = _room(scene, rng)
    size = _good_size(length + len(response))
    signals = np.zeros((2, size), np.float32)
    signals[0, lead : lead + len(speech)] = speech
    spectrum = _forward(signals[0])
    if len(response):
        signals[1, : len(response)] = response
        spectrum *= _forward(signals[1]) * np.float32(size)
    if scene.noise != "none":
        signals[1, :length] = bank.cut(scene.noise, length, rng)
        signals[1, length:] = 0
        noise = _forward(signals[1])
        level = np.sqrt(_energy(spectrum) / max(_energy(noise), 1e-20) * 10 ** (-scene.snr_db / 10))
        spectrum += noise * np.float32(level)
    spectrum *= _channel(scene, len(spectrum), size)
    clip = np.fft.irfft(spectrum, size, norm="forward")[:length]
    highest = max(float(clip.max(initial=0)), -float(clip.min(initial=0)), 1e-9)
    clip *= scene.peak * full_scale / highest
    return clip.astype(np.float32, copy=False)


def _forward(signal: Audio) -> NDArray[np.complex64]:
    # norm="forward" keeps NumPy in single precision; its default runs float32 input in double, at twice the time.
    return np.fft.rfft(signal, norm="forward").astype(np.complex64, copy=False)


def _energy(spectrum: NDArray[np.complex64]) -> float:
    flat = spectrum.view(np.float32)
    return float(np.dot(flat, flat))


def _room(scene: Scene, rng: np.random.Generator) -> Audio:
    """Impulse response of a small room: the direct sound, then noise that decays by 60 dB in T60."""
    if scene.room_t60_s <= 0:
        return np.zeros(0, np.float32)
    count = int(scene.room_t60_s * SAMPLE_RATE)
    tail = rng.standard_normal(count, dtype=np.float32)
    tail *= np.exp(np.arange(count, dtype=np.float32) * np.float32(-6.9078 / count))  # ln(1000) over T60
    tail[: int(0.002 * SAMPLE_RATE)] = 0  # the first wall is some 30 cm away
    tail *= np.float32(10 ** (-scene.direct_db / 20)) / np.sqrt(np.dot(tail, tail))
    tail[0] = 1
    return tail


def _channel(scene: Scene, bins: int, size: int) -> Audio:
    """Gain per frequency bin of microphone and telephone line; zero phase, so times stay."""
    knots = np.array(_EQ_KNOTS_HZ)
    gains = np.array(scene.eq_db)
    if scene.telephone_hz is not None:
        low, high = scene.telephone_hz
        edges = np.array([0.0, low * 0.4, low, high, high * 1.15, 8000.0])
        band = np.array([_TELEPHONE_DB, _TELEPHONE_DB / 2, 0.0, 0.0, _TELEPHONE_DB, _TELEPHONE_DB])
        both = np.union1d(knots, edges)
        gains = np.interp(both, knots, gains) + np.interp(both, edges, band)
        knots = both
    grid = np.linspace(0, SAMPLE_RATE / 2, 257)
    coarse = 10 ** (np.interp(grid, knots, gains) / 20)  # the exponential on 257 points, not on every bin
    return np.interp(np.arange(bins) * (SAMPLE_RATE / size), grid, coarse).astype(np.float32)


def _coloured(size: int, slope: int, rng: np.random.Generator) -> Audio:
    """Noise whose power falls with frequency to the power ``slope``, levelled below 20 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(spectrum * hertz ** (-slope / 2), size).astype(np.float32)


def _babble(speech: list[Audio], size: int, rng: np.random.Generator) -> Audio:
    babble = np.zeros(size, np.float32)
    for _ in range(BABBLE_VOICES):
        at = 0
        while at < size:  # one talker: phrase after phrase, all equally loud
            clip = speech[int(rng.integers(len(speech)))]
            piece = clip[: size - at]
            babble[at : at + len(piece)] += piece / max(float(np.sqrt(np.mean(clip**2))), 1e-6)
            at += len(piece) + int(rng.integers(SAMPLE_RATE // 5))
    return babble


def _smooth_sizes(limit: int) -> NDArray[np.int64]:
    sizes = [a * b for a in (2**p for p in range(6, 22)) for b in (1, 3, 5, 9, 15) if a * b <= limit]
    return np.array(sorted(set(sizes)))


_SIZES = _smooth_sizes(2**21)


def _good_size(length: int) -> int:
    """The next length that transforms fast."""
    return int(_SIZES[np.searchsorted(_SIZES, length)])
