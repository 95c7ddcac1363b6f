"""Training clips of running speech: whole utterances, alone or one after the other, in rooms and noise, or noise alone.

All randomness is a pure function of (seed, epoch, index). Clips have lengths of their own; `collate_words` pads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.augment import Audio
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.noise import NoisePool, disturbed
from lightsleeper.data.rows import ClipSource
from lightsleeper.data.streams import Event

_LEAD_S, _TAIL_S = (0.05, 0.6), (0.05, 0.6)  # around an utterance
_NOISE_S = (2.0, 4.0)  # length of a clip without speech
SILENCE_DBFS = (-85.0, -60.0)  # what a microphone gives in a silent room
_JITTER_DB = 4.0  # between the utterances of a clip
_RMS = 0.05


@dataclass(frozen=True)
class Spoken:
    """Utterances of one part, and the words of the vocabulary in each."""

    source: ClipSource
    clips: Sequence[int]
    words: Mapping[int, Sequence[Event]]
    """By clip: (begin_s, end_s, number of the word), in order. A clip that is missing holds none."""
    others: Sequence[int] = ()
    """Utterances without any word of the vocabulary, that are kept apart: more training clips, streams of their own."""


@dataclass(frozen=True)
class UtteranceMix:
    """Shares and ranges of training clips."""

    noise_share: float
    """Of clips, those without speech."""
    snr_db: tuple[float, float]
    gain_db: tuple[float, float]
    """Of the peak, dB of full scale."""
    joined: tuple[int, int] = (1, 1)
    """Fewest and most utterances in a clip."""
    gap_s: tuple[float, float] = (0.1, 0.6)
    """Between them."""
    disturbed: bool = True
    """False: speech as it was recorded, without room, noise and channel."""


class UtteranceClips(Dataset):
    """Items: ``audio`` (S,) float32 in [-1, 1]; ``word`` (E,) int64; ``begin_s``, ``end_s`` (E,) float32; ``clip``.

    Args:
        spoken: what is said. Every utterance is heard once in as many epochs as it takes.
        noise: what is laid under it.
        mix: shares and ranges.
        utterances: clips with speech in an epoch; None: as many as ``spoken`` has.
        seed: of everything.
        epoch: the one under way.
    """

    def __init__(
        self,
        spoken: Spoken,
        noise: NoisePool,
        mix: UtteranceMix,
        utterances: int | None,
        seed: int,
        epoch: SharedEpoch,
    ) -> None:
        self.spoken, self.noise, self.mix, self.seed, self.epoch = spoken, noise, mix, seed, epoch
        self.clips = [*spoken.clips, *spoken.others]
        self.utterances = len(self.clips) if utterances is None else utterances
        self.quiet = round(self.utterances * mix.noise_share / (1 - mix.noise_share))

    def __len__(self) -> int:
        return self.utterances + self.quiet

    def seconds(self) -> np.ndarray:
        """About how long each item is (items,): what batches of similar lengths are made by."""
        each = np.array([self.spoken.source.seconds(clip) for clip in self.clips])
        mean = each[: len(self.spoken.clips)].mean() + sum(self.mix.gap_s) / 2
        said = np.array([each[i % len(each)] + mean * self._following(i) for i in range(self.utterances)])
        return np.concatenate([said, np.full(self.quiet, sum(_NOISE_S) / 2)])

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch = self.epoch.get()
        rng = np.random.default_rng([self.seed, epoch, index, 7])
        events: list[Event] = []
        clip = -1
        if index < self.utterances:
            number = (index + epoch * self.utterances) % len(self.clips)
            clip = self.clips[number]
            following = rng.integers(len(self.spoken.clips), size=self._following(index))
            audio, events = self._said([clip, *(self.spoken.clips[int(i)] for i in following)], rng)
        else:
            audio = np.zeros(round(rng.uniform(*_NOISE_S) * SAMPLE_RATE), np.float32)
        if index >= self.utterances and rng.random() < 1 / (len(self.noise.kinds) + 1):  # silence is one more kind
            audio = rng.standard_normal(len(audio), dtype=np.float32)
            audio *= np.float32(10 ** (rng.uniform(*SILENCE_DBFS) / 20))
        elif index >= self.utterances or self.mix.disturbed:
            audio = disturbed(audio, self.noise, self.mix.snr_db, self.mix.gain_db, rng)
        return {
            "audio": torch.from_numpy(audio),
            "word": torch.tensor([int(word) for _, _, word in events], dtype=torch.int64),
            "begin_s": torch.tensor([begin for begin, _, _ in events], dtype=torch.float32),
            "end_s": torch.tensor([end for _, end, _ in events], dtype=torch.float32),
            "clip": clip,
        }

    def _following(self, index: int) -> int:
        """Utterances after the first one of an item, the same in every epoch: batches are made by length."""
        if index % len(self.clips) >= len(self.spoken.clips):
            return 0
        fewest, most = self.mix.joined
        return fewest - 1 + index % (most - fewest + 1)

    def _said(self, clips: Sequence[int], rng: np.random.Generator) -> tuple[Audio, list[Event]]:
        """Utterances one after the other, from silence to silence."""
        at = round(rng.uniform(*_LEAD_S) * SAMPLE_RATE)
        pieces: list[tuple[int, Audio]] = []
        events: list[Event] = []
        for number in clips:
            sound = self.spoken.source.audio(number)
            level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
            louder = float(rng.uniform(-_JITTER_DB, _JITTER_DB))
            if self.mix.disturbed:
                sound = sound * np.float32(_RMS / max(level, 1e-5) * 10 ** (louder / 20))
            pieces.append((at, sound))
            start = at / SAMPLE_RATE
            events += [(start + begin, start + end, word) for begin, end, word in self.spoken.words.get(number, ())]
            at += len(sound) + round(rng.uniform(*self.mix.gap_s) * SAMPLE_RATE)
        last, sound = pieces[-1]
        audio = np.zeros(last + len(sound) + round(rng.uniform(*_TAIL_S) * SAMPLE_RATE), np.float32)
        for begin, piece in pieces:
            audio[begin : begin + len(piece)] += piece
        return audio, events


def collate_words(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items to a batch: ``audio`` (B, S), 0-padded; ``samples`` (B,); ``word`` (B, E), -1-padded; ``begin_s`` and
    ``end_s`` (B, E), nan-padded; ``clip`` (B,). E is at least 1."""
    return {
        "audio": torch.nn.utils.rnn.pad_sequence([item["audio"] for item in items], batch_first=True),
        "samples": torch.tensor([len(item["audio"]) for item in items]),
        "word": _padded([item["word"] for item in items], -1),
        "begin_s": _padded([item["begin_s"] for item in items], float("nan")),
        "end_s": _padded([item["end_s"] for item in items], float("nan")),
        "clip": torch.tensor([item["clip"] for item in items]),
    }


def _padded(rows: Sequence[Tensor], value: float) -> Tensor:
    table = torch.full((len(rows), max(1, *(len(row) for row in rows))), value, dtype=rows[0].dtype)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
