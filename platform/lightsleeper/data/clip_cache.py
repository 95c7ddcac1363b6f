"""Recordings decoded, resampled and trimmed once, kept as one memory-mapped file of 16-bit samples.

Each clip is checked on the way: a damaged file shows before training, not in epoch 7.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE, AudioError, cut_speech, read_audio
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, replacing, write_json

OnBadFile = Literal["refuse", "skip"]
_VERSION = 2  # raise when decoding or trimming changes


class ClipCache:
    """Numbered clips in a cache folder; ``ok[clip]`` is False for one that was skipped.

    Reading is a memory map: workers share it, and nothing is decoded twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.offsets = np.array(index["offsets"], np.int64)  # (clips + 1,)
        self.bad: dict[int, str] = {int(clip): reason for clip, reason in index["bad"].items()}
        self.hash: str = index["hash"]
        self._samples: NDArray[np.int16] | None = None
        if (folder / "audio.i16").stat().st_size != 2 * self.offsets[-1]:
            raise ValueError("the audio is not that of the index")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_samples": None}  # a worker opens its own map

    @property
    def ok(self) -> NDArray[np.bool_]:
        return np.array([clip not in self.bad for clip in range(len(self))], np.bool_)

    def seconds(self, clip: int) -> float:
        return float(self.offsets[clip + 1] - self.offsets[clip]) / SAMPLE_RATE

    def audio(self, clip: int) -> NDArray[np.float32]:
        if self._samples is None:
            path = self.folder / "audio.i16"
            self._samples = np.memmap(path, np.int16, "r") if path.stat().st_size else np.zeros(0, np.int16)
        return self._samples[self.offsets[clip] : self.offsets[clip + 1]].astype(np.float32) / np.float32(32768)


def cached_clips(files: Sequence[Path], trim: bool, on_bad_file: OnBadFile, progress: bool = True) -> ClipCache:
    """The clips of ``files``, decoded now where the cache does not hold them.

    A file counts as changed when its size or time of change does.

    Raises:
        UserError: with ``refuse``, naming up to 5 of the files that cannot be used; always when none can.
    """
    stamps = [(str(f), *((s.st_size, s.st_mtime_ns) if (s := _stat(f)) else ())) for f in files]
    folder = cache_folder("clips", content_hash([_VERSION, SAMPLE_RATE, trim, stamps]))
    try:
        cache = ClipCache(folder)
    except (OSError, ValueError, KeyError):
        _decode(files, folder, trim, progress)
        cache = ClipCache(folder)
    _judge(files, cache.bad, on_bad_file)
    return cache


def check_files(files: Sequence[Path], on_bad_file: OnBadFile) -> None:
    """`cached_clips`' refusal of files that do not exist; opens none of them."""
    _judge(files, {clip: "does not exist" for clip, file in enumerate(files) if not file.exists()}, on_bad_file)


def _judge(files: Sequence[Path], bad: Mapping[int, str], on_bad_file: OnBadFile) -> None:
    reasons = [f"{files[clip]}: {reason}" for clip, reason in bad.items()]
    if reasons and (on_bad_file == "refuse" or len(reasons) == len(files)):
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        hint = " Repair them, or set on_bad_file to skip." if on_bad_file == "refuse" else ""
        named = "; ".join(reasons[:5])
        raise UserError(f"{len(reasons)} of {len(files)} audio files cannot be used: {named}{more}.{hint}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _decode(files: Sequence[Path], folder: Path, trim: bool, progress: bool) -> None:
    """Write ``audio.i16``, then ``index.json``, whose presence says that both are complete."""
    from rich.console import Console
    from rich.progress import track

    offsets, bad, digest = [0], {}, hashlib.sha256()
    console = Console(stderr=True)
    with replacing(folder / "audio.i16") as temporary, temporary.open("wb") as out:
        shown = track(
            files, "reading audio", console=console, transient=True, disable=not (progress and console.is_terminal)
        )
        for clip, file in enumerate(shown):
            try:
                audio = read_audio(file)
                if trim:
                    audio, _ = cut_speech(audio)
                samples = np.clip(np.round(audio * 32768), -32768, 32767).astype("<i2").tobytes()
            except AudioError as error:
                bad[clip] = error.reason
                samples = b""
            out.write(samples)
            digest.update(len(samples).to_bytes(8, "little") + samples)
            offsets.append(offsets[-1] + len(samples) // 2)
    index = {"offsets": offsets, "bad": bad, "hash": digest.hexdigest()[:16]}
    write_json(folder / "index.json", index)
