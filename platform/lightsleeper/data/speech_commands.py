"""Google Speech Commands, version 1 or 2, from a folder in its own layout: official splits, 12 classes or all words.

The 12-class task as the public code of BC-ResNet has it: ten words, ``_unknown_`` (a fixed draw of all others) and
``_silence_``, both as often as a word on average, which gives the published 3,077/371/408 clips of version 2 and
1,854/258/257 of version 1. In training, with probability 0.8, a clip is shifted by up to 100 ms and background noise is
added at an amplitude up to 0.1; silence is noise at an amplitude up to 1, in validation and test as well.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch
from lightsleeper.data.clip_cache import ClipCache, OnBadFile, cached_clips, check_files
from lightsleeper.data.hub_data import check_dataset, need_column, open_dataset
from lightsleeper.data.module import DataModule
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.spoken_words import fit
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import cache_folder, content_hash, replacing

CATALOG = ("SpeechCommands",)

SILENCE, UNKNOWN, NOISE = "_silence_", "_unknown_", "_background_noise_"
TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
PARTS = ("train", "val", "test")
SAMPLES = SAMPLE_RATE
_HASH_RANGE = 2**27 - 1  # as the data set's README counts
_HELD_OUT_PERCENT = 10.0  # each of validation and test, by the hash rule

Item = tuple[int, int]
"""Clip number (-1: silence) and class."""


def part_by_hash(name: str) -> str:
    """The part of a file by the rule of the data set's README: equal speakers, by the name before ``_nohash_``."""
    speaker = re.sub(r"_nohash_.*$", "", Path(name).name)
    number = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_HASH_RANGE + 1)
    percent = number * 100.0 / _HASH_RANGE
    if percent < _HELD_OUT_PERCENT:
        return "val"
    return "test" if percent < 2 * _HELD_OUT_PERCENT else "train"


