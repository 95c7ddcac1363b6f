"""Drawn faces whose mouths follow the phonemes of synthesised speech: active speakers without any recording.

The scenes (`speaker_scenes`) are made so that neither sound nor picture alone suffices. Faces, voices and sentences of
the test are in no other part.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from lightsleeper.data import corpus as speech
from lightsleeper.data import speaker_corpus
from lightsleeper.data.corpus import Corpus, check_buildable, versions
from lightsleeper.data.corpus_build import Line
from lightsleeper.data.lexicon import require_word_list
from lightsleeper.data.phrase_script import draw_line, split_voices
from lightsleeper.data.ranges import at_least
from lightsleeper.data.speaker_build import check_space
from lightsleeper.data.speaker_corpus import FOLDER, PartTracks, SpeakerCorpus, scenes_key
from lightsleeper.data.speaker_scenes import SceneScript, write_scenes
from lightsleeper.data.speaker_tracks import SpeakerTracks
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.data.track_source import TrackSource
from lightsleeper.data.word_texts import PARTS, TextSpec, write_texts
from lightsleeper.errors import UserError
from lightsleeper.files import cache_path
from lightsleeper.metrics.active_speaker import LABELS

CATALOG = ("SyntheticSpeakers",)


class SyntheticSpeakers(SpeakerTracks):
    """One to three drawn faces and one sound: who speaks? Synthesis needs the ``demo`` extra.

    Faces that do not speak keep still, chew, smile, laugh, or move their lips silently to another sentence; voices may
    come from somebody who is not in the picture; the sound is up to 80 ms late and noisy. Scenes are drawn once, about
    1,000 frames of 112 pixels or 2,900 of 56 a second and core (processor time, a one-off), and kept in the cache
    folder: 12.5 kB or 3.1 kB a frame. For the batches see `data.speaker_tracks.SpeakerTracks`.

    Args:
        size: width and height of a face, pixels: 112 as published, 56 (ours) trains four times as fast.
        train_scenes: scenes to train on, of about 175 frames (all faces together).
        val_scenes: scenes to validate on.
        test_scenes: scenes of the test.
        sentences: different sentences in training; a fourth as many in validation, half as many in the test.
        identities: faces in training; a fourth as many in validation, half as many in the test.
        held_out_voices: voices (of 89) that only the test has.
        validation_voices: voices that only the validation set has.
        snr_db: lowest and highest SNR of a scene.
        corpus_seed: of faces, voices, sentences and scenes.
        batch_frames: frames of a training batch, at most.
        augment: flip, crop and turn training tracks, and add other tracks' sound.
        workers: processes that prepare batches; 0: the training process.
        build_workers: processes that build the corpus. None: one per core.
        seed: of what training draws. None: the run's seed.

    Example::

        data = SyntheticSpeakers(size=56, train_scenes=100)
        data.setup("fit")
        next(iter(data.train_dataloader()))["faces"].shape  # (24, 81, 56, 56)

    Raises:
        UserError: an argument is out of range; espeak-ng or the word list is missing; the disk is too small.
    """

    protocol = "drawn faces, synthesised voices"

    def __init__(
        self,
        size: int = 112,
        train_scenes: int = 480,
        val_scenes: int = 60,
        test_scenes: int = 140,
        sentences: int = 1200,
        identities: int = 400,
        held_out_voices: int = 18,
        validation_voices: int = 9,
        snr_db: tuple[float, float] = (5.0, 30.0),
        corpus_seed: int = 0,
        batch_frames: int = 2000,
        augment: bool = True,
        workers: int = 0,
        build_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, batch_frames, augment, workers, seed)
        at_least(1, train_scenes=train_scenes, val_scenes=val_scenes, test_scenes=test_scenes)
        at_least(8, sentences=sentences, identities=identities)
        at_least(1, held_out_voices=held_out_voices, validation_voices=validation_voices, build_workers=build_workers)
        if held_out_voices + validation_voices >= len(VARIANTS):
            raise UserError(
                f"held_out_voices {held_out_voices} and validation_voices {validation_voices} leave none of the "
                f"{len(VARIANTS)} voices for training."
            )
        if snr_db[0] > snr_db[1]:
            raise UserError(f"snr_db must be a lowest and a highest value, got {list(snr_db)}.")
        self.scenes = {"train": train_scenes, "val": val_scenes, "test": test_scenes}
        self.sentences, self.identities, self.snr_db = sentences, identities, snr_db
        self.held_out_voices, self.validation_voices = held_out_voices, validation_voices
        self.data_seed, self.build_workers = corpus_seed, build_workers

    def check(self) -> None:
        """Refuse, before anything is built, what certainly fails later."""
        require_word_list()
        check_buildable(self._speech_spec, sum(self._texts.sentences))
        if not (cache_path(FOLDER, scenes_key(self._scenes_spec())) / "corpus.json").exists():
            check_space(cache_path(FOLDER), sum(self.scenes.values()), self.size)

    @cached_property
    def _texts(self) -> TextSpec:
        counts = (self.sentences, max(4, self.sentences // 4), max(4, self.sentences // 2))
        return TextSpec(1, counts, (3, 6), 0.01, 2, None, self.data_seed)

    def _speech_spec(self) -> dict[str, Any]:
        voices = {"held_out_voices": self.held_out_voices, "validation_voices": self.validation_voices}
        packages = versions("espeakng-loader", "wordfreq", "misaki")
        return {"kind": "SyntheticSpeakers", **asdict(self._texts), **voices, "packages": packages}

    def _scenes_spec(self) -> dict[str, Any]:
        return {
            "speech": speech.corpus_key(self._speech_spec()), "size": self.size, "scenes": self.scenes,
            "identities": self.identities, "snr_db": list(self.snr_db), "seed": self.data_seed,
        }  # fmt: skip

    def _lines(self) -> list[Line]:
        """Every sentence, dry, in a random voice of its part."""
        voices = split_voices(self.held_out_voices, self.validation_voices, self.data_seed)
        sentences = write_texts(self._texts).sentences
        lines = []
        for number, part in enumerate(PARTS):
            rng = np.random.default_rng([self.data_seed, 73, number])
            for sentence in sentences[part]:
                voice = voices[part][int(rng.integers(len(voices[part])))]
                lines.append(Line(**{**draw_line(part, sentence, voice, rng).__dict__, "dry": True}))
        return lines

    def _script(self, said: Corpus) -> Iterator[SceneScript]:
        seconds = said.lengths / self.sample_rate
        for number, part in enumerate(PARTS):
            voices: dict[str, list[int]] = {}
            for clip in said.clips(part).tolist():
                voices.setdefault(said.voices[clip], []).append(clip)
            rng = np.random.default_rng([self.data_seed, 74, number])
            yield from write_scenes(part, self.scenes[part], voices, seconds, self._faces(part), rng)

    def _faces(self, part: str) -> range:
        """Numbers of identities; no number is in two parts."""
        counts = {"train": self.identities, "val": max(2, self.identities // 4), "test": max(2, self.identities // 2)}
        start = sum(counts[other] for other in PARTS[: PARTS.index(part)])
        return range(start, start + counts[part])

    def collect(self) -> dict[str, TrackSource]:
        self.check()
        said = self.speech = speech.open_or_build(self._speech_spec(), self._lines, self.build_workers)
        self.corpus: SpeakerCorpus = speaker_corpus.open_or_build(
            self._scenes_spec(), lambda: list(self._script(said)), said.folder, self.size, self.data_seed, self.snr_db,
            self.build_workers,
        )  # fmt: skip
        return {part: PartTracks(self.corpus, part) for part in PARTS}

    def origin(self) -> str:
        return self.corpus.key

    def counts(self, part: str) -> dict[str, Any]:
        """Also the share of each label in frames, and the tracks of each situation."""
        numbers = self.corpus.tracks(part).tolist()
        labels = np.concatenate([self.corpus.labels(number) for number in numbers])
        shares = np.bincount(labels, minlength=len(LABELS)) / len(labels)
        situations = Counter(self.corpus.columns["situation"][number] for number in numbers)
        return {
            **super().counts(part),
            "scenes": self.scenes[part],
            **{name: round(float(share), 4) for name, share in zip(LABELS, shares, strict=True)},
            **{f"tracks {name}": count for name, count in sorted(situations.items())},
        }

    def members(self, part: str) -> dict[str, set[Any]]:
        numbers = self.corpus.tracks(part).tolist()
        columns = self.corpus.columns
        return {
            "faces": {columns["identity"][number] for number in numbers},
            "voices": {voice for number in numbers for voice in columns["voices"][number]},
            "sentences": {text for number in numbers for text in columns["sentences"][number]},
        }
