"""The embedded default data: phrases of 1-4 words spoken by espeak-ng, tested by the episodes of LibriPhrase (P1).

The corpus depends on nothing but its own arguments and ``corpus_seed``: runs with different seeds train and are tested
on the same audio. What is unseen in each part is stated by ``phrase_script`` and counted in ``summary``.
"""

from dataclasses import asdict
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.augment import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch, collate_evaluation, collate_training
from lightsleeper.data.corpus import Corpus, check_buildable, open_or_build, versions
from lightsleeper.data.hard_texts import HardTexts, flatten
from lightsleeper.data.lexicon import Lexicon, near_words, require_word_list
from lightsleeper.data.module import DataModule
from lightsleeper.data.pairs import Pairs, build_p1, shortcut_auc
from lightsleeper.data.phrase_script import (
    KEYWORD_VOICES,
    NEIGHBOURS,
    PhraseSpec,
    Vocabulary,
    split_vocabulary,
    write_script,
)
from lightsleeper.data.ranges import at_least
from lightsleeper.data.rows import EvaluationRows, Pronouncer
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("SpokenPhrases",)

_TEST_PARTS = {"test": "", "unseen_words": "unseen_words"}  # part -> name of the test set


class SpokenPhrases(DataModule):
    """Synthesised phrases in many accents, voices, rates, noises and small rooms. Needs the ``demo`` extra.

    Built once, about two minutes on two cores for the default 50,000 phrases (2.7 GB), and kept in the cache folder
    (``$LIGHTSLEEPER_CACHE``, else ``~/.cache/lightsleeper``). Parts: train; val and test with voices and phrases that
    no other part has; ``unseen_words`` with the test voices and words that training has neither heard nor read.

    Args:
        train_phrases: training clips, in equal shares of 1, 2, ... ``max_words`` words.
        vocabulary: the commonest English words that phrases are drawn from.
        max_words: longest phrase.
        held_out_words: share of the words kept for the test set ``unseen_words``: never in training audio, never
            in a training text, negatives included, and never as a homophone. 0: no such test set.
        held_out_voices: voices (of 89) that only the test sets have.
        validation_voices: voices that only the validation set has.
        episodes: keywords per word count in each test set; each meets 3 matching, 3 easy and 3 hard clips.
        validation_episodes: the same for the validation set.
        distance: which texts are nearest and so make hard negatives: by edits of phones, or by the published
            distance of LibriPhrase, which never takes plural-like neighbours.
        corpus_seed: of texts, voices and everything in the audio. Another seed is another corpus.
        batch_size: training clips in a batch, of similar length.
        eval_batch_size: (clip, text) pairs in a batch of validation and test.
        negatives_per_clip: hard negative texts drawn anew for every training clip in every epoch.
        near_word_share: share of them where a word gives way to one of its five nearest; in the others one or two
            random phones change.
        workers: processes that prepare training batches; 0 prepares them in the training process, in under 5 % of
            a step.
        build_workers: processes that build the corpus. None: one per core.
        seed: of training order and drawn negatives. None: the run's seed.

    Example::

        data = SpokenPhrases(train_phrases=5000)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))

    Raises:
        UserError: an argument is out of range, espeak-ng is missing, the disk is full, or a worker died.
    """

    def __init__(
        self,
        train_phrases: int = 50_000,
        vocabulary: int = 20_000,
        max_words: int = 4,
        held_out_words: float = 0.15,
        held_out_voices: int = 18,
        validation_voices: int = 9,
        episodes: int = 125,
        validation_episodes: int = 60,
        distance: Literal["phones", "libriphrase"] = "phones",
        corpus_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        negatives_per_clip: int = 3,
        near_word_share: float = 0.6,
        workers: int = 0,
        build_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, train_phrases=train_phrases, max_words=max_words, episodes=episodes)
        at_least(1, validation_episodes=validation_episodes, batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(0, negatives_per_clip=negatives_per_clip, workers=workers, corpus_seed=corpus_seed)
        at_least(20, vocabulary=vocabulary)
        at_least(KEYWORD_VOICES, held_out_voices=held_out_voices, validation_voices=validation_voices)
        at_least(1, build_workers=build_workers)
        if held_out_voices + validation_voices >= len(VARIANTS):
            raise UserError(
                f"held_out_voices {held_out_voices} and validation_voices {validation_voices} leave none of the "
                f"{len(VARIANTS)} voices for training."
            )
        if not 0 <= held_out_words < 1:
            raise UserError(f"held_out_words is a share from 0 to below 1, got {held_out_words}.")
        if not 0 <= near_word_share <= 1:
            raise UserError(f"near_word_share is a share from 0 to 1, got {near_word_share}.")
        if distance not in ("phones", "libriphrase"):
            raise UserError(f"distance is 'phones' or 'libriphrase', got '{distance}'.")
        self.spec = PhraseSpec(
            train_phrases, vocabulary, max_words, held_out_words, held_out_voices, validation_voices, episodes,
            validation_episodes, corpus_seed,
        )  # fmt: skip
        self.distance = distance
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.negatives_per_clip = negatives_per_clip
        self.near_word_share = near_word_share
        self.workers = workers
        self.build_workers = build_workers
        self.seed = seed
        self.test_names = list(_TEST_PARTS.values()) if held_out_words > 0 else [""]
        self._corpus: Corpus | None = None

    def check(self) -> None:
        """Refuse a corpus that could not be built: no word list, or, where the cache lacks it, no engine or no room."""
        require_word_list()
        check_buildable(self._corpus_spec, self.spec.clips)

    def load(self) -> None:
        """Build the corpus where the cache does not hold it."""
        self._open()

    @property
    def corpus(self) -> Corpus:
        """The clips of all parts; opened, and built if need be, at first use."""
        return self._open()

    def _open(self) -> Corpus:
        if self._corpus is None:
            self._corpus = open_or_build(self._corpus_spec(), lambda: write_script(self.spec), self.build_workers)
        return self._corpus

    def _corpus_spec(self) -> dict[str, Any]:
        """What the corpus in the cache is named by."""
        words = [[word, Lexicon.default().word(word)] for word in self.words.seen + self.words.unseen]
        packages = versions("espeakng-loader", "wordfreq", "misaki")
        return {"kind": "SpokenPhrases", **asdict(self.spec), "words": content_hash(words), "packages": packages}

    @cached_property
    def words(self) -> Vocabulary:
        """The words of training, and those held out."""
        return split_vocabulary(self.spec)

    @cached_property
    def pairs(self) -> dict[str, Pairs]:
        """Evaluation pairs by part; ``clip`` numbers clips of the whole corpus."""
        parts = ["val", *(part for part, name in _TEST_PARTS.items() if name in self.test_names)]
        return {part: self._build_pairs(part) for part in parts}

    def _build_pairs(self, part: str) -> Pairs:
        clips = self.corpus.clips(part)
        texts = [self.corpus.texts[clip] for clip in clips]
        voices = [self.corpus.voices[clip] for clip in clips]
        pairs = build_p1(texts, voices, seed=self.spec.seed, distance=self.distance)
        pairs.clip = clips[pairs.clip]
        return pairs

    def train_dataloader(self) -> DataLoader:
        seed, epoch = run_seed(self.seed), SharedEpoch()
        rows = _PhraseRows(self.corpus, self._hard_texts(), self.negatives_per_clip, seed, epoch)
        sampler = BucketBatchSampler(self.corpus.lengths[rows.clips], self.batch_size, seed, epoch=epoch)
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=_collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return self._pair_loader("val")

    def test_dataloader(self) -> list[DataLoader]:
        return [self._pair_loader(part) for part, name in _TEST_PARTS.items() if name in self.test_names]

    def _pair_loader(self, part: str) -> DataLoader:
        rows = _PairRows(self.corpus, self.pairs[part])
        return DataLoader(rows, batch_size=self.eval_batch_size, collate_fn=collate_evaluation)

    def _hard_texts(self) -> HardTexts:
        reserved = {text for text, part in zip(self.corpus.texts, self.corpus.parts, strict=True) if part != "train"}
        near = near_words(self.words.seen, NEIGHBOURS)
        return HardTexts(near, self.words.unseen, reserved, self.near_word_share)

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, and what the parts share."""
        counts: dict[str, Any] = {**self.corpus.counts(), "train": self._source("train").counts()["train"]}
        for part, pairs in self.pairs.items():
            counts[part] = {**counts[part], **pairs.counts(), "clips": counts[part]["clips"]}
        return {
            "hash": self.corpus.key,
            "sha256": self.corpus.sha256,
            "protocol": "P1",
            "distance": self.distance,
            "counts": counts,
            "overlap": self._overlap(),
        }

    def _overlap(self) -> dict[str, dict[str, int]]:
        """Voices, phrases and words that two parts share."""
        parts = ["train", *self.pairs]
        held: dict[str, dict[str, set[str]]] = {}
        for part in parts:
            corpus = self._source(part)
            clips = corpus.clips(part)
            texts = {corpus.texts[clip] for clip in clips}
            words = {word for text in texts for word in text.split()}
            held[part] = {"voices": {corpus.voices[clip] for clip in clips}, "phrases": texts, "words": words}
        return {
            f"{a}/{b}": {kind: len(held[a][kind] & held[b][kind]) for kind in held[a]}
            for a, b in combinations(parts, 2)
        }

    def _source(self, part: str) -> Corpus:
        """Where the clips of ``part`` are."""
        return self.corpus

    def shortcuts(self) -> dict[str, dict[str, float]]:
        """AUC on the hard pairs of scorers that cannot know what was said, by part; 0.5 is none."""
        seconds = self.corpus.lengths / SAMPLE_RATE
        lexicon = Pronouncer()
        return {
            part: shortcut_auc(pairs, seconds, np.array([len(lexicon.pronounce(t).phones) for t in pairs.texts]))
            for part, pairs in self.pairs.items()
        }


class _PhraseRows(Dataset):
    """Training clips, as int16 views of the files, with their texts and drawn hard texts."""

    def __init__(self, corpus: Corpus, hard_texts: HardTexts, negatives: int, seed: int, epoch: SharedEpoch) -> None:
        self.corpus = corpus
        self.clips = corpus.clips("train")
        self.hard_texts = hard_texts
        self.negatives = negatives
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = int(self.clips[index])
        text = self.corpus.texts[clip]
        phones, words = flatten(self.hard_texts.sounds(text))
        item = {"audio": self.corpus.samples(clip), "index": index, "text": text, "phones": phones, "words": words}
        if self.negatives:
            drawn = self.hard_texts.draw(text, self.negatives, (self.seed, self.epoch.get(), index))
            item["negative_phones"], item["negative_words"] = zip(*map(flatten, drawn), strict=True)
        return item


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A training batch. Samples go from file to padded batch in one pass, 2 to 5 times faster (measured)."""
    clips = [item["audio"] for item in items]
    lengths = np.array([len(clip) for clip in clips])
    audio = np.empty((len(clips), lengths.max()), np.float32)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
        row[len(clip) :] = 0
    audio *= np.float32(1 / 32768)
    silent = np.zeros(1, np.float32)
    batch = collate_training([{**item, "audio": silent} for item in items])
    return {**batch, "audio": torch.from_numpy(audio), "audio_lengths": torch.from_numpy(lengths)}


class _PairRows(EvaluationRows):
    """Evaluation pairs, short clips first: the least padding."""

    def __init__(self, corpus: Corpus, pairs: Pairs) -> None:
        super().__init__(corpus, pairs, Pronouncer())
        self.pairs = pairs.select(np.lexsort((pairs.clip, corpus.lengths[pairs.clip])))
