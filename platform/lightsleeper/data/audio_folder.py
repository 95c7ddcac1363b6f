"""Own recordings: any folder of audio with a manifest, split by speaker, as training and test data."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch, collate_evaluation, collate_training
from lightsleeper.data.clip_cache import ClipCache, OnBadFile, cached_clips, check_files
from lightsleeper.data.lexicon import split_words
from lightsleeper.data.manifest import Recording, check_names, read_manifest
from lightsleeper.data.mixing import MixedLoader
from lightsleeper.data.module import DataModule, asked
from lightsleeper.data.pairs import Pairs, build_closed_set, build_p1
from lightsleeper.data.ranges import at_least, between
from lightsleeper.data.rows import EvaluationRows, NegativeTexts, Pronouncer, TrainingRows, confusions
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.speaker_split import TEST, UNKNOWN_SPEAKERS, UNSEEN_WORDS, limited, set_name, split_by_speaker
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("AudioFolder",)

CLOSED_SET_TEXTS = 50  # up to here every clip meets every text; above, episodes as in LibriPhrase

Paths = str | Path | list[str]


class AudioFolder(DataModule):
    """Recordings listed in ``manifest.csv`` (``path,text[,speaker]``), any format and sample rate.

    With up to 50 texts the test pairs every clip with every text ("closed set": the nearest other text is the hard
    negative); with more, the episodes of LibriPhrase (P1). Speakers of the test never occur in training. Test sets, in
    this order: the main one; ``unseen_words`` where texts are held out; ``unknown_speakers`` where some recordings name
    their speaker and others do not; those of ``also_test``; those of ``mix``, as ``synthetic`` for ``SpokenPhrases``.

    Args:
        path: folder with the manifest, or several folders to pool.
        manifest: name of the manifest in each folder.
        texts: only recordings of these texts; None: all.
        vocabulary: further texts that test clips are compared with.
        held_out_texts: texts kept out of training and validation, and tested on their own as ``unseen_words``.
            ``mix`` may still hold their words.
        test_speakers: speakers of the test; None: drawn, ``test_fraction`` of them.
        test_fraction: share of speakers (of clips, where no speakers are known) in the test.
        val_fraction: share of the remaining speakers (or clips) used for validation.
        evaluate_only: everything is test data.
        also_test: further folders by the name of the test set that each becomes; never trained on. Its numbers are
            those of ``lightning evaluate --data FOLDER``: compared with its own texts and ``vocabulary``.
        max_test_clips: at most so many clips of each test set, drawn by ``split_seed``; None: all.
        trim: cut silence before and after the speech.
        on_bad_file: refuse to start, or skip files that cannot be read and name them once.
        pronunciations: own pronunciations in ARPAbet, such as ``{"siri": "S IH1 R IY0"}``.
        mix: data module whose training clips fill part of each batch, so that fine-tuning forgets nothing; its
            test sets show what was forgotten.
        mix_share: their share of a batch.
        batch_size: clips in a training batch, pairs in a test batch.
        negatives_per_clip: hard texts drawn for each training clip; None: as many as ``mix`` draws, 0 without it.
        workers: processes that prepare batches.
        split_seed: of what is tested: speakers, clips and pairs. Runs of several seeds share it.
        seed: of the order of training and its draws; None: the run's seed.

    Example::

        AudioFolder("recordings", test_speakers=["anna", "ben"], also_test={"street": "recorded_outside"})

    Raises:
        UserError: a folder, manifest, column, speaker, text or recording is missing or unusable.
    """

    def __init__(
        self,
        path: Paths,
        manifest: str = "manifest.csv",
        texts: list[str] | None = None,
        vocabulary: list[str] | None = None,
        held_out_texts: list[str] | None = None,
        test_speakers: list[str] | None = None,
        test_fraction: float = 0.2,
        val_fraction: float = 0.1,
        evaluate_only: bool = False,
        also_test: dict[str, str] | None = None,
        max_test_clips: int | None = None,
        trim: bool = True,
        on_bad_file: OnBadFile = "refuse",
        pronunciations: dict[str, str] | None = None,
        mix: L.LightningDataModule | None = None,
        mix_share: float = 0.5,
        batch_size: int = 64,
        negatives_per_clip: int | None = None,
        workers: int = 0,
        split_seed: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        between(0, 1, test_fraction=test_fraction, val_fraction=val_fraction, mix_share=mix_share)
        theirs: int | None = getattr(mix, "negatives_per_clip", None)
        if negatives_per_clip is None:
            negatives_per_clip = theirs or 0
        at_least(1, batch_size=batch_size)
        at_least(0, negatives_per_clip=negatives_per_clip, workers=workers)
        if evaluate_only and (held_out_texts or test_speakers or mix is not None):
            raise UserError("evaluate_only leaves nothing to train on: drop held_out_texts, test_speakers and mix.")
        if mix is not None and (batch_size < 2 or not hasattr(mix, "batch_size")):
            raise UserError(f"mix needs a batch_size of 2 or more (it is {batch_size}) and a data module that has one.")
        if theirs is not None and theirs != negatives_per_clip:
            raise UserError(f"negatives_per_clip is {negatives_per_clip}, that of mix {theirs}: they must be equal.")
        self.folders = [Path(p).expanduser() for p in (path if isinstance(path, list) else [path])]
        self.manifest = manifest
        self.only_texts = _plain_texts(texts)
        self.vocabulary = _plain_texts(vocabulary) or []
        self.held_out_texts = _plain_texts(held_out_texts) or []
        self.test_speakers = test_speakers
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self.evaluate_only = evaluate_only
        self.max_test_clips = max_test_clips
        self.trim = trim
        self.on_bad_file = on_bad_file
        self.pronunciations = pronunciations
        self.mix: Any = mix
        self.mix_share = mix_share
        self.batch_size = batch_size
        self.negatives_per_clip = negatives_per_clip
        self.workers = workers
        self.split_seed = split_seed
        self._seed = seed
        self.also_test = self._also_test(also_test or {})

    def _also_test(self, folders: Mapping[str, str]) -> dict[str, "AudioFolder"]:
        taken = ("test", "val", *map(set_name, (UNSEEN_WORDS, UNKNOWN_SPEAKERS)), "mix", "synthetic")
        for name in folders:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in taken or name.startswith(("mix_", "synthetic_")):
                raise UserError(
                    f"also_test: '{name}' cannot name a test set; take letters, digits and _, but none of "
                    f"{', '.join(taken)}."
                )
        return {
            name: AudioFolder(
                folder, self.manifest, vocabulary=self.vocabulary, evaluate_only=True,
                max_test_clips=self.max_test_clips, trim=self.trim, on_bad_file=self.on_bad_file,
                pronunciations=self.pronunciations, batch_size=self.batch_size, workers=self.workers,
                seed=self._seed,
            )
            for name, folder in folders.items()
        }  # fmt: skip

    def _others(self) -> Iterable[Any]:
        """The data modules inside this one."""
        return (*self.also_test.values(), *(() if self.mix is None else (self.mix,)))

    def check(self) -> None:
        """Refuse, without opening a recording, manifests and names that would be refused once all are decoded."""
        recordings = self._recordings()
        self._typed(recordings)
        check_files([recording.file for recording in recordings], self.on_bad_file)
        for other in self._others():
            asked(other, "check")()

    def prepare_data(self) -> None:
        """Read and check every recording once, before anything is trained."""
        for other in self._others():
            other.prepare_data()
        self._clips(self._recordings(), progress=True)

    def setup(self, stage: str | None = None) -> None:
        for other in self._others():
            other.setup(stage or "fit")
        super().setup(stage)

    def load(self) -> None:
        self.seed = run_seed(self._seed)
        self.recordings = self._recordings()
        self.clips = self._clips(self.recordings)
        self.lexicon = Pronouncer(self.pronunciations)
        self._refuse_trained()
        self.split = self._split([int(clip) for clip in np.flatnonzero(self.clips.ok)])
        typed = self._typed(self.recordings)
        self.tests = {name: self._pairs(clips, typed) for name, clips in self.split.items() if name.startswith(TEST)}
        if not self.evaluate_only:
            self.validation = self._pairs(self.split["val"], [t for t in typed if t not in self.held_out_texts])
        mixed = "synthetic" if isinstance(self.mix, SpokenPhrases) else "mix"
        theirs = [f"{mixed}_{name}" if name else mixed for name in getattr(self.mix, "test_names", ())]
        self.test_names = [*map(set_name, self.tests), *self.also_test, *theirs]
        self._warn()

    def _recordings(self) -> list[Recording]:
        found = [recording for folder in self.folders for recording in read_manifest(folder, self.manifest)]
        spoken = sorted({recording.text for recording in found})
        check_names(self.only_texts or (), spoken, "texts")
        check_names(self.held_out_texts, self.only_texts or spoken, "held_out_texts")
        check_names(self.test_speakers or (), sorted({r.speaker for r in found if r.speaker}), "test_speakers")
        return [r for r in found if self.only_texts is None or r.text in self.only_texts]

    def _typed(self, recordings: Sequence[Recording]) -> list[str]:
        """Every text that test clips are compared with."""
        typed = list(dict.fromkeys([*(recording.text for recording in recordings), *self.vocabulary]))
        if len(typed) < 2:
            raise UserError(
                f"the recordings hold one text only, '{typed[0]}': add texts, or name others in vocabulary."
            )
        return typed

    def _clips(self, recordings: Sequence[Recording], progress: bool = False) -> ClipCache:
        return cached_clips([r.file for r in recordings], self.trim, self.on_bad_file, progress)

    def _refuse_trained(self) -> None:
        """No recording of ``also_test`` may be trained on, under whatever name its folder was given."""
        own = {recording.file.resolve() for recording in self.recordings}
        for name, other in self.also_test.items():
            shared = [r.file for r in other.recordings if r.file.resolve() in own]
            if shared:
                raise UserError(
                    f"also_test: {len(shared)} of the {len(other.recordings)} recordings of '{name}' are in path too, "
                    f"such as {shared[0]}."
                )

    def _split(self, usable: list[int]) -> dict[str, list[int]]:
        """Clip numbers by part."""
        rng = np.random.default_rng([self.split_seed, 4])
        if self.evaluate_only:
            return {TEST: limited(usable, self.max_test_clips, rng)}
        parts = split_by_speaker(
            self.recordings, usable, rng, self.test_speakers, self.test_fraction, self.val_fraction, self.held_out_texts
        )
        tests = {part: limited(clips, self.max_test_clips, rng) for part, clips in parts.items() if part[:4] == TEST}
        return parts | tests

    def _pairs(self, clips: Sequence[int], typed: Sequence[str]) -> Pairs:
        said = [self.recordings[clip].text for clip in clips]
        speakers = [self.recordings[clip].speaker for clip in clips]
        if len(typed) <= CLOSED_SET_TEXTS:
            pairs = build_closed_set(said, typed, self.lexicon, speakers)
        else:
            pairs = build_p1(said, speakers, self.split_seed, lexicon=self.lexicon, fewer_positives=True)
        pairs.clip = np.asarray(clips, np.int64)[pairs.clip]
        return pairs

    def _warn(self) -> None:
        if self.clips.bad:
            named = [f"{self.recordings[clip].file}: {reason}" for clip, reason in self.clips.bad.items()]
            warnings.warn(f"{len(named)} audio files skipped: " + "; ".join(named), stacklevel=2)
        if unknown := self.split.get(UNKNOWN_SPEAKERS):
            warnings.warn(
                f"{len(unknown)} recordings name no speaker and could be of anybody: they are tested on their own as "
                f"'{set_name(UNKNOWN_SPEAKERS)}' and not trained on. To train on them, fill in the column speaker.",
                stacklevel=2,
            )
        elif not self.evaluate_only and not any(recording.speaker for recording in self.recordings):
            warnings.warn(
                "no recording names its speaker: test and training may hold the same voices. The column speaker of "
                "the manifest keeps them apart.",
                stacklevel=2,
            )

    def train_dataloader(self) -> DataLoader | MixedLoader:
        if self.evaluate_only:
            raise UserError("these recordings are for evaluation only: unset evaluate_only to train on some of them.")
        clips, epoch = self.split["train"], SharedEpoch()
        texts = [self.recordings[clip].text for clip in clips]
        negatives = None
        if self.negatives_per_clip:
            negatives = NegativeTexts(texts, self.lexicon, confusions(texts), never=self.held_out_texts)
        rows = TrainingRows(
            self.clips, clips, texts, self.lexicon, negatives, self.negatives_per_clip, self.seed, epoch
        )
        mixed = 0 if self.mix is None else min(self.batch_size - 1, max(1, round(self.batch_size * self.mix_share)))
        sampler = BucketBatchSampler(rows.lengths, self.batch_size - mixed, self.seed, epoch=epoch)
        own = self._loader(rows, collate_training, batch_sampler=sampler)
        if self.mix is None:
            return own
        self.mix.batch_size = mixed
        return MixedLoader(own, self.mix.train_dataloader(), offset=len(rows))

    def val_dataloader(self) -> DataLoader | list:
        return [] if self.evaluate_only else self._evaluation(self.validation)

    def test_dataloader(self) -> list[DataLoader]:
        own = [self._evaluation(pairs) for pairs in self.tests.values()]
        also = [loader for folder in self.also_test.values() for loader in folder.test_dataloader()]
        return [*own, *also, *(self.mix.test_dataloader() if hasattr(self.mix, "test_names") else ())]

    def _evaluation(self, pairs: Pairs) -> DataLoader:
        rows = EvaluationRows(self.clips, pairs, self.lexicon)
        return self._loader(rows, collate_evaluation, batch_size=self.batch_size)

    def _loader(self, rows: Dataset, collate: Any, **how: Any) -> DataLoader:
        keep = self.workers > 0
        return DataLoader(rows, collate_fn=collate, num_workers=self.workers, persistent_workers=keep, **how)

    def summary(self) -> dict[str, Any]:
        """What the record keeps of the data: hash, protocol, counts, and what test and training share."""
        self.setup()
        counts: dict[str, Any] = {name: len(clips) for name, clips in self.split.items()}
        counts |= {f"pairs {name}": pairs.counts() for name, pairs in self.tests.items()}
        counts["skipped_files"] = len(self.clips.bad)
        content = [self.clips.hash, [p.content_hash() for p in self.tests.values()], self.split]
        result = {
            "hash": content_hash(content),
            "protocol": next(iter(self.tests.values())).protocol,
            "counts": counts,
            "overlap": self._overlap(),
            "skipped": [str(self.recordings[clip].file) for clip in self.clips.bad],
        }
        if self.also_test:
            result["also_test"] = {name: other.summary() for name, other in self.also_test.items()}
        if mixed := asked(self.mix, "summary")():
            result["mix"] = mixed
        return result

    def _overlap(self) -> dict[str, Any]:
        """Speakers, texts and clips of the test sets that also occur in training; None: speakers unknown."""

        def shared(recordings: Sequence[Recording]) -> dict[str, int | None]:
            both = (recordings, [self.recordings[clip] for clip in self.split.get("train", ())])
            known = all(recording.speaker for side in both for recording in side)
            speakers, texts, files = (
                len(set.intersection(*({getattr(r, what) for r in side} for side in both)))
                for what in ("speaker", "text", "file")
            )
            return {"speakers": speakers if known else None, "texts": texts, "clips": files}

        def own(part: str) -> list[Recording]:
            return [self.recordings[clip] for clip in self.split.get(part, ())]

        main = shared(own(TEST)) | {"unseen_words_texts": shared(own(UNSEEN_WORDS))["texts"]}
        return main | {f"train/{name}": shared(other.recordings) for name, other in self.also_test.items()}


def _plain_texts(texts: list[str] | None) -> list[str] | None:
    return None if texts is None else [" ".join(split_words(text)) for text in texts]
