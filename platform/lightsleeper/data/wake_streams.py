"""Recordings as streams that a wake-word detector is judged on: no synthesis, no training, no division."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lightsleeper.data.clip_cache import OnBadFile
from lightsleeper.data.lexicon import split_words
from lightsleeper.data.manifest import read_manifest
from lightsleeper.data.streams import SAMPLE_RATE, Clip, StreamChunks
from lightsleeper.data.wake_layout import recorded_streams
from lightsleeper.data.wake_recordings import Take, other_takes, read_takes
from lightsleeper.errors import UserError, did_you_mean

CHUNK = 10 * SAMPLE_RATE


@dataclass
class RecordedStreams:
    """All recordings of folders: each of the phrase a stream with half a second of silence around, the rest one stream.

    Args:
        phrase: rows of the manifests with this text hold the wake word, all others none.
        folders: with a manifest (``path,text[,speaker]``).
        negatives: folders of recordings without the phrase; no manifest needed.
        on_bad_file: refuse, or skip recordings that cannot be read.

    Raises:
        UserError: no recording says the phrase; a folder, manifest or recording is missing or unusable.
    """

    phrase: str
    folders: Sequence[Path]
    negatives: Sequence[Path] = ()
    on_bad_file: OnBadFile = "refuse"
    takes: list[Take] = field(init=False)

    def __post_init__(self) -> None:
        phrase = " ".join(split_words(self.phrase)) if self.folders else ""
        rows = [row for folder in self.folders for row in read_manifest(folder)]
        if self.folders and not any(row.text == phrase for row in rows):
            texts = sorted({row.text for row in rows})
            near = did_you_mean(phrase, texts)
            near = near if len(texts) <= 8 or "mean" in near else f" It has {len(texts)} others."
            raise UserError(f"no recording in {' '.join(map(str, self.folders))} says '{phrase}'.{near}")
        self.takes = [Take(row.file, row.text == phrase, row.speaker) for row in rows]
        self.takes += other_takes(phrase, self.negatives, self.takes)
        self.clips = read_takes(self.takes, self.on_bad_file)
        usable = [int(clip) for clip in np.flatnonzero(self.clips.ok)]
        positive = [clip for clip in usable if self.takes[clip].positive]
        negative = [clip for clip in usable if not self.takes[clip].positive]
        self.streams = dict(enumerate(recorded_streams(self.clips, positive, negative)))
        self.counts = {"positive": len(positive), "negative": len(negative)}

    def chunks(self) -> DataLoader:
        return DataLoader(StreamChunks(self.streams, CHUNK), batch_size=None, collate_fn=lambda item: item)

    def recording(self, stream: int) -> Path | None:
        """The file behind a stream that is one recording of the phrase."""
        found = self.streams[stream]
        return self.takes[found.clip].file if isinstance(found, Clip) else None

    def summary(self) -> dict[str, Any]:
        """What `lightning evaluate` says of the data."""
        what = f"wake word '{self.phrase}', recordings" if self.folders else "recordings without the wake word"
        return {"protocol": what, "hash": self.clips.hash, "counts": self.counts}
