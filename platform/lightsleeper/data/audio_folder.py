"""Own recordings: any folder of audio with a manifest, split by speaker, as training and test data."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch, collate_evaluation, collate_training
from lightsleeper.data.cache import content_hash
from lightsleeper.data.clip_cache import ClipCache, OnBadFile, cached_clips
from lightsleeper.data.lexicon import split_words
from lightsleeper.data.manifest import Recording, check_names, read_manifest
from lightsleeper.data.mixing import MixedLoader
from lightsleeper.data.pairs import Pairs, build_closed_set, build_p1
from lightsleeper.data.rows import EvaluationRows, NegativeTexts, Pronouncer, TrainingRows, confusions
from lightsleeper.data.seeds import run_seed
from lightsleeper.errors import UserError

CLOSED_SET_TEXTS = 50  # up to here every clip meets every text; above, episodes as in LibriPhrase

Paths = str | Path | list[str]


class AudioFolder(L.LightningDataModule):
    """Recordings listed in ``manifest.csv`` (``path,text[,speaker]``), any format and sample rate.

    With up to 50 texts the test pairs every clip with every text ("closed set": the nearest other text is the hard
    negative); with more, the episodes of LibriPhrase (P1). Speakers of the test never occur in training.

    Example::

        AudioFolder("recordings", test_speakers=["anna", "ben"], negatives_per_clip=4)

    Raises:
        UserError: a folder, manifest, column, speaker, text or recording is missing or unusable.
    """

    sample_rate = SAMPLE_RATE

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
        max_test_clips: int | None = None,
        trim: bool = True,
        on_bad_file: OnBadFile = "refuse",
        pronunciations: dict[str, str] | None = None,
        mix: L.LightningDataModule | None = None,
        mix_share: float = 0.5,
        batch_size: int = 64,
        negatives_per_clip: int | None = None,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """
        Args:
            path: folder with the manifest, or several folders to pool.
            manifest: name of the manifest in each folder.
            texts: only recordings of these texts; None: all.
            vocabulary: further texts that test clips are compared with.
            held_out_texts: texts kept out of training and validation, and tested on their own as ``unseen_words``.
            test_speakers: speakers of the test; None: drawn, ``test_fraction`` of them.
            test_fraction: share of speakers (of clips, where no speakers are known) in the test.
            val_fraction: share of the remaining speakers (or clips) used for validation.
            evaluate_only: everything is test data.
            max_test_clips: at most so many clips of each test set, drawn by the seed; None: all.
            trim: cut silence before and after the speech.
            on_bad_file: refuse to start, or skip files that cannot be read and name them once.
            pronunciations: own pronunciations in ARPAbet, such as ``{"siri": "S IH1 R IY0"}``.
            mix: data module whose training clips fill part of each batch, so that fine-tuning forgets nothing.
            mix_share: their share of a batch.
            batch_size: clips in a training batch, pairs in a test batch.
            negatives_per_clip: hard texts drawn for each training clip; None: as many as ``mix`` draws, 0 without it.
            num_workers: processes that prepare batches.
            seed: of splits, order and draws; None: the run's seed.
        """
        super().__init__()
        for name, share in (("test_fraction", test_fraction), ("val_fraction", val_fraction), ("mix_share", mix_share)):
            if not 0 < share < 1:
                raise UserError(f"{name} is {share}; it must lie between 0 and 1.")
        theirs: int | None = getattr(mix, "negatives_per_clip", None)
        if negatives_per_clip is None:
            negatives_per_clip = theirs or 0
        if batch_size < 1 or negatives_per_clip < 0:
            raise UserError(
                f"batch_size {batch_size} and negatives_per_clip {negatives_per_clip} must not be negative."
            )
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
        self.num_workers = num_workers
        self._seed = seed
        self.test_names = ["", "unseen_words"] if self.held_out_texts else [""]
        self._ready = False

    def prepare_data(self) -> None:
        """Read and check every recording once, before anything is trained."""
        if self.mix is not None:
            self.mix.prepare_data()
        self._clips(self._recordings(), progress=True)

    def setup(self, stage: str = "fit") -> None:
        if self.mix is not None:
            self.mix.setup(stage)
        if self._ready:
            return
        self.seed = run_seed(self._seed)
        self.recordings = self._recordings()
        self.clips = self._clips(self.recordings)
        self.lexicon = Pronouncer(self.pronunciations)
        self.split = self._split(np.flatnonzero(self.clips.ok))
        typed = list(dict.fromkeys([*(r.text for r in self.recordings), *self.vocabulary]))
        if len(typed) < 2:
            raise UserError(
                f"the recordings hold one text only, '{typed[0]}': add texts, or name others in vocabulary."
            )
        self.tests = {name: self._pairs(clips, typed) for name, clips in self.split.items() if name.startswith("test")}
        if not self.evaluate_only:
            self.validation = self._pairs(self.split["val"], [t for t in typed if t not in self.held_out_texts])
        self._report_skipped()
        self._ready = True

    def _recordings(self) -> list[Recording]:
        found = [recording for folder in self.folders for recording in read_manifest(folder, self.manifest)]
        spoken = sorted({recording.text for recording in found})
        check_names(self.only_texts or (), spoken, "texts")
        check_names(self.held_out_texts, self.only_texts or spoken, "held_out_texts")
        check_names(self.test_speakers or (), sorted({r.speaker for r in found if r.speaker}), "test_speakers")
        return [r for r in found if self.only_texts is None or r.text in self.only_texts]

    def _clips(self, recordings: Sequence[Recording], progress: bool = False) -> ClipCache:
        return cached_clips([r.file for r in recordings], self.trim, self.on_bad_file, progress)

    def _split(self, usable: np.ndarray) -> dict[str, list[int]]:
        """Clip numbers by name: train, val, test, and ``test unseen_words``."""
        rng = np.random.default_rng([self.seed, 4])
        if self.evaluate_only:
            return {"test": self._limited([int(clip) for clip in usable], rng)}
        speaker = {int(clip): self.recordings[clip].speaker or f"clip {clip}" for clip in usable}
        names = list(dict.fromkeys(speaker.values()))
        test = set(self.test_speakers or _draw(names, self.test_fraction, rng))
        rest = [name for name in names if name not in test]
        val = set(_draw(rest, self.val_fraction, rng)) if len(rest) > 1 else set()
        parts: dict[str, list[int]] = {"train": [], "val": [], "test": [], "test unseen_words": []}
        for clip, name in speaker.items():
            unseen = self.recordings[clip].text in self.held_out_texts
            if name in test:
                parts["test unseen_words" if unseen else "test"].append(clip)
            elif not unseen:
                parts["val" if name in val else "train"].append(clip)
        if not val and len(parts["train"]) > 1:  # one training speaker: validate on some of its clips
            parts["val"] = _draw(parts["train"], self.val_fraction, rng)
            parts["train"] = [clip for clip in parts["train"] if clip not in set(parts["val"])]
        if not self.held_out_texts:
            del parts["test unseen_words"]
        for name, clips in parts.items():
            if not clips:
                raise UserError(
                    f"no recordings left for '{name}' ({len(names)} speakers, {len(speaker)} clips): change "
                    "test_speakers, the fractions or held_out_texts, or set evaluate_only."
                )
            if name.startswith("test"):
                parts[name] = self._limited(clips, rng)
        return parts

    def _limited(self, clips: list[int], rng: np.random.Generator) -> list[int]:
        if self.max_test_clips is None or len(clips) <= self.max_test_clips:
            return clips
        return sorted(clips[i] for i in rng.permutation(len(clips))[: self.max_test_clips])

    def _pairs(self, clips: Sequence[int], typed: Sequence[str]) -> Pairs:
        said = [self.recordings[clip].text for clip in clips]
        if len(typed) <= CLOSED_SET_TEXTS:
            pairs = build_closed_set(said, typed, self.lexicon)
        else:
            speakers = [self.recordings[clip].speaker for clip in clips]
            pairs = build_p1(said, speakers, self.seed, lexicon=self.lexicon, fewer_positives=True)
        pairs.clip = np.asarray(clips, np.int64)[pairs.clip]
        return pairs

    def _report_skipped(self) -> None:
        if self.clips.bad:
            named = [f"{self.recordings[clip].file}: {reason}" for clip, reason in self.clips.bad.items()]
            warnings.warn(f"{len(named)} audio files skipped: " + "; ".join(named), stacklevel=2)

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
        return [self._evaluation(pairs) for pairs in self.tests.values()]

    def _evaluation(self, pairs: Pairs) -> DataLoader:
        rows = EvaluationRows(self.clips, pairs, self.lexicon)
        return self._loader(rows, collate_evaluation, batch_size=self.batch_size)

    def _loader(self, rows: Dataset, collate: Any, **how: Any) -> DataLoader:
        keep = self.num_workers > 0
        return DataLoader(rows, collate_fn=collate, num_workers=self.num_workers, persistent_workers=keep, **how)

    def summary(self) -> dict[str, Any]:
        """What the record keeps of the data: hash, protocol, counts, and what test and training share."""
        self.setup("test" if self.evaluate_only else "fit")
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
        if self.mix is not None and hasattr(self.mix, "summary"):
            result["mix"] = self.mix.summary()
        return result

    def _overlap(self) -> dict[str, int | None]:
        """Speakers, texts and clips of the main test that also occur in training; None: speakers unknown."""

        def values(part: str, what: str) -> set:
            return {getattr(self.recordings[clip], what) for clip in self.split.get(part, ())}

        known = all(recording.speaker for recording in self.recordings)
        return {
            "speakers": len(values("test", "speaker") & values("train", "speaker")) if known else None,
            "texts": len(values("test", "text") & values("train", "text")),
            "unseen_words_texts": len(values("test unseen_words", "text") & values("train", "text")),
            "clips": len(values("test", "file") & values("train", "file")),
        }


def _plain_texts(texts: list[str] | None) -> list[str] | None:
    return None if texts is None else [" ".join(split_words(text)) for text in texts]


def _draw(names: Sequence[Any], share: float, rng: np.random.Generator) -> list[Any]:
    """A random ``share`` of ``names``, at least one, never all of several."""
    count = min(max(1, round(share * len(names))), max(1, len(names) - 1))
    return [names[i] for i in sorted(rng.permutation(len(names))[:count])]
