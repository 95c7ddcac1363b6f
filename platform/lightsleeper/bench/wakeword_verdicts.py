"""What a detector hears in recordings of a phrase and in hours without it: ours, or an engine in a Python of its own.

Both get the same samples, each stream from a state that has heard nothing. Ours keeps the smoothed score of every
frame, so that any threshold can be asked for later; an engine says when it fired, at a sensitivity set before.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.streams import HOP, Stream
from lightsleeper.deploy.detector import StreamingDetector
from lightsleeper.errors import UserError
from lightsleeper.files import replacing
from lightsleeper.metrics.events import refractory_frames, smoothed
from lightsleeper.metrics.false_alarms import FalseAlarms

CHUNK = 512  # samples that a recording is fed at a time: 32 ms, the engine's frame
LONG_CHUNK = 500 * HOP  # of a stream that lasts hours: scores do not depend on it
REFRACTORY_S = 1.0  # alarms nearer to each other count once, whoever fires
ENGINE = Path(__file__).with_name("engine_verdicts.py")


@dataclass(frozen=True)
class Heard:
    """What one of our files made of its test streams."""

    threshold: float
    """From validation."""
    frame_s: float
    peaks: dict[str, float]
    """The best smoothed score of each recording of the phrase, by file."""
    tracks: dict[str, NDArray[np.float32]]
    """The smoothed scores of each stream without it, by name."""

    def alarms(self, name: str, threshold: float | None = None) -> int:
        """On one of the negative streams."""
        level = self.threshold if threshold is None else threshold
        return false_alarms([self.tracks[name]], self.frame_s).count(level)

    def hours(self, name: str) -> float:
        return len(self.tracks[name]) * self.frame_s / 3600

    def save(self, path: Path) -> None:
        """One file; read it with `read_heard`."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            about = json.dumps({"threshold": self.threshold, "frame_s": self.frame_s, "peaks": self.peaks})
            tracks: dict[str, Any] = {f"track/{name}": track for name, track in self.tracks.items()}
            np.savez(file, about=np.array(about), **tracks)


def read_heard(path: Path) -> Heard:
    with np.load(path) as stored:
        tracks = {name.partition("/")[2]: stored[name] for name in stored.files if name.startswith("track/")}
        return Heard(**json.loads(str(stored["about"])), tracks=tracks)


def false_alarms(tracks: Sequence[NDArray], frame_s: float) -> FalseAlarms:
    return FalseAlarms(tracks, None, refractory_frames(REFRACTORY_S, frame_s), frame_s)


def hear(model: Path, positives: Mapping[str, Stream], negatives: Mapping[str, Stream], threads: int = 1) -> Heard:
    """Scores of an exported detector: recordings in chunks of 32 ms, streams in longer ones."""
    detector = StreamingDetector.open(model, threads)
    frames = detector.decoder.smoothing_frames

    def track(stream: Stream, chunk: int) -> NDArray[np.float32]:
        detector.reset()
        parts = [scores for audio in read(stream, chunk) for scores, _ in detector.frames(audio)]
        return smoothed(np.concatenate(parts), frames).astype(np.float32)

    peaks = {name: float(track(stream, CHUNK).max()) for name, stream in positives.items()}
    tracks = {name: track(stream, LONG_CHUNK) for name, stream in negatives.items()}
    return Heard(detector.decoder.threshold, detector.decoder.frame_s, peaks, tracks)


def read(stream: Stream, chunk: int) -> Iterator[NDArray[np.int16]]:
    """The stream as 16-bit samples, which both sides get."""
    for start in range(0, stream.samples, chunk):
        audio = stream.read(start, min(chunk, stream.samples - start))
        yield np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def engine_hears(
    python: str, phrase: str, sensitivities: Sequence[float], streams: Mapping[str, Stream]
) -> dict[str, Any]:
    """``engine``, ``version``, and under ``events`` for each stream and sensitivity (as text) the seconds at which the
    engine fired; events within a second of one before count once.

    Raises UserError where that Python has no engine, or the engine not this phrase.
    """
    command = [python, str(ENGINE), phrase, *map(str, sensitivities)]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise UserError(f"--engine {python} cannot be started: {error.strerror}.") from None
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            found: dict[str, Any] = {}
            events: dict[str, Any] = {}
            try:
                for name, stream in streams.items():
                    process.stdin.write(stream.samples.to_bytes(8, "little"))
                    for samples in read(stream, LONG_CHUNK):
                        process.stdin.write(samples.astype("<i2").tobytes())
                    process.stdin.flush()
                    found = found or json.loads(process.stdout.readline())
                    fired = json.loads(process.stdout.readline())
                    events[name] = {
                        f"{value:g}": _apart(times) for value, times in zip(sensitivities, fired, strict=True)
                    }
                process.stdin.close()
            except (BrokenPipeError, json.JSONDecodeError):
                process.kill()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines() or ["it ended without a word"]
                raise UserError(f"--engine {python}: {lines[-1]}") from None
    return {**found, "events": events}


def _apart(samples: Sequence[int]) -> list[float]:
    """Seconds of events, those within the refractory time of one before left out."""
    kept: list[int] = []
    for at in samples:
        if not kept or at - kept[-1] >= REFRACTORY_S * SAMPLE_RATE:
            kept.append(at)
    return [at / SAMPLE_RATE for at in kept]
