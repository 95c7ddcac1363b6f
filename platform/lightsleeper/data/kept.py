"""Streams and training clips that are made once and read from the cache folder from then on.

Making an hour of stream costs five seconds of one core, a training clip two to three milliseconds: more than the small
networks that listen to them. What is kept is what would have been made, to the last bit: streams are 16-bit audio
either way. Keys hold everything that an hour or a clip depends on; raise ``VERSION`` when rendering changes.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.augment import Audio
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.streams import FULL_SCALE, Scenery
from lightsleeper.data.wake_clips import FRAME, WakeClips
from lightsleeper.data.word_clips import UtteranceClips
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, free_bytes, replacing

VERSION = 1
_BLOCK = 60 * SAMPLE_RATE  # samples rendered at once
_SPARE = 1 << 30  # bytes that a cache leaves on the disk


class KeptStream:
    """A `Scenery` whose audio is rendered at its first reading, by whoever comes first.

    Args:
        scenery: what is rendered.
        origin: JSON-able identity of the clips and noise that it is made of.

    Raises:
        UserError: at that first reading, where the disk is too small.
    """

    def __init__(self, scenery: Scenery, origin: Any) -> None:
        self.scenery, self.samples = scenery, scenery.samples
        self.events, self.content = scenery.events, scenery.content
        plan = [[asdict(item) for item in items] for items in (scenery.passages, scenery.placed)]
        self.key = content_hash([VERSION, origin, scenery.samples, plan])
        self._audio: NDArray[np.int16] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_audio": None}  # a worker opens its own map

    def read(self, start: int, count: int) -> Audio:
        if self._audio is None:
            path = cache_folder("streams") / f"{self.key}.i16"
            _make_once(path, self._render, 2 * self.samples)
            self._audio = np.memmap(path, np.int16, "r")
        return self._audio[start : start + count].astype(np.float32) / np.float32(FULL_SCALE)

    def _render(self, path: Path) -> None:
        with path.open("wb") as out:
            for start in range(0, self.samples, _BLOCK):
                audio = self.scenery.read(start, min(_BLOCK, self.samples - start))
                out.write(np.rint(audio * FULL_SCALE).astype(np.int16).tobytes())


class KeptClips(Dataset):
    """Training clips of the first ``epochs`` epochs, made once; later epochs read them again in turn.

    Args:
        rows: what makes them.
        epochs: different epochs, 1 or more; 0.4 GB each for 5,000 clips of 2.4 s.
        origin: JSON-able identity of all that ``rows`` draws from.

    Raises:
        UserError: where the disk is too small.
    """

    def __init__(self, rows: WakeClips, epochs: int, origin: Any) -> None:
        self.rows, self.epochs, self.epoch = rows, epochs, rows.epoch
        self.key = content_hash([VERSION, origin, asdict(rows.mixture), rows.weights, rows.clips, rows.seed])
        self._open: tuple[int, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._epoch(self.epoch.get() % self.epochs)[index]
        return {
            "audio": torch.from_numpy(row["audio"].astype(np.float32) / np.float32(FULL_SCALE)),
            "keyword": int(row["keyword"]),
            "begin_s": torch.tensor(row["begin_s"]),
            "end_s": torch.tensor(row["end_s"]),
            "phones": torch.from_numpy(row["phones"].astype(np.int64)),
            "clip": int(row["clip"]),
        }

    def _epoch(self, number: int) -> NDArray[Any]:
        if self._open is None or self._open[0] != number:
            path = cache_folder("wake_clips") / f"{self.key}-{number}.bin"
            _make_once(path, lambda target: self._make(number, target), len(self.rows) * self._type.itemsize)
            self._open = number, np.memmap(path, self._type, "r")
        return self._open[1]

    @property
    def _type(self) -> np.dtype:
        samples = self.rows.mixture.samples
        fields = [("audio", "<i2", samples), ("phones", "<i2", samples // FRAME), ("keyword", "<i2")]
        return np.dtype([*fields, ("begin_s", "<f4"), ("end_s", "<f4"), ("clip", "<i4")])

    def _make(self, number: int, path: Path) -> None:
        epoch, self.rows.epoch = self.rows.epoch, SharedEpoch()
        self.rows.epoch.set(number)
        try:
            with path.open("wb") as out:
                for index in range(len(self.rows)):
                    item, row = self.rows[index], np.zeros((), self._type)
                    for name in self._type.names or ():
                        row[name] = item[name] if name != "audio" else sixteen_bits(item[name].numpy())
                    out.write(row.tobytes())
        finally:
            self.rows.epoch = epoch


class KeptUtterances(Dataset):
    """`KeptClips` of lengths of their own: samples in one file an epoch, where each begins and what it says in another.

    Args:
        rows: what makes them.
        epochs: different epochs, 1 or more; about 0.1 GB each for 1,000 clips of 3 s.
        origin: JSON-able identity of all that ``rows`` draws from.

    Raises:
        UserError: where the disk is too small.
    """

    def __init__(self, rows: UtteranceClips, epochs: int, origin: Any) -> None:
        self.rows, self.epochs, self.epoch = rows, epochs, rows.epoch
        self.key = content_hash([VERSION, origin, asdict(rows.mix), rows.utterances, rows.seed])
        self._open: tuple[int, NDArray[np.int16], dict[str, NDArray[Any]]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        audio, kept = self._epoch(self.epoch.get() % self.epochs)
        samples, events = (slice(*kept[name][index : index + 2]) for name in ("samples", "events"))
        item: dict[str, Any] = {
            name: torch.from_numpy(kept[name][events].copy()) for name in ("word", "begin_s", "end_s")
        }
        sound = torch.from_numpy(audio[samples].astype(np.float32) / np.float32(FULL_SCALE))
        return {**item, "audio": sound, "clip": int(kept["clip"][index])}

    def _epoch(self, number: int) -> tuple[NDArray[np.int16], dict[str, NDArray[Any]]]:
        if self._open is None or self._open[0] != number:
            path = cache_folder("word_clips") / f"{self.key}-{number}.npz"
            audio = path.with_suffix(".i16")
            # The index is written last: where it lies, the samples are complete.
            _make_once(path, lambda target: self._make(number, target, audio), self._expected(), exact=False)
            with np.load(path) as stored:
                self._open = number, np.memmap(audio, np.int16, "r"), {name: stored[name] for name in stored.files}
        return self._open[1:]

    def _expected(self) -> int:
        """Bytes, about: silence around speech is up to 1.2 s."""
        return round(2 * SAMPLE_RATE * float(self.rows.seconds().sum() + len(self.rows)))

    def _make(self, number: int, index: Path, audio: Path) -> None:
        kept: dict[str, list[Any]] = {name: [] for name in ("word", "begin_s", "end_s", "clip")}
        samples, events = [0], [0]
        epoch, self.rows.epoch = self.rows.epoch, SharedEpoch()
        self.rows.epoch.set(number)
        try:
            with replacing(audio) as temporary, temporary.open("wb") as out:
                for row in range(len(self.rows)):
                    item = self.rows[row]
                    out.write(sixteen_bits(item["audio"].numpy()).tobytes())
                    samples.append(samples[-1] + len(item["audio"]))
                    events.append(events[-1] + len(item["word"]))
                    for name in ("word", "begin_s", "end_s"):
                        kept[name].append(item[name].numpy())
                    kept["clip"].append([item["clip"]])
        finally:
            self.rows.epoch = epoch
        with index.open("wb") as out:
            columns = {name: np.concatenate(parts) for name, parts in kept.items()}
            columns |= {"samples": np.array(samples), "events": np.array(events)}
            np.savez(out, **columns)  # type: ignore[arg-type]


def sixteen_bits(audio: Audio) -> NDArray[np.int16]:
    """Audio in [-1, 1] as a converter gives it."""
    return np.clip(np.rint(audio * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _make_once(path: Path, make: Callable[[Path], None], size: int, exact: bool = True) -> None:
    """Have one process write ``path`` whole; others wait for it.

    ``size``: bytes that are needed, and where ``exact`` those that the file has.
    """

    def complete() -> bool:
        return path.exists() and (not exact or path.stat().st_size == size)

    if complete():
        return
    with FileLock(path.with_suffix(".lock")):
        if complete():
            return
        if free_bytes(path.parent) < size + _SPARE:
            raise UserError(
                f"{path.parent}: {size / 1e9:.1f} GB and some space to spare are needed to keep rendered audio; "
                f"{free_bytes(path.parent) / 1e9:.1f} GB are free. keep_streams: none and keep_clips: 0 keep nothing."
            )
        with replacing(path) as temporary:
            make(temporary)
