"""Clips that are stretches of long recordings, cut while they are read."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from lightsleeper.data.audio import AudioError, read_audio
from lightsleeper.errors import UserError

SLACK_S = 0.1  # alignments may end a little after the recording


class Segments:
    """Clip ``i`` is ``files[i]`` from ``start[i]`` to ``end[i]`` seconds; an end of inf is the whole file."""

    def __init__(self, files: Sequence[Path], start: Sequence[float], end: Sequence[float]) -> None:
        self.files = list(files)
        self.start = np.asarray(start, np.float64)
        self.end = np.asarray(end, np.float64)
        self._length: dict[Path, float] = {}

    def __len__(self) -> int:
        return len(self.files)

    def audio(self, clip: int) -> NDArray[np.float32]:
        end = None if np.isinf(self.end[clip]) else float(self.end[clip])
        return read_audio(self.files[clip], start_s=float(self.start[clip]), end_s=end)

    def seconds(self, clip: int) -> float:
        if np.isinf(self.end[clip]):
            return self._file_seconds(self.files[clip]) - float(self.start[clip])
        return float(self.end[clip] - self.start[clip])

    def bad(self) -> dict[int, str]:
        """Clips that cannot be read, with the reason: each file's header is opened, no audio decoded."""
        files = list(dict.fromkeys(self.files))
        with ThreadPoolExecutor() as pool:
            reasons = dict(zip(files, pool.map(self._reason, files), strict=True))
        found = {}
        for clip, file in enumerate(self.files):
            if reasons[file]:
                found[clip] = reasons[file]
            elif not np.isinf(self.end[clip]) and self.end[clip] > self._length[file] + SLACK_S:
                found[clip] = f"ends at {self._length[file]:.2f} s, before its phrase at {self.end[clip]:.2f} s"
        return found

    def _reason(self, file: Path) -> str:
        try:
            self._file_seconds(file)
        except AudioError as error:
            return error.reason
        return ""

    def _file_seconds(self, file: Path) -> float:
        if file not in self._length:
            if not file.is_file():
                raise AudioError(file, "does not exist")
            try:
                self._length[file] = float(soundfile.info(file).duration)
            except (soundfile.LibsndfileError, RuntimeError, OSError):
                raise AudioError(file, "is damaged or no audio file") from None
            if not self._length[file]:
                raise AudioError(file, "is empty")
        return self._length[file]


def refuse(segments: Segments, bad: dict[int, str]) -> None:
    """Name up to 5 of the files behind ``bad``."""
    named = list(dict.fromkeys(f"{segments.files[clip]}: {reason}" for clip, reason in bad.items()))
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    hint = "Repair them, or set on_bad_file to skip."
    raise UserError(f"{len(named)} audio files cannot be used: {'; '.join(named[:5])}{more}. {hint}")
