"""What a detector can listen to: a recording, samples from a pipe, a microphone. One interface, a block at a time.

Only a block is held in memory, so hours of audio need no more than a second of it.
"""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from lightsleeper.data.audio import AudioError, missing_wav_bytes, opened
from lightsleeper.errors import UserError

Samples = NDArray[np.float32]
PAD_S = 0.5
"""Silence before and after a recording that a detector hears: a device would go on hearing."""
LIVE_BLOCK_S = 0.08
"""Of a microphone: what an application hands over at once; an event is told no later than this."""


class Sound(Protocol):
    """Audio from a beginning to an end that may never come."""

    name: str
    seconds: float | None
    """Length; None where it is not known beforehand."""
    rate: int
    """Hz of the audio as it comes; ``blocks`` are resampled."""
    live: bool
    """Whether it comes as it is said, until somebody ends it."""

    def blocks(self, sample_rate: int) -> Generator[Samples, None, None]:
        """Blocks (n,) of one channel in [-1, 1]. Close it where the sound was not heard to its end.

        Raises UserError where the audio cannot be read."""
        ...


class Recording:
    """A file of any format, rate and number of channels; its channels are averaged.

    Raises:
        AudioError: the file is missing, empty, cut off or no audio file; also while it is read.
    """

    live = False

    def __init__(self, path: Path | str, block_s: float = 1.0) -> None:
        self.path, self.name, self.block_s = Path(path), str(path), block_s
        with opened(self.path) as file:
            self.rate, self._frames = file.samplerate, file.frames
        if not self._frames:
            raise AudioError(self.path, "is empty")
        if missing := missing_wav_bytes(self.path):
            raise AudioError(self.path, f"is cut off: {missing} bytes of the WAV file are missing")
        self.seconds: float | None = self._frames / self.rate

    def blocks(self, sample_rate: int) -> Generator[Samples, None, None]:
        change, read = _Resampler(self.rate, sample_rate), 0
        with opened(self.path) as file:
            while len(block := file.read(round(self.block_s * self.rate), dtype="float32", always_2d=True)):
                read += len(block)
                mono = block.mean(axis=1)
                if not np.isfinite(mono).all():
                    raise AudioError(self.path, "holds values that are not finite")
                yield change(mono)
        if read < self._frames:
            raise AudioError(self.path, f"is cut off after {read / self.rate:.2f} s of {self.seconds:.2f} s")
        yield change.rest()


class Pipe:
    """Raw samples from a pipe: 16 bits, little endian, one channel, ``rate`` a second.

    Raises:
        UserError: the pipe is a terminal, or brings a file with a header.
    """

    live, name = True, "-"
    seconds: float | None = None

    def __init__(self, file: BinaryIO, rate: int) -> None:
        self.file, self.rate = file, rate
        if file.isatty():
            raise UserError("'-' reads raw 16-bit samples from a pipe, and there is none.")

    def blocks(self, sample_rate: int) -> Generator[Samples, None, None]:
        change, odd, first = _Resampler(self.rate, sample_rate), b"", True
        while data := os.read(self.file.fileno(), 2 * self.rate):  # what is there, without waiting for more
            data = odd + data
            if first and data[:4] in (b"RIFF", b"fLaC", b"OggS"):
                raise UserError("'-': raw 16-bit samples were expected, here is a file with a header: give it by name.")
            first, odd = False, data[len(data) // 2 * 2 :]
            yield change(np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / np.float32(32768))
        if first:
            raise UserError("'-': the pipe brought no samples.")
        yield change.rest()


class Microphone:
    """An input device, until ``seconds`` are over; it is asked for ``wanted`` Hz and may have another rate.

    Raises:
        UserError: the package sounddevice, its library or a device is missing.
    """

    live, name = True, "microphone"

    def __init__(self, wanted: int, seconds: float | None = None, device: str | None = None) -> None:
        self.seconds, self.lost = seconds, 0
        self._sounddevice = require_sounddevice()
        self._device: int | str | None = int(device) if device is not None and device.isdigit() else device
        try:
            found: Any = self._sounddevice.query_devices(self._device, "input")
            self.device, self.rate = str(found["name"]), wanted
            try:
                self._sounddevice.check_input_settings(self._device, channels=1, dtype="float32", samplerate=wanted)
            except self._sounddevice.PortAudioError:
                self.rate = round(found["default_samplerate"])
        except (
            self._sounddevice.PortAudioError,
            ValueError,
        ) as error:  # ValueError: none of that name, or several
            raise UserError(f"--microphone: no input device: {_one_line(error)}.") from error

    def blocks(self, sample_rate: int) -> Generator[Samples, None, None]:
        """``lost`` counts the times that the program was late and the device dropped audio."""
        change, size = _Resampler(self.rate, sample_rate), round(LIVE_BLOCK_S * self.rate)
        left = None if self.seconds is None else round(self.seconds * self.rate)
        try:
            stream = self._sounddevice.InputStream(
                samplerate=self.rate, device=self._device, channels=1, dtype="float32", latency="high"
            )
            with stream:
                while left is None or left > 0:
                    block, overflowed = stream.read(size if left is None else min(size, left))
                    self.lost += bool(overflowed)
                    left = None if left is None else left - len(block)
                    yield change(block[:, 0].copy())
        except self._sounddevice.PortAudioError as error:
            raise UserError(f"--microphone: cannot record: {_one_line(error)}.") from error
        yield change.rest()


def require_sounddevice() -> Any:
    """The package that records. Raises UserError with how to get it."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        raise UserError(
            f"--microphone needs sounddevice ({error}): pip install -e '.[microphone]', and on Linux libportaudio2."
        ) from error
    return sounddevice


class _Resampler:
    """Block by block what `soxr.resample` does to the whole."""

    def __init__(self, rate: int, wanted: int) -> None:
        self._stream = None if rate == wanted else soxr.ResampleStream(rate, wanted, 1, dtype="float32")

    def __call__(self, samples: Samples) -> Samples:
        if self._stream is not None:
            samples = self._stream.resample_chunk(samples)
        return np.clip(samples, -1, 1).astype(np.float32, copy=False)

    def rest(self) -> Samples:
        """What resampling still held back."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        return np.clip(self._stream.resample_chunk(np.zeros(0, np.float32), last=True), -1, 1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
