"""Synthesised keywords in batches of positives, random negatives and confusables; tested as `SpokenPhrases`.

A verifier learns what makes a recording another keyword only if each keyword is heard in many voices, and the phrase
corpus says nearly every phrase once. So training has a corpus of its own, few phrases by many voices, and validation
and test are the phrase corpus's own: results compare with those of the other keyword families.
"""

from typing import Any, Literal

from torch.utils.data import DataLoader

from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch
from lightsleeper.data.confusables import EDITS, Confuser, Weighting
from lightsleeper.data.corpus import Corpus, check_buildable, open_or_build
from lightsleeper.data.keyword_rows import KeywordRows, as_it_is, gather
from lightsleeper.data.keyword_script import write_keywords
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.phrase_script import split_voices
from lightsleeper.data.ranges import at_least
from lightsleeper.data.rows import Pronouncer
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.errors import UserError

CATALOG = ("KeywordBatches",)

_BUCKET_BATCHES = 8  # keywords of similar length together: a third less padding than in random order


class KeywordBatches(SpokenPhrases):
    """Training batches of K keywords, each with M recordings that say it, M that say another keyword of the batch, and
    M confusable texts. Needs the ``demo`` extra.

    The keywords' recordings are built once, about 40 seconds on two cores for 1,500 phrases in 11 voices (0.8 GB), and
    kept in the cache folder; so are the phrases of validation and test, where no other run has built them yet. No
    confusable text is a phrase of the tests, and none has a word that is held out.

    Args:
        keywords: K, of a batch. Published: 32.
        recordings: M, of a keyword in each of its three parts. Published: 11.
        confusables: whether there is the third part. Published: with and without.
        edits: fewest and most phones that are replaced or added in a confusable.
        weighting: of the phones put in: uniform (published), or articulatory, ours, by how near they are articulated;
            that needs the extra ``phonology``.
        phrases: different keywords of the training corpus, in equal shares of 1, 2, ... ``max_words`` words. 0: those
            of the phrase corpus, nearly all of them in one recording, which is then used M times.
        recordings_per_phrase: voices that each of them is recorded in.
        train_phrases: training clips of the phrase corpus, heard only with ``phrases: 0``.
        vocabulary: as in SpokenPhrases, like all that follow.
        max_words: longest phrase.
        held_out_words: share of the words kept for the test set ``unseen_words``.
        held_out_voices: voices (of 89) that only the test sets have.
        validation_voices: voices that only the validation set has.
        episodes: keywords per word count in each test set.
        validation_episodes: the same for the validation set.
        distance: which texts make hard negatives of validation and test.
        corpus_seed: of texts, voices and everything in the audio.
        eval_batch_size: (clip, text) pairs in a batch of validation and test.
        workers: processes that prepare training batches.
        build_workers: processes that build the corpora. None: one per core.
        seed: of training order and drawn texts. None: the run's seed.

    Example::

        data = KeywordBatches(keywords=8, recordings=4)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))

    Raises:
        UserError: an argument is out of range, espeak-ng or panphon is missing, or the disk is full.
    """

    def __init__(
        self,
        keywords: int = 32,
        recordings: int = 11,
        confusables: bool = True,
        edits: tuple[int, int] = EDITS,
        weighting: Weighting = "uniform",
        phrases: int = 1500,
        recordings_per_phrase: int = 11,
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
        eval_batch_size: int = 128,
        workers: int = 0,
        build_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        at_least(2, keywords=keywords)
        at_least(1, recordings=recordings, recordings_per_phrase=recordings_per_phrase)
        at_least(0, phrases=phrases)
        super().__init__(
            train_phrases, vocabulary, max_words, held_out_words, held_out_voices, validation_voices, episodes,
            validation_episodes, distance, corpus_seed, batch_size=keywords, eval_batch_size=eval_batch_size,
            negatives_per_clip=0, workers=workers, build_workers=build_workers, seed=seed,
        )  # fmt: skip
        if 0 < phrases < keywords:
            raise UserError(f"phrases {phrases} are fewer than the {keywords} keywords of a batch.")
        Confuser(edits)  # refused here, not at the first batch
        self.recordings, self.confusables, self.edits, self.weighting = recordings, confusables, edits, weighting
        self.phrases, self.recordings_per_phrase = phrases, recordings_per_phrase
        self._keywords: Corpus | None = None

    def check(self) -> None:
        super().check()
        if self.phrases:
            check_buildable(self._keyword_spec, self.phrases * self.recordings_per_phrase)
        if self.confusables and self.weighting == "articulatory":
            Confuser(self.edits, self.weighting)

    def load(self) -> None:
        super().load()
        _ = self.keyword_corpus  # built here

    @property
    def keyword_corpus(self) -> Corpus:
        """The recordings that training hears."""
        if not self.phrases:
            return self.corpus
        if self._keywords is None:
            self._keywords = open_or_build(self._keyword_spec(), self._script, self.build_workers)
        return self._keywords

    def _keyword_spec(self) -> dict[str, Any]:
        sizes = {"phrases": self.phrases, "recordings": self.recordings_per_phrase}
        return {**self._corpus_spec(), "kind": "SpokenKeywords", **sizes}

    def _script(self) -> list[Any]:
        voices = split_voices(self.spec.held_out_voices, self.spec.validation_voices, self.spec.seed)["train"]
        return write_keywords(
            self.words.seen, voices, self._reserved(), self.phrases, self.recordings_per_phrase, self.spec.max_words,
            self.spec.seed,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader:
        seed, epoch = run_seed(self.seed), SharedEpoch()
        corpus = self.keyword_corpus
        clips = corpus.clips("train")
        keywords = gather(clips.tolist(), [corpus.texts[clip] for clip in clips], Pronouncer())
        confuser = self._confuser() if self.confusables else None
        rows = KeywordRows(corpus, keywords, self.recordings, confuser, seed, epoch)
        sampler = BucketBatchSampler(
            rows.seconds(), self.batch_size, seed, drop_last=True, epoch=epoch, bucket_batches=_BUCKET_BATCHES
        )
        return DataLoader(
            rows,
            batch_sampler=sampler,
            collate_fn=as_it_is,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def _confuser(self) -> Confuser:
        lexicon = Lexicon.default()
        never = [[phone for word in text.split(" ") for phone in lexicon.word(word)] for text in self._reserved()]
        return Confuser(self.edits, self.weighting, never, map(lexicon.word, self.words.unseen))

    def _reserved(self) -> list[str]:
        """Phrases of validation and test."""
        texts, parts = self.corpus.texts, self.corpus.parts
        return sorted({text for text, part in zip(texts, parts, strict=True) if part != "train"})

    def _source(self, part: str) -> Corpus:
        return self.keyword_corpus if part == "train" else self.corpus

    def summary(self) -> dict[str, Any]:
        found, corpus = super().summary(), self.keyword_corpus
        if corpus is self.corpus:
            return found
        return {**found, "hash": f"{found['hash']}+{corpus.key}", "train_sha256": corpus.sha256}
