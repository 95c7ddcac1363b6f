"""MFCC as active-speaker networks are trained on them: the definition of the package python_speech_features.

Pre-emphasis 0.97, rectangular windows of 25 ms every 10 ms, power spectrum of 512 points, 26 triangular mel filters up
to half the sampling rate, orthonormal DCT-II, the first 13 coefficients, liftered by 22, the first one replaced by the
log of the frame's energy. Published weights expect samples of 16 bits: audio in [-1, 1] is scaled by 32768 here.

Window and hop are stretched by 25/fps, so that four frames fall on one video frame, whatever its rate. NumPy only.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

COEFFICIENTS = 13
PER_FRAME = 4
"""MFCC frames on one video frame."""
FPS = 25.0
_WINDOW_S, _HOP_S = 0.025, 0.010  # at 25 fps
_FILTERS, _FFT, _LIFTER, _EMPHASIS = 26, 512, 22, 0.97
_EPS = float(np.finfo(float).eps)


def mfcc(audio: NDArray, sample_rate: int = 16_000, fps: float = FPS) -> NDArray[np.float32]:
    """Coefficients (n, 13) of a recording (S,): float in [-1, 1], or int16.

    The last window is filled up with zeros; a recording shorter than a window gives one frame.

    Raises:
        ValueError: the audio is empty.
    """
    if not len(audio):
        raise ValueError("no audio to take MFCC of")
    window, hop = _grid(sample_rate, fps)
    samples = audio.astype(np.float64)
    if audio.dtype.kind == "f":
        samples *= 32768
    samples[1:] -= _EMPHASIS * samples[:-1]  # the right side is evaluated before anything is written
    frames = 1 + max(0, -(-(len(samples) - window) // hop))
    samples = np.pad(samples, (0, max(0, (frames - 1) * hop + window - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop][:frames]  # (n, window)
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / _FFT  # (n, 257); below 19.5 fps windows are cut to 512 samples
    energy = power.sum(1)
    filters, cosines = _tables(sample_rate)
    found = np.log(_positive(power @ filters)) @ cosines
    found[:, 0] = np.log(_positive(energy))
    return found.astype(np.float32)


def mfcc_of_frames(audio: NDArray, frames: int, sample_rate: int = 16_000, fps: float = FPS) -> NDArray[np.float32]:
    """Coefficients (4 ``frames``, 13) beside ``frames`` video frames that begin with the audio.

    Audio that is too short is followed by silence. (TalkNet and Light-ASD repeat its begin instead; their clips lack a
    few samples at most.) Windows of frame t read audio up to 15 ms beyond its end.
    """
    window, hop = _grid(sample_rate, fps)
    needed = (PER_FRAME * frames - 1) * hop + window
    return mfcc(np.pad(audio[:needed], (0, max(0, needed - len(audio)))), sample_rate, fps)


def _grid(sample_rate: int, fps: float) -> tuple[int, int]:
    """Window and hop in samples."""
    return _rounded(_WINDOW_S * FPS / fps * sample_rate), _rounded(_HOP_S * FPS / fps * sample_rate)


@lru_cache(maxsize=4)
def _tables(sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mel filters (257, 26), and DCT with lifter (26, 13)."""
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * hertz / sample_rate)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(_FFT // 2 + 1)[:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    filters = np.where(bins < middle, rising, falling) * ((bins >= low) & (bins < high))
    order, place = np.arange(COEFFICIENTS), np.arange(_FILTERS)[:, None]
    cosines = np.cos(np.pi * order * (2 * place + 1) / (2 * _FILTERS)) * np.sqrt(2 / _FILTERS)
    cosines[:, 0] /= np.sqrt(2)
    return filters, cosines * (1 + _LIFTER / 2 * np.sin(np.pi * order / _LIFTER))


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(values == 0, _EPS, values)


def _rounded(value: float) -> int:
    """Half up, as the package rounds."""
    return int(np.floor(value + 0.5))
