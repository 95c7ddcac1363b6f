"""Single words as clips of equal length, with their number: synthesised voices, or a folder of recordings.

Nobody who is heard in training is heard in validation or test: voices of the synthesiser are split (phrase_script),
and so are the speakers of recordings (speaker_split). Where a manifest names no speakers, clips are split, and
``summary`` shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch
from lightsleeper.data.clip_cache import OnBadFile, cached_clips, check_files
from lightsleeper.data.corpus import check_buildable, open_or_build, versions
from lightsleeper.data.corpus_build import Line
from lightsleeper.data.lexicon import split_words
from lightsleeper.data.manifest import Recording, check_names, read_manifest
from lightsleeper.data.module import DataModule
from lightsleeper.data.phrase_script import draw_line, split_voices
from lightsleeper.data.ranges import at_least, between
from lightsleeper.data.rows import ClipSource
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.speaker_split import TEST, set_name, split_by_speaker
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("SpokenWords",)

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "forward", "backward")
PARTS = ("train", "val", TEST)


@dataclass(frozen=True)
class WordSpec:
    """All that a synthesised corpus of words depends on; its fields are hashed."""

    words: tuple[str, ...]
    train_clips: int
    validation_clips: int
    test_clips: int
    held_out_voices: int
    validation_voices: int
    seed: int

    @property
    def clips(self) -> dict[str, int]:
        """Clips of each word by part."""
        return dict(zip(PARTS, (self.train_clips, self.validation_clips, self.test_clips), strict=True))


def write_words(spec: WordSpec) -> list[Line]:
    """Every clip of the corpus, part after part: each word equally often, in random voices of the part."""
    voices = split_voices(spec.held_out_voices, spec.validation_voices, spec.seed)
    lines = []
    for number, (part, count) in enumerate(spec.clips.items()):
        rng = np.random.default_rng([spec.seed, 20, number])
        for word in spec.words:
            chosen = rng.integers(len(voices[part]), size=count)
            lines += [draw_line(part, word, voices[part][i], rng) for i in chosen]
    return lines


def fit(audio: NDArray[np.float32], samples: int, place: float) -> NDArray[np.float32]:
    """A clip (n,) as (samples,): silence around a shorter one, a stretch of a longer; ``place`` 0 is left, 1 right."""
    before = int(place * abs(samples - len(audio)))
    if len(audio) >= samples:
        return audio[before : before + samples]
    return np.pad(audio, (before, samples - len(audio) - before))


class SpokenWords(DataModule):
    """Clips of single words, all of one length, and which word it is.

    Without ``path`` the words are synthesised, once, and kept in the cache folder (needs the ``demo`` extra); with it,
    they are recordings listed in its manifest (``path,text[,speaker]``), of which those of other words are left out.
    Batches: ``audio`` (B, samples), 16 kHz in [-1, 1]; ``word`` (B,), its number in ``words``; ``clip`` (B,); and
    ``speaker`` (B,), the same number for clips of one voice (a clip whose speaker is not named has its own).

    Args:
        words: what is told apart, in the order of the model's classes. None: a dozen commands.
        path: folder of recordings with a manifest; None: synthesised voices.
        manifest: name of the manifest in ``path``.
        clip_seconds: length of every clip. Training clips lie anywhere in it, the others in the middle; longer
            ones are cut.
        train_clips: synthesised training clips of each word.
        validation_clips: the same for validation.
        test_clips: the same for the test.
        held_out_voices: voices (of 89) that only the test has.
        validation_voices: voices that only the validation set has.
        corpus_seed: of voices and everything in the synthesised audio.
        test_speakers: speakers of the recordings that are tested; None: drawn, ``test_fraction`` of them.
        test_fraction: share of speakers (of clips, where none are named) in the test.
        val_fraction: share of the remaining ones used for validation.
        trim: cut silence before and after the speech of a recording.
        on_bad_file: refuse to start, or skip recordings that cannot be read.
        batch_size: training clips in a batch.
        eval_batch_size: clips in a batch of validation and test.
        workers: processes that prepare training batches; 0: the training process itself.
        build_workers: processes that build the corpus. None: one per core.
        split_seed: of the split of recordings. Runs of several seeds share it.
        seed: of training order and placement. None: the run's seed.

    Example::

        data = SpokenWords(train_clips=50)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))

    Raises:
        UserError: an argument is out of range; espeak-ng, a folder, word, speaker or recording is missing.
    """

    def __init__(
        self,
        words: list[str] | None = None,
        path: str | Path | None = None,
        manifest: str = "manifest.csv",
        clip_seconds: float = 1.0,
        train_clips: int = 400,
        validation_clips: int = 50,
        test_clips: int = 100,
        held_out_voices: int = 18,
        validation_voices: int = 9,
        corpus_seed: int = 0,
        test_speakers: list[str] | None = None,
        test_fraction: float = 0.34,
        val_fraction: float = 0.2,
        trim: bool = True,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 64,
        eval_batch_size: int = 256,
        workers: int = 0,
        build_workers: int | None = None,
        split_seed: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, train_clips=train_clips, validation_clips=validation_clips, test_clips=test_clips)
        at_least(1, held_out_voices=held_out_voices, validation_voices=validation_voices)
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size, build_workers=build_workers)
        at_least(0, workers=workers)
        if held_out_voices + validation_voices >= len(VARIANTS):
            raise UserError(
                f"held_out_voices {held_out_voices} and validation_voices {validation_voices} leave none of the "
                f"{len(VARIANTS)} voices for training."
            )
        if not 0.1 <= clip_seconds <= 60:
            raise UserError(f"clip_seconds must lie between 0.1 and 60, got {clip_seconds}.")
        between(0, 1, test_fraction=test_fraction, val_fraction=val_fraction)
        self.words = [" ".join(split_words(word)) for word in (WORDS if words is None else words)]
        if len(self.words) < 2 or len(set(self.words)) < len(self.words):
            raise UserError(f"words must be two or more different ones, got {self.words}.")
        self.spec = WordSpec(
            tuple(self.words), train_clips, validation_clips, test_clips, held_out_voices, validation_voices,
            corpus_seed,
        )  # fmt: skip
        self.path = None if path is None else Path(path).expanduser()
        self.manifest, self.trim, self.on_bad_file = manifest, trim, on_bad_file
        self.test_speakers, self.test_fraction, self.val_fraction = test_speakers, test_fraction, val_fraction
        self.samples = round(clip_seconds * SAMPLE_RATE)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.workers, self.build_workers, self.split_seed, self._seed = workers, build_workers, split_seed, seed

    def check(self) -> None:
        """Refuse, before anything is read or built, what certainly fails later."""
        if self.path is None:
            check_buildable(self._corpus_spec, len(self.words) * sum(self.spec.clips.values()))
        else:
            check_files([recording.file for recording in self._recordings()], self.on_bad_file)

    def load(self) -> None:
        """Build the corpus, or decode the recordings, where the cache does not hold them."""
        self.seed = run_seed(self._seed)
        self._synthesised() if self.path is None else self._recorded(self._recordings())
        self.test_names = [set_name(part) for part in self.parts if part.startswith(TEST)]

    def _synthesised(self) -> None:
        corpus = open_or_build(self._corpus_spec(), lambda: write_words(self.spec), self.build_workers)
        self.source: ClipSource = corpus
        self.said: Sequence[str] = corpus.texts
        self.speakers: Sequence[str] = corpus.voices
        self.parts: Mapping[str, Sequence[int]] = {part: corpus.clips(part).tolist() for part in PARTS}
        self.hash = corpus.key

    def _corpus_spec(self) -> dict[str, Any]:
        (engine,) = versions("espeakng-loader").values()
        return {"kind": "SpokenWords", **asdict(self.spec), "engine": engine}

    def _recordings(self) -> list[Recording]:
        assert self.path is not None
        found = read_manifest(self.path, self.manifest)
        check_names(self.words, sorted({recording.text for recording in found}), "words")
        check_names(self.test_speakers or (), sorted({r.speaker for r in found if r.speaker}), "test_speakers")
        return [recording for recording in found if recording.text in self.words]

    def _recorded(self, recordings: Sequence[Recording]) -> None:
        clips = cached_clips([r.file for r in recordings], self.trim, self.on_bad_file)
        usable = [int(clip) for clip in np.flatnonzero(clips.ok)]
        rng = np.random.default_rng([self.split_seed, 4])
        self.source = clips
        self.said = [recording.text for recording in recordings]
        self.speakers = [recording.speaker for recording in recordings]
        self.parts = split_by_speaker(
            recordings, usable, rng, self.test_speakers, self.test_fraction, self.val_fraction
        )
        self.hash = content_hash([clips.hash, self.words, self.samples, self.parts])

    def train_dataloader(self) -> DataLoader:
        epoch = SharedEpoch()
        rows = self._rows("train", (self.seed, epoch))
        sampler = BucketBatchSampler(np.zeros(len(rows)), self.batch_size, self.seed, epoch=epoch)  # all equally long
        return DataLoader(rows, batch_sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self._rows("val"), self.eval_batch_size)

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(self._rows(part), self.eval_batch_size) for part in self.parts if part.startswith(TEST)]

    def _rows(self, part: str, shifted: tuple[int, SharedEpoch] | None = None) -> "_Rows":
        clips = self.parts[part]
        word = {word: number for number, word in enumerate(self.words)}
        voice = {name: number for number, name in enumerate(sorted(set(self.speakers) - {""}))}
        words = [word[self.said[clip]] for clip in clips]
        speakers = [voice.get(self.speakers[clip], len(voice) + clip) for clip in clips]
        return _Rows(self.source, clips, words, speakers, self.samples, shifted)

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, and which voices the parts share."""
        self.setup()
        voices = {part: {self.speakers[clip] for clip in clips} for part, clips in self.parts.items()}
        return {
            "hash": self.hash,
            "protocol": "words",
            "counts": {part: {"clips": len(clips), "voices": len(voices[part] - {""})}
                       for part, clips in self.parts.items()},
            "overlap": {f"{a}/{b}": {"voices": len(voices[a] & voices[b])} for a, b in combinations(self.parts, 2)},
        }  # fmt: skip


class _Rows(Dataset):
    """Clips of equal length. Where training clips lie is a pure function of (seed, epoch, index)."""

    def __init__(
        self,
        source: ClipSource,
        clips: Sequence[int],
        words: Sequence[int],
        speakers: Sequence[int],
        samples: int,
        shifted: tuple[int, SharedEpoch] | None,
    ) -> None:
        self.source, self.clips, self.words, self.speakers = source, clips, words, speakers
        self.samples, self.shifted = samples, shifted

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = 0.5
        if self.shifted is not None:
            seed, epoch = self.shifted
            place = float(np.random.default_rng([seed, epoch.get(), index]).random())
        audio = fit(self.source.audio(self.clips[index]), self.samples, place)
        return {"audio": torch.from_numpy(np.ascontiguousarray(audio)), "word": self.words[index],
                "clip": self.clips[index], "speaker": self.speakers[index]}  # fmt: skip