class SpeechCommands(DataModule):
    """Spoken words of one second. Batches: ``audio`` (B, 16000), ``word`` (B,) its number in ``words``, ``clip`` (B,)
    and ``speaker`` (B,), the same number for clips of one (by the files' names; each silence has its own).

    Args:
        path: the unpacked archive, one folder a word; or a data set of the hub, unpacked once into the cache.
        classes: 12: ten words, unknown and silence. 35: every word of the folder (30 in version 1).
        words: other words for the ten, in the order of the model's classes.
        test_set: folder of the official 12-class test archive, one folder a class. None: the clips of
            ``testing_list.txt``, with a draw of unknown ones and silence. Numbers of the two do not compare.
        noise_probability: share of training clips that are shifted and get background noise.
        noise_amplitude: largest factor of the background noise.
        shift_ms: largest shift in either direction.
        subset: configuration of a data set of the hub, such as ``v0.02``.
        revision: branch, tag or commit of it.
        on_bad_file: refuse to start, or skip recordings that cannot be read.
        batch_size: training clips in a batch.
        eval_batch_size: clips in a batch of validation and test.
        workers: processes that prepare training batches.
        split_seed: of the draw of unknown words, and of silence in validation and test.
        seed: of training order, noise and shifts. None: the run's seed.

    Example::

        data = SpeechCommands("speech_commands_v0.02", classes=12)
        data.setup("fit")
        data.words  # ['_silence_', '_unknown_', 'yes', 'no', ...]

    Raises:
        UserError: an argument is out of range; the folder, its words, background noise or a recording is missing.
    """

    def __init__(
        self,
        path: str | Path,
        classes: Literal[12, 35] = 12,
        words: list[str] | None = None,
        test_set: str | Path | None = None,
        noise_probability: float = 0.8,
        noise_amplitude: float = 0.1,
        shift_ms: float = 100.0,
        subset: str | None = None,
        revision: str | None = None,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 100,
        eval_batch_size: int = 256,
        workers: int = 0,
        split_seed: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, share in (("noise_probability", noise_probability), ("noise_amplitude", noise_amplitude)):
            if not 0 <= share <= 1:
                raise UserError(f"{name} is {share}; it must lie between 0 and 1.")
        if classes not in (12, 35):
            raise UserError(f"classes is {classes}; it must be 12 or 35.")
        if classes == 35 and (words is not None or test_set is not None):
            raise UserError("words and test_set belong to 12 classes; 35 are all words of the folder.")
        if not 0 <= shift_ms < 1000:
            raise UserError(f"shift_ms is {shift_ms}; it must lie between 0 and 1000.")
        if min(batch_size, eval_batch_size) < 1:
            raise UserError(f"batch_size {batch_size} and eval_batch_size {eval_batch_size} must be at least 1.")
        self.source, self.classes, self.subset, self.revision = str(path), classes, subset, revision
        self._spotted = list(TEN if words is None else words)
        if len(set(self._spotted)) < max(2, len(self._spotted)):
            raise UserError(f"words must be two or more different ones, got {self._spotted}.")
        self.test_set = None if test_set is None else Path(test_set).expanduser()
        self.noise_probability, self.noise_amplitude = noise_probability, noise_amplitude
        self.shift = round(shift_ms / 1000 * SAMPLE_RATE)
        self.on_bad_file = on_bad_file
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers
        self.split_seed, self._seed = split_seed, seed

    def check(self) -> None:
        """Refuse, before anything is decoded, a folder that is not one of Speech Commands."""
        folder = Path(self.source).expanduser()
        if not folder.is_dir() or (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            check_dataset(self.source)
            return
        found = word_files(folder)
        self.words = self._classes(found)
        self._noise_files(folder)
        check_files([file for files in found.values() for file in files], self.on_bad_file)
        if self.test_set is not None:
            self._archive()

    def load(self) -> None:
        """Decode every recording once."""
        self.seed = run_seed(self._seed)
        folder = self._folder()
        found = word_files(folder)
        self.words = self._classes(found)
        archive = self._archive() if self.test_set is not None else {}
        files = [file for some in (*found.values(), *archive.values()) for file in some]
        self.clips = cached_clips(files, trim=False, on_bad_file=self.on_bad_file)
        self.noises = cached_clips(self._noise_files(folder), trim=False, on_bad_file="refuse")
        self.files = files
        names = [file.name.split("_nohash_")[0] if "_nohash_" in file.name else str(file) for file in files]
        numbers = {name: index for index, name in enumerate(dict.fromkeys(names))}
        self.speakers = [numbers[name] for name in names]
        number = {file: clip for clip, file in enumerate(files) if clip not in self.clips.bad}
        by_list, self.split_by = split_files(folder, found)
        self.parts = {part: self._items(part, by_list[part], number) for part in PARTS}
        if archive:
            self.parts["test"] = [
                (number[file], self.words.index(word)) for word in archive for file in archive[word] if file in number
            ]
        for part, items in self.parts.items():
            if not items:
                raise UserError(f"{folder} has no recording for '{part}'.")

    def _folder(self) -> Path:
        folder = Path(self.source).expanduser()
        if folder.is_dir() and not any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
            return folder
        return unpack(self.source, self.subset, self.revision)

    def _classes(self, found: Mapping[str, Sequence[Path]]) -> list[str]:
        if self.classes == 35:
            return sorted(found)
        for word in self._spotted:
            if word not in found:
                raise UserError(f"{self.source} has no folder '{word}'.{did_you_mean(word, found)}")
        if len(found) == len(self._spotted):
            raise UserError(f"{self.source} has no word besides {', '.join(self._spotted)}: nothing is '{UNKNOWN}'.")
        return [SILENCE, UNKNOWN, *self._spotted]

    def _noise_files(self, folder: Path) -> list[Path]:
        found = sorted((folder / NOISE).glob("*.wav"))
        if not found:
            raise UserError(f"{folder} has no recordings in {NOISE}.")
        return found

    def _archive(self) -> dict[str, list[Path]]:
        """Files of the official test archive by class."""
        assert self.test_set is not None
        classes = [SILENCE, UNKNOWN, *self._spotted]
        found = {word: sorted((self.test_set / word).glob("*.wav")) for word in classes}
        if missing := [word for word, files in found.items() if not files]:
            raise UserError(f"test_set: {self.test_set} has no recordings of {', '.join(missing)}.")
        return found

    def _items(self, part: str, files: Mapping[str, Sequence[Path]], number: Mapping[Path, int]) -> list[Item]:
        clips = {word: [number[file] for file in some if file in number] for word, some in files.items()}
        spotted = [word for word in self.words if word in clips]
        items = [(clip, self.words.index(word)) for word in spotted for clip in clips[word]]
        if self.classes == 35:
            return items
        each = math.ceil(len(items) / len(spotted))  # the mean of the ten words gives the published numbers
        others = [clip for word in sorted(clips) if word not in spotted for clip in clips[word]]
        rng = np.random.default_rng([self.split_seed, 70, PARTS.index(part)])
        drawn = sorted(rng.permutation(len(others))[:each].tolist())
        items += [(others[i], self.words.index(UNKNOWN)) for i in drawn]
        return items + [(-1, self.words.index(SILENCE))] * each

    def train_dataloader(self) -> DataLoader:
        epoch = SharedEpoch()
        rows = _Rows(self, "train", self.seed, epoch)
        sampler = BucketBatchSampler(np.zeros(len(rows)), self.batch_size, self.seed, epoch=epoch)
        return DataLoader(rows, batch_sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_Rows(self, "val", self.split_seed), self.eval_batch_size)

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(_Rows(self, "test", self.split_seed), self.eval_batch_size)]

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, and speakers that parts share (by the files' names)."""
        self.setup()
        speakers = {part: {self.speakers[clip] for clip, _ in items if clip >= 0} for part, items in self.parts.items()}
        counts: dict[str, Any] = {}
        for part, items in self.parts.items():
            of_class = np.bincount([word for _, word in items], minlength=len(self.words)).tolist()
            counts[part] = {"clips": len(items), "speakers": len(speakers[part])}
            counts[part] |= {f"of '{word}'": count for word, count in zip(self.words, of_class, strict=True)}
        test = "official archive" if self.test_set is not None else f"by {self.split_by}"
        return {
            "hash": content_hash([self.clips.hash, self.noises.hash, self.words, self.parts]),
            "protocol": f"Speech Commands, {len(self.words)} classes, split by {self.split_by}, test {test}",
            "counts": counts,
            "overlap": {f"{a}/{b}": {"speakers": len(speakers[a] & speakers[b])} for a, b in combinations(PARTS, 2)},
        }


class _Rows(Dataset):
    """Clips of a part. What is drawn for one is a pure function of (seed, epoch, index)."""

    def __init__(self, data: SpeechCommands, part: str, seed: int, epoch: SharedEpoch | None = None) -> None:
        self.clips: ClipCache = data.clips
        self.noises: ClipCache = data.noises
        self.items, self.seed, self.epoch, self.speakers = data.parts[part], seed, epoch, data.speakers
        self.probability, self.amplitude, self.shift = data.noise_probability, data.noise_amplitude, data.shift

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip, word = self.items[index]
        training = self.epoch is not None
        rng = np.random.default_rng([self.seed, self.epoch.get() if self.epoch is not None else 0, index, 6])
        if clip < 0:
            audio = self._noise(rng) * np.float32(rng.uniform(0, 1))
        else:
            audio = fit(self.clips.audio(clip), SAMPLES, 0.0)
            if training and rng.random() < self.probability:
                audio = shifted(audio, int(rng.integers(-self.shift, self.shift + 1)))
                audio = audio + self._noise(rng) * np.float32(rng.uniform(0, self.amplitude))
        # Clips of one speaker are not independent; every silence is.
        speaker = self.speakers[clip] if clip >= 0 else len(self.speakers) + index
        return {"audio": torch.from_numpy(np.clip(audio, -1, 1)), "word": word, "clip": clip, "speaker": speaker}

    def _noise(self, rng: np.random.Generator) -> NDArray[np.float32]:
        sound = self.noises.audio(int(rng.integers(len(self.noises))))
        start = int(rng.integers(max(1, len(sound) - SAMPLES + 1)))
        return np.resize(sound[start:] if len(sound) - start >= SAMPLES else sound, SAMPLES)


def shifted(audio: NDArray[np.float32], by: int) -> NDArray[np.float32]:
    """``audio`` moved ``by`` samples later (earlier where negative), with zeros in its place."""
    moved = np.zeros_like(audio)
    if by >= 0:
        moved[by:] = audio[: len(audio) - by]
    else:
        moved[:by] = audio[-by:]
    return moved


def word_files(folder: Path) -> dict[str, list[Path]]:
    """Recordings of each word. Raises UserError where the folder has none."""
    words = {
        place.name: sorted(place.glob("*.wav"))
        for place in sorted(folder.iterdir())
        if place.is_dir() and not place.name.startswith(("_", "."))
    }
    words = {word: files for word, files in words.items() if files}
    if len(words) < 2:
        raise UserError(f"{folder} is not Speech Commands: expected one folder of WAV files for each word.")
    return words


def split_files(folder: Path, found: Mapping[str, Sequence[Path]]) -> tuple[dict[str, dict[str, list[Path]]], str]:
    """Files by part and word, and whether the official lists or the hash rule says so."""
    listed = {part: folder / name for part, name in LISTS.items()}
    by_list = all(file.is_file() for file in listed.values())
    part_of: dict[str, str] = {}
    if by_list:
        for part, file in listed.items():
            part_of |= dict.fromkeys(file.read_text(encoding="utf-8").split(), part)
    parts: dict[str, dict[str, list[Path]]] = {part: {word: [] for word in found} for part in PARTS}
    for word, files in found.items():
        for file in files:
            name = f"{word}/{file.name}"
            parts[part_of.get(name, "train") if by_list else part_by_hash(name)][word].append(file)
    return parts, "lists" if by_list else "hash"


def unpack(source: str, subset: str | None, revision: str | None) -> Path:
    """A data set of the hub (columns ``audio`` and ``label``) in the layout of the archive, once, in the cache."""
    from datasets import Audio

    folder = cache_folder("speech_commands", content_hash([source, subset, revision]))
    if (folder / LISTS["test"]).exists():  # written last
        return folder
    listed: dict[str, list[str]] = {part: [] for part in LISTS}
    for part, table in open_dataset(source, subset, revision).items():
        need_column(table, "audio", source)
        need_column(table, "label", source)
        names = getattr(table.features["label"], "names", None)
        for row, item in enumerate(table.cast_column("audio", Audio(decode=False))):
            word = str(names[item["label"]] if names else item["label"])
            if word == SILENCE and part != "train":  # noise that is trained with must not be tested with
                continue
            stem = Path(item["audio"]["path"] or f"{part}_{row}.wav").stem
            place = folder / (NOISE if word == SILENCE else word) / f"{stem}.wav"
            place.parent.mkdir(exist_ok=True)
            samples, rate = soundfile.read(_opened(item["audio"]), dtype="int16")
            with replacing(place) as temporary:
                soundfile.write(temporary, samples, rate)
            if part in listed and word != SILENCE:
                listed[part].append(f"{word}/{place.name}")
    for part, name in LISTS.items():
        with replacing(folder / name) as temporary:
            temporary.write_text("\n".join(listed[part]) + "\n", encoding="utf-8")
    return folder


def _opened(audio: Mapping[str, Any]) -> Any:
    from io import BytesIO

    return BytesIO(audio["bytes"]) if audio["bytes"] else audio["path"]
