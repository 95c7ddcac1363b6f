"""Making a corpus: shards of clips spoken, disturbed and written by worker processes.

Each shard starts a fresh engine, so its bytes depend on the script alone, not on the number of workers or on the shards
before it.

Workers import this module: it must not import torch.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data.augment import SAMPLE_RATE, NoiseBank, Scene, apply, draw_scene, dry_scene
from lightsleeper.data.shards import build_shards, write_shard
from lightsleeper.data.synthesis import Engine, Utterance, require_espeak
from lightsleeper.errors import UserError
from lightsleeper.files import free_bytes

VERSION = 1
"""Raise it whenever the same script would give other audio: it is part of the folder's hash."""
SHARD_CLIPS = 500
BYTES_PER_CLIP = 60_000  # measured 46 kB for 1-4 words; for the check of free space
SILENCE = 1e-4  # of full scale; a phrase whose loudest sample is below this was not spoken

SCHEMA = pa.schema(
    [
        ("clip", pa.int64()),
        ("part", pa.string()),
        ("text", pa.string()),
        ("audio", pa.large_binary()),  # int16 mono, 16 kHz
        ("voice", pa.string()),
        ("accent", pa.string()),
        ("seconds", pa.float32()),
        ("word_starts_s", pa.list_(pa.float32())),
        ("word_ends_s", pa.list_(pa.float32())),
        ("phone_labels", pa.list_(pa.string())),  # the engine's own names
        ("phone_starts_s", pa.list_(pa.float32())),
        ("rate_wpm", pa.int32()),
        ("pitch", pa.int32()),
        ("speed", pa.float32()),
        ("noise", pa.string()),
        ("snr_db", pa.float32()),
        ("room_t60_s", pa.float32()),
        ("telephone", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Line:
    """One clip to be spoken."""

    part: str
    """The set it belongs to: train, val, test ..."""
    text: str
    voice: str
    """A variant of ``synthesis.VARIANTS``: the speaker's identity."""
    accent: str
    rate_wpm: int
    pitch: int
    seed: int
    """For everything that happens to the clip after the engine."""
    dry: bool = False
    """Kept without room, noise and channel."""


@dataclass(frozen=True)
class _Job:
    """What one worker does at a time: a shard, clips of one part only."""

    number: int
    first_clip: int
    lines: Sequence[Line]

    @property
    def file(self) -> str:
        return f"{self.lines[0].part}-{self.number:05d}.arrow"

    @property
    def size(self) -> int:
        return len(self.lines)


def build(folder: Path, spec: Mapping[str, Any], lines: Sequence[Line], workers: int, progress: bool = True) -> None:
    """Make what ``folder`` lacks of the corpus; the caller holds its lock.

    Raises:
        UserError: espeak-ng is missing, the disk is full, or a worker died.
    """
    require_espeak()
    jobs = list(_jobs(lines))
    build_shards(
        folder,
        {"version": VERSION, "spec": dict(spec)},
        jobs,
        _make_shard,
        check_space,
        workers,
        progress,
        "speaking phrases",
    )


def _jobs(lines: Sequence[Line]) -> Iterator[_Job]:
    """Runs of lines of one part, at most SHARD_CLIPS: babble never mixes parts."""
    start = number = 0
    for at in range(1, len(lines) + 1):
        if at == len(lines) or at - start == SHARD_CLIPS or lines[at].part != lines[start].part:
            yield _Job(number, start, lines[start:at])
            start, number = at, number + 1


def _make_shard(folder: Path, job: _Job) -> None:
    """Speak, disturb and write the clips of one shard."""
    scenes = [dry_scene(line.seed) if line.dry else draw_scene(line.seed) for line in job.lines]
    with Engine() as engine:
        spoken = [_speak(engine, line, scene) for line, scene in zip(job.lines, scenes, strict=True)]
    bank = NoiseBank([speech for _, speech in spoken], seed=job.lines[0].seed)
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for line, scene, (said, speech) in zip(job.lines, scenes, spoken, strict=True):
        row = _row(line, scene, said, apply(scene, speech, bank))
        for name, value in {"clip": job.first_clip + len(rows["clip"]), **row}.items():
            rows[name].append(value)
    write_shard(folder / job.file, SCHEMA, rows, [b"".join(rows["audio"]), json.dumps(rows["text"]).encode()])


def _speak(engine: Engine, line: Line, scene: Scene) -> tuple[Utterance, NDArray[np.float32]]:
    """What the engine says, and its samples at 16 kHz and the scene's speed."""
    import soxr

    said = engine.say(line.text, accent=line.accent, variant=line.voice, rate_wpm=line.rate_wpm, pitch=line.pitch)
    native = said.samples.astype(np.float32) / 32768
    # Playing faster is resampling from a higher rate: both in one pass.
    speech = soxr.resample(native, said.rate_hz * scene.speed, SAMPLE_RATE, "HQ")
    if float(np.abs(speech).max(initial=0)) < SILENCE:
        raise UserError(f"espeak-ng said nothing for {line.text!r} in the voice '{line.accent}+{line.voice}'.")
    return said, speech


def _row(line: Line, scene: Scene, said: Utterance, clip: NDArray[np.int16]) -> dict[str, Any]:
    lead = int(scene.lead_s * SAMPLE_RATE) / SAMPLE_RATE

    def moved(times: Sequence[float]) -> list[float]:
        return [lead + t / scene.speed for t in times]

    return {
        "part": line.part,
        "text": line.text,
        "audio": clip.tobytes(),
        "voice": line.voice,
        "accent": line.accent,
        "seconds": len(clip) / SAMPLE_RATE,
        "word_starts_s": moved(said.word_starts_s),
        "word_ends_s": moved(said.word_ends_s),
        "phone_labels": said.phone_labels,
        "phone_starts_s": moved(said.phone_starts_s),
        "rate_wpm": line.rate_wpm,
        "pitch": line.pitch,
        "speed": scene.speed,
        "noise": scene.noise,
        "snr_db": scene.snr_db,
        "room_t60_s": scene.room_t60_s,
        "telephone": scene.telephone_hz is not None,
    }


def check_space(folder: Path, clips: int) -> None:
    """Raise UserError when the disk of ``folder``, which need not exist, has no room for ``clips``."""
    needed, free = clips * BYTES_PER_CLIP, free_bytes(folder)
    if needed > free:
        raise UserError(
            f"the corpus needs about {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. "
            "Set LIGHTSLEEPER_CACHE to a larger disk, or ask for fewer phrases."
        )
