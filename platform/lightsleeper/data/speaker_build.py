"""Synthetic scenes as shards on disk: faces are drawn and sounds are mixed by worker processes.

A row is a track: one face from the first frame of its scene to the last. The sound of a scene is in the row of its
first face.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data.augment import SAMPLE_RATE, Audio
from lightsleeper.data.corpus import Corpus
from lightsleeper.data.drawn_faces import Camera, draw_face, render
from lightsleeper.data.gestures import GESTURES, at_rest, say
from lightsleeper.data.noise import DrawnSpeech, NoisePool, NoiseSource, disturbed
from lightsleeper.data.shards import build_shards, write_shard
from lightsleeper.data.speaker_scenes import FPS, Role, SceneScript
from lightsleeper.data.visemes import mouth
from lightsleeper.errors import UserError
from lightsleeper.files import free_bytes
from lightsleeper.metrics.active_speaker import NOT_AUDIBLE, SPEAKING

VERSION = 1
"""Raise it whenever the same spec would give other scenes, pictures or sounds: it is part of the folder's hash."""
_SCENES = 16  # in a shard: 30 MB of faces of 112 pixels
_OCCLUDED = 0.12  # share of tracks
_RMS, _JITTER_DB = 0.05, 4.0  # of a voice
_GAIN_DB = (-20.0, 0.0)
_LIGHT = ((0.7, 1.25), (0.75, 1.35), (-0.35, 0.35), (-0.3, 0.3))  # gain, gamma, brighter to the right, downwards
_NOISE = (0.003, 0.04)
FRAMES_PER_SCENE = 180  # of all faces together, about (measured 174); for the check of free space

SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("scene", pa.int64()),
        ("face", pa.int64()),
        ("identity", pa.int64()),
        ("situation", pa.string()),
        ("voices", pa.list_(pa.string())),  # of the scene
        ("sentences", pa.list_(pa.string())),  # that this face says or mouths, or that are heard
        ("speakers", pa.int64()),  # faces in the scene
        ("face_px", pa.float32()),
        ("delay_s", pa.float32()),
        ("label3", pa.large_binary()),  # (T,) uint8, see metrics.active_speaker.LABELS
        ("faces", pa.large_binary()),  # (T, size, size) uint8
        ("audio", pa.large_binary()),  # int16 mono, 16 kHz; empty for all but the first face of a scene
    ]
)


@dataclass(frozen=True)
class SceneJob:
    """What one worker does at a time."""

    number: int
    scenes: Sequence[SceneScript]
    corpus: Path
    face_size: int
    seed: int
    """Of identities."""
    snr_db: tuple[float, float]

    @property
    def file(self) -> str:
        return f"{self.scenes[0].part}-{self.number:05d}.arrow"

    @property
    def size(self) -> int:
        return len(self.scenes)


def build(
    folder: Path,
    spec: Mapping[str, Any],
    scenes: Sequence[SceneScript],
    corpus: Path,
    face_size: int,
    seed: int,
    snr_db: tuple[float, float],
    workers: int,
    progress: bool = True,
) -> None:
    """Make what ``folder`` lacks of the scenes; the caller holds its lock.

    Raises:
        UserError: the disk is full, or a worker died.
    """
    groups = _groups(scenes)
    jobs = [SceneJob(n, some, corpus, face_size, seed, snr_db) for n, some in enumerate(groups)]
    about = {"version": VERSION, "spec": dict(spec)}

    def room(where: Path, count: int) -> None:
        check_space(where, count, face_size)

    build_shards(folder, about, jobs, make_shard, room, workers, progress, "drawing scenes")


