"""Data sets of single rows over any source of clips: training rows with drawn negatives, and evaluation pairs."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.lexicon import Lexicon, NearWords, Pronounces, Pronunciation, common_words, near_words
from lightsleeper.data.pairs import Pairs
from lightsleeper.errors import UserError

CONFUSE_SHARE = 0.7
"""Share of negatives with one word replaced by a near one; the others are texts of the training set."""


class ClipSource(Protocol):
    """Numbered recordings."""

    def audio(self, clip: int) -> NDArray[np.float32]:
        """16 kHz mono samples (n,)."""
        ...

    def seconds(self, clip: int) -> float: ...


class Pronouncer:
    """Texts to phones with the user's own pronunciations, each text looked up once."""

    def __init__(self, overrides: Mapping[str, str] | None = None) -> None:
        self.lexicon = Lexicon.default()
        self.overrides = dict(overrides or {})
        self._known: dict[str, Pronunciation] = {}

    def pronounce(self, text: str, /) -> Pronunciation:
        if text not in self._known:
            self._known[text] = self.lexicon.pronounce(text, self.overrides)
        return self._known[text]


class NegativeTexts:
    """Draws texts that a clip does not say but nearly could."""

    def __init__(
        self, texts: Sequence[str], lexicon: Pronounces, near: NearWords | None = None, never: Sequence[str] = ()
    ) -> None:
        """``texts`` of the training set; ``near`` replaces single words; ``never`` are texts kept for the test."""
        self.texts = list(dict.fromkeys(texts))
        self.lexicon = lexicon
        self.near = near
        self.never = set(never)
        if len(self.texts) < 2 and near is None:
            raise UserError(
                f"negatives for training need two texts or more, there is only {self.texts}: set negatives_per_clip "
                "to 0, or install the demo extra for its word list."
            )

    def draw(self, text: str, count: int, rng: np.random.Generator) -> list[Pronunciation]:
        """``count`` pronunciations, none equal to that of ``text``."""
        own = self.lexicon.pronounce(text).phones
        drawn: list[Pronunciation] = []
        for _ in range(50 * count):  # a draw fails only by meeting a homophone or a text kept for the test
            if len(drawn) == count:
                break
            words = None
            if self.near is not None and rng.random() < CONFUSE_SHARE:
                words = self.near.confuse(text.split(), rng)
            candidate = " ".join(words) if words else self.texts[int(rng.integers(len(self.texts)))]
            said = self.lexicon.pronounce(candidate)
            if candidate not in self.never and said.phones != own:
                drawn.append(said)
        if len(drawn) < count:
            raise UserError(f"no negative text found for '{text}': the training set holds only texts that sound alike.")
        return drawn


def confusions(texts: Sequence[str], vocabulary: int = 20_000) -> NearWords | None:
    """Near words for every word of ``texts``, from the commonest English words; None, with a warning, without the demo
    extra."""
    try:
        common = common_words(vocabulary)
    except UserError as error:
        warnings.warn(f"negatives are whole texts of the training set only, no near words: {error}", stacklevel=2)
        return None
    words = sorted({word for text in texts for word in text.split()})
    return near_words(words, k=5, among=common)


class TrainingRows(Dataset):
    """Item ``i`` is training clip ``i`` with its text and ``negatives_per_clip`` drawn negative texts.

    Draws are a pure function of (seed, epoch, index).
    """

    def __init__(
        self,
        source: ClipSource,
        clips: Sequence[int],
        texts: Sequence[str],
        lexicon: Pronounces,
        negatives: NegativeTexts | None = None,
        negatives_per_clip: int = 0,
        seed: int = 0,
        epoch: SharedEpoch | None = None,
    ) -> None:
        self.source = source
        self.clips = list(clips)
        self.texts = list(texts)
        self.lexicon = lexicon
        self.negatives = negatives
        self.negatives_per_clip = negatives_per_clip if negatives is not None else 0
        self.seed = seed
        self.epoch = epoch or SharedEpoch()
        self.lengths = np.array([source.seconds(clip) for clip in self.clips])

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        said = self.lexicon.pronounce(self.texts[index])
        item = {
            "audio": self.source.audio(self.clips[index]),
            "index": index,
            "text": self.texts[index],
            "phones": said.phones,
            "words": said.words,
        }
        if self.negatives is not None and self.negatives_per_clip:
            rng = np.random.default_rng([self.seed, self.epoch.get(), index, 3])
            drawn = self.negatives.draw(self.texts[index], self.negatives_per_clip, rng)
            item["negative_phones"] = [said.phones for said in drawn]
            item["negative_words"] = [said.words for said in drawn]
            item["negative_text"] = [" ".join(said.spelling) for said in drawn]
        return item


class EvaluationRows(Dataset):
    """Item ``i`` is one (audio, typed text) pair; pairs of the same clip come one after the other."""

    def __init__(self, source: ClipSource, pairs: Pairs, lexicon: Pronounces) -> None:
        self.source = source
        self.pairs = pairs.select(np.argsort(pairs.clip, kind="stable"))
        self.lexicon = lexicon
        self._last: tuple[int, NDArray[np.float32]] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pairs = self.pairs
        clip = int(pairs.clip[index])
        if self._last is None or self._last[0] != clip:
            self._last = clip, self.source.audio(clip)
        text = pairs.texts[pairs.text[index]]
        said = self.lexicon.pronounce(text)
        row = {name: int(getattr(pairs, name)[index]) for name in ("label", "kind", "episode", "word_count")}
        return {"audio": self._last[1], "phones": said.phones, "words": said.words, "text": text, "clip": clip, **row}
