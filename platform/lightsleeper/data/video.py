"""Reading and writing video through PyAV (extra ``video``): pictures with their times, and the sound.

Everything is decoded once from the beginning to the end; nothing seeks, so the times of variable frame rates hold.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.augment import Audio
from lightsleeper.errors import UserError

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
_AAC = 1024  # samples of a block


def require_av() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("video needs PyAV, which is not installed. Run: pip install -e '.[video]'") from None
    return av


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A video to decode; what goes wrong inside is a UserError."""
    av = require_av()
    if not path.is_file():
        raise UserError(f"video {path}: {'is a folder' if path.is_dir() else 'does not exist'}.")
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"video {path} is damaged or no video ({' '.join(str(error).split())}).") from None


def pictures(path: Path, colour: str = "gray") -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Time in seconds from the first picture on, and the picture: (H, W) for gray, (H, W, 3) for rgb24.

    Raises UserError for a missing or damaged file, and for one without pictures.
    """
    with opened(path) as container:
        if not container.streams.video:
            raise UserError(f"{path} holds no pictures.")
        first: float | None = None
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            yield frame.time - first, frame.to_ndarray(format=colour)
        if first is None:
            raise UserError(f"video {path} is damaged: no picture can be decoded.")


def sound(path: Path, sample_rate: int = SAMPLE_RATE) -> Audio:
    """Mono samples (S,) in [-1, 1], counted from the first picture on: late sound is preceded by silence.

    Raises UserError for a missing or damaged file, and for one without sound.
    """
    with opened(path) as container:
        if not container.streams.audio:
            raise UserError(f"{path} holds no sound.")
        stream = container.streams.audio[0]
        rate = stream.rate
        pieces, begin = [], None
        for frame in container.decode(audio=0):
            begin = frame.time if begin is None else begin
            pieces.append(_mono(frame))
    if not pieces:
        raise UserError(f"video {path} is damaged: no sound can be decoded.")
    found = np.concatenate(pieces)
    if rate != sample_rate:
        found = soxr.resample(found, rate, sample_rate)
    late = round((float(begin or 0.0) - _first_picture_s(path)) * sample_rate)
    return np.pad(found, (late, 0)) if late > 0 else found[-late:]


def write(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, audio: Audio | None = None) -> None:
    """Pictures (H, W, 3) in RGB, H and W even, at ``fps``, with mono sound at 16 kHz, as MP4 (H.264, AAC).

    Raises UserError where the file cannot be written.
    """
    from fractions import Fraction

    from lightsleeper.files import replacing

    av = require_av()
    with replacing(path) as temporary:
        try:
            with av.open(str(temporary), "w", format="mp4") as out:
                rate = Fraction(fps).limit_denominator(1001)
                stream = None
                heard = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if audio is not None else None
                for picture in frames:
                    if stream is None:
                        height, width = picture.shape[:2]
                        stream = out.add_stream("libx264", rate=rate, options={"crf": "20"})
                        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                    out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                if stream is not None:
                    out.mux(stream.encode())
                if heard is not None and audio is not None:
                    _mux_sound(av, out, heard, audio)
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"cannot write video {path}: {' '.join(str(error).split())}.") from None


def _mux_sound(av: Any, out: Any, stream: Any, audio: Audio) -> None:
    for start in range(0, len(audio), _AAC):
        block = np.ascontiguousarray(audio[None, start : start + _AAC], np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def _mono(frame: Any) -> Audio:
    """Samples of an audio frame, the mean of its channels."""
    samples = frame.to_ndarray()  # (channels, n), or (1, n * channels) where they are interleaved
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind in "iu":
        info = np.iinfo(samples.dtype)
        samples = (samples.astype(np.float32) - (128 if info.min == 0 else 0)) / (info.max + (info.min != 0))
    return samples.astype(np.float32).mean(0)


def _first_picture_s(path: Path) -> float:
    """Time stamp of the first picture; 0 without one."""
    with opened(path) as container:
        if container.streams.video:
            for frame in container.decode(video=0):
                return float(frame.time or 0.0)
    return 0.0