def check_space(folder: Path, scenes: int, face_size: int) -> None:
    """Raise UserError when the disk of ``folder``, which need not exist, has no room for ``scenes``."""
    needed, free = scenes * FRAMES_PER_SCENE * (face_size**2 + SAMPLE_RATE // FPS), free_bytes(folder)
    if needed > free:
        raise UserError(
            f"drawn faces need about {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. Set "
            "LIGHTSLEEPER_CACHE to a larger disk, or ask for fewer scenes or smaller faces (size)."
        )


def _groups(scenes: Sequence[SceneScript]) -> Iterator[Sequence[SceneScript]]:
    """Runs of scenes of one part."""
    start = 0
    for at in range(1, len(scenes) + 1):
        if at == len(scenes) or at - start == _SCENES or scenes[at].part != scenes[start].part:
            yield scenes[start:at]
            start = at


def make_shard(folder: Path, job: SceneJob) -> None:
    """Draw and write the scenes of one shard."""
    import torch  # the drawing's; a worker has one core

    torch.set_num_threads(1)
    corpus = Corpus(job.corpus)
    voices, texts = corpus.voices, corpus.texts
    pool = NoisePool(
        NoiseSource(DrawnSpeech(corpus, corpus.clips(job.scenes[0].part).tolist())), job.scenes[0].seed % 2**31
    )
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for scene in job.scenes:
        sound = _sound(scene, corpus, pool, job.snr_db).tobytes()
        for face, role in enumerate(scene.roles):
            clips = [turn.clip for turn in scene.turns] + [role.mouthed] * (role.mouthed >= 0)
            label3, faces = _track(scene, face, role, corpus, job)
            row = {
                "part": scene.part, "scene": scene.number, "face": face, "identity": role.identity,
                "situation": role.situation, "voices": sorted({voices[turn.clip] for turn in scene.turns}),
                "sentences": sorted({texts[clip] for clip in clips}), "speakers": len(scene.roles),
                "face_px": role.px, "delay_s": scene.delay_s, "label3": label3.tobytes(), "faces": faces.tobytes(),
                "audio": b"" if face else sound,
            }  # fmt: skip
            for name, value in row.items():
                rows[name].append(value)
    write_shard(folder / job.file, SCHEMA, rows, [*rows["faces"], *rows["audio"], *rows["label3"]])


def _sound(scene: SceneScript, corpus: Corpus, pool: NoisePool, snr_db: tuple[float, float]) -> NDArray[np.int16]:
    """All turns, later than the picture by the scene's delay, in one room with one noise."""
    rng = np.random.default_rng([scene.seed, 71])
    sound = np.zeros(scene.frames * SAMPLE_RATE // FPS, np.float32)
    for turn in scene.turns:
        voice = corpus.audio(turn.clip)
        voice = voice * np.float32(_RMS * 10 ** (rng.uniform(-_JITTER_DB, _JITTER_DB) / 20) / _level(voice))
        start = round((turn.start_s + scene.delay_s) * SAMPLE_RATE)
        voice = voice[: max(0, len(sound) - start)]
        sound[start : start + len(voice)] += voice
    return np.rint(disturbed(sound, pool, snr_db, _GAIN_DB, rng) * 32767).astype(np.int16)


def _level(audio: Audio) -> float:
    return max(float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))), 1e-5)


def _track(
    scene: SceneScript, face: int, role: Role, corpus: Corpus, job: SceneJob
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels (T,) and pictures (T, size, size) of one face."""
    rng = np.random.default_rng([scene.seed, 72, face])
    times = (np.arange(scene.frames) + 0.5) / FPS
    motion = at_rest(times, rng)
    label3 = np.zeros(scene.frames, np.uint8)
    said = [(turn.clip, turn.start_s, SPEAKING) for turn in scene.turns if turn.face == face]
    if role.mouthed >= 0:
        said.append((role.mouthed, role.mouthed_start_s, NOT_AUDIBLE))
    for clip, start, label in said:
        about = corpus.row(clip)
        phones, ends = np.array(about["phone_starts_s"]) + start, about["word_ends_s"][-1] + start
        say(motion, mouth(about["phone_labels"], phones, ends, times))
        label3[(times >= phones[0]) & (times < ends)] = label
    if role.situation in GESTURES:
        GESTURES[role.situation](motion, times, rng)
    return label3, render(draw_face(role.identity, job.seed), motion, _camera(role, scene.frames, rng), job.face_size)


def _camera(role: Role, frames: int, rng: np.random.Generator) -> Camera:
    hidden = None
    if rng.random() < _OCCLUDED:
        first = int(rng.integers(frames))
        last = first + int(rng.integers(5, 1 + max(5, frames // 2)))
        hidden = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0, 0.9)), float(rng.uniform(0.15, 0.4)), first, last)
    gain, gamma, across, down = (float(rng.uniform(*bounds)) for bounds in _LIGHT)
    noise = float(math.exp(rng.uniform(*np.log(_NOISE))))
    return Camera(role.px, gain, gamma, (across, down), noise, hidden, int(rng.integers(2**31)))
