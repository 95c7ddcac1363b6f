"""A synthesised speech corpus on disk: Arrow shards, made once by ``corpus_build``, read through memory maps.

The folder is named by the hash of the corpus spec and of the code's ``VERSION``. The shards are Arrow streams that
``datasets.Dataset.from_file`` opens too.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data.augment import SAMPLE_RATE
from lightsleeper.data.corpus_build import SHARD_CLIPS, VERSION, Line, build, check_space
from lightsleeper.data.shards import map_shard, views
from lightsleeper.data.synthesis import require_espeak
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, cache_path, content_hash

if TYPE_CHECKING:
    from datasets import Dataset


def corpus_key(spec: Mapping[str, Any]) -> str:
    """Name of the corpus that ``spec`` (JSON-able, everything the script depends on) gives with this code."""
    return content_hash({"spec": spec, "version": VERSION})


def open_or_build(
    spec: Mapping[str, Any], script: Callable[[], Sequence[Line]], workers: int | None = None, progress: bool = True
) -> "Corpus":
    """The corpus of ``spec``, built first where the cache does not hold it.

    ``script`` is called for a build only. One process builds; others that want the same corpus wait for it.
    ``workers`` None: one per core.

    Raises:
        UserError: espeak-ng is missing, the disk is full, or a worker died.
    """
    folder = cache_folder("corpora", corpus_key(spec))
    if not (folder / "corpus.json").exists():
        from filelock import FileLock

        with FileLock(folder / "lock"):
            if not (folder / "corpus.json").exists():
                build(folder, spec, script(), workers or os.cpu_count() or 1, progress)
    return Corpus(folder)


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that a corpus is made with, for its name in the cache."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def check_buildable(spec: Callable[[], Mapping[str, Any]], clips: int) -> None:
    """Refuse a corpus of ``clips`` that is not in the cache and cannot be built; touches no file.

    ``spec`` takes a second (20,000 words to pronounce), so it is asked for only where something is missing.

    Raises:
        UserError: espeak-ng is missing, or the disk is too small.
    """
    try:
        require_espeak()
        check_space(cache_path("corpora"), clips)
    except UserError:
        folder = cache_path("corpora", corpus_key(spec()))
        if (folder / "corpus.json").exists():
            return
        require_espeak()
        finished = len(list(folder.glob("*.arrow")))  # a build that was stopped needs room for the rest only
        check_space(folder, clips - SHARD_CLIPS * finished)


class Corpus:
    """A finished corpus. Text columns are in memory (a few MB), audio stays in the files.

    Example::

        corpus = Corpus(folder)
        waveform = corpus.audio(17)      # (samples,) float32 in [-1, 1]
        corpus.texts[17], corpus.voices[17]
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        self._open()

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"the corpus in {self.folder} is damaged ({error}). Delete that folder to rebuild it.")

    def _open(self) -> None:
        try:
            self._tables = [map_shard(self.folder / file) for file in self.manifest["shards"]]
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(error) from None
        audio: list[NDArray[np.int16]] = []
        for table in self._tables:
            audio += views(table.column("audio").chunk(0), np.int16)
        self._audio = audio

    def __len__(self) -> int:
        return len(self._audio)

    def __getstate__(self) -> dict[str, Any]:  # memory maps do not travel: a loader's worker opens its own
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def sha256(self) -> str:
        """Over all audio and texts."""
        return self.manifest["sha256"]

    def column(self, name: str) -> list[Any]:
        """One column of all clips as Python values."""
        return [value for table in self._tables for value in table.column(name).to_pylist()]

    @cached_property
    def texts(self) -> list[str]:
        return self.column("text")

    @cached_property
    def voices(self) -> list[str]:
        return self.column("voice")

    @cached_property
    def parts(self) -> NDArray[np.str_]:
        return np.array(self.column("part"))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Samples per clip."""
        return np.array([len(clip) for clip in self._audio], np.int64)

    def clips(self, part: str) -> NDArray[np.int64]:
        """Clip numbers of a part."""
        return np.flatnonzero(self.parts == part)

    def samples(self, clip: int) -> NDArray[np.int16]:
        """(samples,) int16, a read-only view of the file."""
        return self._audio[clip]

    def audio(self, clip: int) -> NDArray[np.float32]:
        """(samples,) float32 in [-1, 1]."""
        return np.multiply(self._audio[clip], np.float32(1 / 32768), dtype=np.float32)

    def seconds(self, clip: int) -> float:
        return len(self._audio[clip]) / SAMPLE_RATE

    def row(self, clip: int) -> dict[str, Any]:
        """Everything known of one clip but its audio."""
        for table in self._tables:
            if clip < table.num_rows:
                return table.drop_columns(["audio"]).slice(clip, 1).to_pylist()[0]
            clip -= table.num_rows
        raise IndexError("clip number beyond the corpus")

    def dataset(self, part: str) -> "Dataset":
        """The part as a Hugging Face dataset over the same files."""
        from datasets import Dataset, concatenate_datasets

        files = [self.folder / file for file in self.manifest["shards"] if file.rsplit("-", 1)[0] == part]
        return concatenate_datasets([Dataset.from_file(str(file)) for file in files])

    def counts(self) -> dict[str, dict[str, float]]:
        """Clips, hours, voices, different texts and words of each part."""
        found: dict[str, dict[str, float]] = {}
        for part in Counter(self.parts.tolist()):
            chosen = self.clips(part)
            texts = {self.texts[clip] for clip in chosen}
            found[part] = {
                "clips": len(chosen),
                "hours": round(float(self.lengths[chosen].sum()) / SAMPLE_RATE / 3600, 3),
                "voices": len({self.voices[clip] for clip in chosen}),
                "texts": len(texts),
                "words": len({word for text in texts for word in text.split()}),
            }
        return found
