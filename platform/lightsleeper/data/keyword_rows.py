"""Batches of keywords: each with recordings that say it, others that do not, and texts that nearly are it.

The batch of "Flexible Keyword Spotting based on Homogeneous Audio-Text Embedding" (Nishu et al., ICASSP 2024, figure
4): K keywords of three mini-batches of M pairs, positives, random negatives and confusables. Random negatives hear
other keywords' recordings of the same batch, so that an encoder runs once on at most K M recordings, not 3 K M times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.confusables import Confuser
from lightsleeper.data.rows import ClipSource, Pronounces

POSITIVE, RANDOM, CONFUSABLE = 0, 1, 2  # of ``part``


@dataclass(frozen=True)
class Spoken:
    """A keyword and who says it."""

    phones: tuple[int, ...]
    words: tuple[int, ...]
    clips: NDArray[np.int64]


def gather(clips: Sequence[int], texts: Sequence[str], lexicon: Pronounces) -> list[Spoken]:
    """The keywords of ``clips`` that say ``texts``; texts that sound alike are one."""
    found: dict[tuple[int, ...], list[int]] = {}
    words: dict[tuple[int, ...], tuple[int, ...]] = {}
    for clip, text in zip(clips, texts, strict=True):
        said = lexicon.pronounce(text)
        phones = tuple(said.phones)
        found.setdefault(phones, []).append(int(clip))
        words.setdefault(phones, tuple(said.words))
    return [Spoken(phones, words[phones], np.array(numbers)) for phones, numbers in found.items()]


class KeywordRows(Dataset):
    """Keywords; what a loader asks for is always a whole batch of them.

    A batch is a pure function of (seed, epoch, its keywords). It holds

    - ``audio`` (A, S) float32, 0-padded, and ``audio_lengths`` (A,): different recordings, A <= K M;
    - ``phones`` (T, P) 0-padded and ``words`` (T, P) -1-padded: the K keywords, then K M confusables;
    - row by row, (R,) int64, in the order keyword, part, recording: ``clip_index`` into the audio, ``text_index`` into
      the texts, ``label``, ``part`` (0 positive, 1 random negative, 2 confusable) and ``keyword`` (0 to K - 1).

    Args:
        source: of the recordings.
        keywords: no two of one sound.
        recordings: M. A keyword with fewer is heard in some of them more than once.
        confuser: None: no confusables, R = 2 K M rows.
        seed: of all draws.
        epoch: the one under way.
    """

    def __init__(
        self,
        source: ClipSource,
        keywords: Sequence[Spoken],
        recordings: int,
        confuser: Confuser | None,
        seed: int = 0,
        epoch: SharedEpoch | None = None,
    ) -> None:
        self.source, self.keywords, self.recordings = source, list(keywords), recordings
        self.confuser, self.seed, self.epoch = confuser, seed, epoch or SharedEpoch()
        self._phones, self._words = _table(self.keywords)

    def __len__(self) -> int:
        return len(self.keywords)

    def seconds(self) -> NDArray[np.float64]:
        """Mean length of each keyword's recordings."""
        return np.array([np.mean([self.source.seconds(int(clip)) for clip in k.clips]) for k in self.keywords])

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        raise TypeError("a keyword alone has no negatives: ask for several, as a DataLoader with a batch sampler does")

    def __getitems__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The batch of K >= 2 keywords by ``numbers``."""
        rng = np.random.default_rng([self.seed, self.epoch.get(), numbers[0], 4])
        slots = np.concatenate([self._said(self.keywords[number].clips, rng) for number in numbers])  # (K M,)
        clips, heard = np.unique(slots, return_inverse=True)
        phones, words = self._phones[numbers], self._words[numbers]
        rows = _rows(len(numbers), self.recordings, heard, self.confuser is not None, rng)
        if self.confuser is not None:
            phones, words = self._with_confusables(self.confuser, phones, words, rng)
        longest = int((phones > 0).sum(1).max())
        audio, lengths = _padded([self.source.audio(int(clip)) for clip in clips])
        return {
            "audio": audio,
            "audio_lengths": lengths,
            "phones": torch.from_numpy(np.ascontiguousarray(phones[:, :longest])),
            "words": torch.from_numpy(np.ascontiguousarray(words[:, :longest])),
            **{name: torch.from_numpy(values) for name, values in rows.items()},
        }

    def _said(self, clips: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """M recordings: all different while there are enough, else each as often as any other, give or take one."""
        rounds = -(-self.recordings // len(clips))
        return np.concatenate([rng.permutation(clips) for _ in range(rounds)])[: self.recordings]

    def _with_confusables(
        self, confuser: Confuser, phones: NDArray[np.int64], words: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        near = confuser.draw(phones.repeat(self.recordings, 0), words.repeat(self.recordings, 0), rng)
        wider = near[0].shape[1] - phones.shape[1]
        own = (np.pad(table, ((0, 0), (0, wider)), constant_values=fill) for table, fill in ((phones, 0), (words, -1)))
        both = [np.concatenate(pair) for pair in zip(own, near, strict=True)]
        return both[0], both[1]


def _rows(
    keywords: int, recordings: int, heard: NDArray[np.intp], confusables: bool, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """The columns of all rows; ``heard`` (K M,) are the recordings that say the keywords."""
    parts = 3 if confusables else 2
    shape = (keywords, parts, recordings)
    own = heard.reshape(keywords, recordings)
    chance = rng.random((keywords, keywords, recordings))
    chance[np.arange(keywords), np.arange(keywords)] = 2.0  # never one of its own
    others = chance.reshape(keywords, -1).argsort(1)[:, :recordings]
    clip = np.empty(shape, np.int64)
    clip[:, POSITIVE], clip[:, RANDOM] = own, heard[others]
    text = np.broadcast_to(np.arange(keywords)[:, None, None], shape).copy()
    if confusables:
        clip[:, CONFUSABLE] = own
        text[:, CONFUSABLE] = keywords + np.arange(keywords * recordings).reshape(keywords, recordings)
    part = np.broadcast_to(np.arange(parts)[:, None], shape)
    keyword = np.broadcast_to(np.arange(keywords)[:, None, None], shape)
    columns = {"clip_index": clip, "text_index": text, "label": part == POSITIVE, "part": part, "keyword": keyword}
    return {name: values.reshape(-1).astype(np.int64) for name, values in columns.items()}


def _table(keywords: Sequence[Spoken]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All keywords' phones, 0-padded, and words, -1-padded: (keywords, longest)."""
    longest = max(len(keyword.phones) for keyword in keywords)
    phones = np.zeros((len(keywords), longest), np.int64)
    words = np.full((len(keywords), longest), -1, np.int64)
    for row, keyword in enumerate(keywords):
        phones[row, : len(keyword.phones)] = keyword.phones
        words[row, : len(keyword.words)] = keyword.words
    return phones, words


def _padded(clips: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(clip) for clip in clips])
    audio = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in zip(audio.numpy(), clips, strict=True):
        row[: len(clip)] = clip
    return audio, lengths


def as_it_is(batch: Any) -> Any:
    """Collation of what comes as a batch."""
    return batch
