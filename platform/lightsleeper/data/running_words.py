"""Running speech synthesised sentence by sentence, with the times of its words from the engine.

Voices and sentences of the test are in no other part. The vocabulary is read off the training sentences (`word_texts`).
"""

import hashlib
import math
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lightsleeper.data.corpus import Corpus, check_buildable, open_or_build
from lightsleeper.data.corpus_build import Line
from lightsleeper.data.lexicon import require_word_list
from lightsleeper.data.phrase_script import draw_line, split_voices
from lightsleeper.data.ranges import at_least
from lightsleeper.data.running_speech import RunningSpeech
from lightsleeper.data.streams import Event
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.data.word_clips import Spoken, UtteranceMix
from lightsleeper.data.word_streams import Keep, StreamPlan, by_speaker
from lightsleeper.data.word_texts import PARTS, Texts, TextSpec, write_texts
from lightsleeper.errors import UserError

CATALOG = ("RunningWords",)

_WORD_S, _RING_S = 0.4, 0.2  # a spoken word, the room after an utterance: for how many utterances fill a stream
_SPARE = 1.2  # more of them, so that none is heard twice


class RunningWords(RunningSpeech):
    """Sentences in many voices, to spot words in. Synthesis needs the ``demo`` extra.

    The corpus is built once, about 20 ms a sentence on one core, and kept in the cache folder. For the batches see
    `data.running_speech.RunningSpeech`.

    Args:
        vocabulary: words that are spotted, the most frequent content words of the training sentences.
        train_sentences: utterances to train on, about 3 s each.
        sentence_words: fewest and most words of a sentence.
        keyword_share: of the words of made sentences that are drawn from the vocabulary, each as often.
        min_phones: of a word of the vocabulary.
        text: UTF-8 file whose sentences are spoken, where it has as many. None: runs of English words.
        noise: folder of noise recordings, added to the generated kinds; three or more are divided, so that the
            streams are heard through others than training.
        noise_kinds: kinds of noise that speech is heard through; None: all.
        val_speech_minutes: length of all validation streams of speech.
        val_quiet_minutes: length of those of babble, of noise and of silence.
        test_speech_minutes: length of all test streams of speech.
        test_quiet_minutes: length of those of babble, of noise and of silence.
        held_out_voices: voices (of 89) that only the test has.
        validation_voices: voices that only the validation set has.
        corpus_seed: of voices, sentences and streams.
        clips_per_epoch: training clips with speech in an epoch. None: every sentence once.
        noise_share: share of training clips without speech.
        snr_db: lowest and highest SNR of training clips.
        gain_db: lowest and highest peak of training clips, dB of full scale.
        stream_snr_db: lowest and highest SNR of speech in streams.
        gap_s: shortest and longest pause between two utterances of a stream.
        chunk_seconds: audio in a batch of validation and test, a multiple of the spotter's slide.
        keep_streams: streams whose audio stays in the cache folder (2 MB a minute).
        keep_clips: epochs whose training clips are made once and kept (0.1 GB each for 1,000 clips); later epochs,
            and other runs with the same ``seed``, hear them again. 0: every epoch makes new ones.
        batch_size: training clips in a batch.
        workers: processes that prepare training batches; 0: the training process, about 4 ms a clip.
        build_workers: processes that build the corpus. None: one per core.
        seed: of what training draws. None: the run's seed.

    Example::

        data = RunningWords(vocabulary=20, train_sentences=500)
        data.setup("fit")
        data.words  # ['people', ...], the most frequent first

    Raises:
        UserError: an argument is out of range; espeak-ng or the text is missing; it holds too few words or sentences.
    """

    def __init__(
        self,
        vocabulary: int = 20,
        train_sentences: int = 8000,
        sentence_words: tuple[int, int] = (3, 9),
        keyword_share: float = 0.4,
        min_phones: int = 4,
        text: str | Path | None = None,
        noise: str | Path | None = None,
        noise_kinds: list[str] | None = None,
        val_speech_minutes: float = 8.0,
        val_quiet_minutes: float = 2.0,
        test_speech_minutes: float = 40.0,
        test_quiet_minutes: float = 15.0,
        held_out_voices: int = 18,
        validation_voices: int = 9,
        corpus_seed: int = 0,
        clips_per_epoch: int | None = None,
        noise_share: float = 0.1,
        snr_db: tuple[float, float] = (0.0, 30.0),
        gain_db: tuple[float, float] = (-30.0, 0.0),
        stream_snr_db: tuple[float, float] = (5.0, 30.0),
        gap_s: tuple[float, float] = (0.1, 1.2),
        chunk_seconds: float = 9.6,
        keep_streams: Keep = "val",
        keep_clips: int = 0,
        batch_size: int = 32,
        workers: int = 0,
        build_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        mix = UtteranceMix(noise_share, snr_db, gain_db)
        plan = StreamPlan(
            (val_speech_minutes, test_speech_minutes), (val_quiet_minutes, test_quiet_minutes), stream_snr_db, gap_s,
            round(chunk_seconds * self.sample_rate),
        )  # fmt: skip
        super().__init__(
            mix, plan, noise, noise_kinds, clips_per_epoch, keep_streams, keep_clips, batch_size, workers, corpus_seed,
            seed,
        )  # fmt: skip
        at_least(1, vocabulary=vocabulary, train_sentences=train_sentences, held_out_voices=held_out_voices)
        at_least(1, validation_voices=validation_voices, build_workers=build_workers)
        if not 1 <= sentence_words[0] <= sentence_words[1]:
            raise UserError(f"sentence_words must be a fewest and a most number, got {list(sentence_words)}.")
        if not 0 < keyword_share < 1:
            raise UserError(f"keyword_share is {keyword_share}; it must lie between 0 and 1.")
        if held_out_voices + validation_voices >= len(VARIANTS):
            raise UserError(
                f"held_out_voices {held_out_voices} and validation_voices {validation_voices} leave none of the "
                f"{len(VARIANTS)} voices for training."
            )
        self.text = None if text is None else Path(text).expanduser()
        self.held_out_voices, self.validation_voices = held_out_voices, validation_voices
        self.build_workers = build_workers
        each = sum(sentence_words) / 2 * _WORD_S + _RING_S + sum(gap_s) / 2
        val, test = (math.ceil(_SPARE * 60 * minutes / each) for minutes in plan.speech_minutes)
        counts = (train_sentences, val, test)
        self._asked = vocabulary, counts, sentence_words, keyword_share, min_phones, corpus_seed
        self.protocol = f"{vocabulary} words in running speech"

    @cached_property
    def spec(self) -> TextSpec:
        """What sentences and vocabulary depend on. Raises UserError where the text cannot be read."""
        vocabulary, counts, length, share, min_phones, seed = self._asked
        digest = None
        if self.text is not None:
            try:
                digest = hashlib.sha256(self.text.read_bytes()).hexdigest()[:16]
            except OSError as error:
                raise UserError(f"text: cannot read {self.text}: {error.strerror}.") from None
        return TextSpec(vocabulary, counts, length, share, min_phones, digest, seed)

    @cached_property
    def texts(self) -> Texts:
        """Sentences and vocabulary; known before anything is spoken."""
        return write_texts(self.spec, self.text)

    @property
    def words(self) -> list[str]:
        return self.texts.words

    def check(self) -> None:
        """Refuse, before anything is built, what certainly fails later."""
        super().check()
        require_word_list()
        check_buildable(self._corpus_spec, sum(self.spec.sentences))

    def _corpus_spec(self) -> dict[str, Any]:
        found = {}
        for package in ("espeakng-loader", "wordfreq", "misaki"):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "missing"
        voices = {"held_out_voices": self.held_out_voices, "validation_voices": self.validation_voices}
        return {"kind": "RunningWords", **asdict(self.spec), **voices, "packages": found}

    def _script(self) -> list[Line]:
        """Every sentence, part after part, dry, in random voices of the part."""
        voices = split_voices(self.held_out_voices, self.validation_voices, self.data_seed)
        lines: list[Line] = []
        for number, part in enumerate(PARTS):
            rng = np.random.default_rng([self.data_seed, 82, number])
            for sentence in self.texts.sentences[part]:
                voice = voices[part][int(rng.integers(len(voices[part])))]
                lines.append(Line(**{**draw_line(part, sentence, voice, rng).__dict__, "dry": True}))
        return lines

    def collect(self) -> dict[str, Spoken]:
        self.corpus: Corpus = open_or_build(self._corpus_spec(), self._script, self.build_workers)
        number = {word: i for i, word in enumerate(self.words)}
        starts, ends = self.corpus.column("word_starts_s"), self.corpus.column("word_ends_s")
        words: dict[int, list[Event]] = {}
        for clip, text in enumerate(self.corpus.texts):
            times = zip(text.split(), starts[clip], ends[clip], strict=True)
            words[clip] = [(begin, end, number[word]) for word, begin, end in times if word in number]
        voices = self.corpus.voices
        return {
            part: Spoken(self.corpus, by_speaker(self.corpus.clips(part).tolist(), voices, self.data_seed), words)
            for part in PARTS
        }

    def origin(self) -> Any:
        return self.corpus.key

    def members(self, part: str) -> dict[str, set[str]]:
        clips = self.spoken[part].clips
        return {
            "voices": {self.corpus.voices[clip] for clip in clips},
            "sentences": {self.corpus.texts[clip] for clip in clips},
        }
