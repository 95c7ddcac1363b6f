"""Drawn scenes on disk, made once by ``speaker_build``, read through memory maps."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data.shards import map_shard, views
from lightsleeper.data.speaker_build import VERSION, build
from lightsleeper.data.speaker_scenes import FPS, SceneScript
from lightsleeper.data.track_source import Track
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash

FOLDER = "speakers"
_TEXTS = ("part", "scene", "face", "identity", "situation", "voices", "sentences", "speakers", "face_px", "delay_s")


def scenes_key(spec: Mapping[str, Any]) -> str:
    """Name of the scenes that ``spec`` (JSON-able, everything they depend on) gives with this code."""
    return content_hash({"spec": spec, "version": VERSION})


def open_or_build(
    spec: Mapping[str, Any],
    script: Callable[[], Sequence[SceneScript]],
    corpus: Path,
    face_size: int,
    seed: int,
    snr_db: tuple[float, float],
    workers: int | None = None,
    progress: bool = True,
) -> "SpeakerCorpus":
    """The scenes of ``spec``, drawn first where the cache does not hold them. One process draws, others wait.

    Raises UserError: the disk is full, or a worker died.
    """
    folder = cache_folder(FOLDER, scenes_key(spec))
    if not (folder / "corpus.json").exists():
        from filelock import FileLock

        with FileLock(folder / "lock"):
            if not (folder / "corpus.json").exists():
                cores = workers or os.cpu_count() or 1
                build(folder, spec, script(), corpus, face_size, seed, snr_db, cores, progress)
    return SpeakerCorpus(folder, face_size)


class SpeakerCorpus:
    """Tracks of all parts. What is written of them is in memory, pictures and sounds stay in the files.

    Example::

        corpus = SpeakerCorpus(folder, 112)
        track = corpus.track(17)
        track.faces.shape, track.situation  # ((93, 112, 112), 'mouthing')
    """

    def __init__(self, folder: Path, face_size: int) -> None:
        self.folder, self.face_size = folder, face_size
        self._open()

    def _open(self) -> None:
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "corpus.json").read_text(encoding="utf-8"))
            tables = [map_shard(self.folder / file) for file in self.manifest["shards"]]
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise UserError(
                f"the drawn scenes in {self.folder} are damaged ({error}). Delete that folder to draw them again."
            ) from None
        self._faces, self._labels, audio = (
            [row for table in tables for row in views(table.column(name).chunk(0), dtype)]
            for name, dtype in (("faces", np.uint8), ("label3", np.uint8), ("audio", np.int16))
        )
        self.columns = {name: [v for table in tables for v in table.column(name).to_pylist()] for name in _TEXTS}
        first = np.maximum.accumulate([i if len(sound) else 0 for i, sound in enumerate(audio)])
        self._audio = [audio[i] for i in first]  # every face of a scene hears what the first one does

    def __getstate__(self) -> dict[str, Any]:  # memory maps do not travel
        return {"folder": self.folder, "face_size": self.face_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def sha256(self) -> str:
        """Over all pictures, sounds and labels."""
        return self.manifest["sha256"]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(labels) for labels in self._labels], np.int64)

    def labels(self, number: int) -> NDArray[np.uint8]:
        """(T,) of a track."""
        return self._labels[number]

    def tracks(self, part: str) -> NDArray[np.int64]:
        """Numbers of a part's tracks."""
        return np.flatnonzero(np.array(self.columns["part"]) == part)

    def track(self, number: int) -> Track:
        about = {name: column[number] for name, column in self.columns.items()}
        count = int(self.lengths[number])
        video = f"{about['part']}-{about['scene']:05d}"
        return Track(
            faces=self._faces[number].reshape(count, self.face_size, self.face_size),
            audio=np.multiply(self._audio[number], np.float32(1 / 32768), dtype=np.float32),
            label3=self._labels[number].astype(np.int64),
            timestamps=np.arange(count) / FPS,
            face_px=np.full(count, about["face_px"], np.float32),
            speakers=np.full(count, about["speakers"], np.int64),
            entity=f"{video}:{about['face']}",
            video=video,
            situation=about["situation"],
        )


class PartTracks:
    """The tracks of one part of a corpus."""

    def __init__(self, corpus: SpeakerCorpus, part: str) -> None:
        self.corpus, self.numbers = corpus, corpus.tracks(part)

    @property
    def frames(self) -> NDArray[np.int64]:
        return self.corpus.lengths[self.numbers]

    def track(self, number: int) -> Track:
        return self.corpus.track(int(self.numbers[number]))
