"""LibriPhrase: phrases of 1 to 4 words cut from LibriSpeech, the public benchmark of keyword spotting by typed text."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.alignments import SUBSETS, WordTable, check_subset, read_alignments, recording, subset_folder
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch, collate_evaluation, collate_training
from lightsleeper.data.clip_cache import OnBadFile
from lightsleeper.data.libriphrase_build import (
    Phrases,
    build_rows,
    find_anchors,
    find_phrases,
    most_talkative,
    write_csv,
)
from lightsleeper.data.libriphrase_rows import Protocol, csv_files, read_test
from lightsleeper.data.module import DataModule
from lightsleeper.data.pairs import build_p1
from lightsleeper.data.rows import EvaluationRows, NegativeTexts, Pronouncer, TrainingRows, confusions
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.segments import Segments, refuse
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import cache_folder, content_hash

CATALOG = ("LibriPhrase",)

LONGEST_PHRASE = 4
VAL_TEXTS = 200  # per word count
_VERSION = 1


class LibriPhrase(DataModule):
    """LibriSpeech plus word alignments as phrases; trained and tested on subsets with different speakers.

    The test is built as published, or read from the official CSV files (``test_csv``). Training phrases are a random
    sample of each length: the published training recipe was never released.

    Args:
        librispeech: folder that holds the subsets, ``train-clean-100`` and so on.
        alignments: folder of the word alignments (CSV or .alignment.txt); None: inside ``librispeech``.
        train_subsets: subsets to train on; None: train-clean-100 and train-clean-360, as published.
        test_subset: subset that the test is built from.
        test_csv: folder of the official test CSV files; None: build the test.
        test_audio: folder that the clips named in ``test_csv`` lie in; None: ``test_csv`` itself.
        protocol: P1 (episodes; CMCD, DSP) or P2 (PhonMatchNet). Their numbers do not compare.
        phrases_per_length: training phrases of each number of words, at most.
        max_words: longest phrase, 1 to 4.
        max_speakers: speakers of the built test, those with most phrases.
        pairs: positives, easy and hard negatives per anchor of the built test.
        val_speakers: share of training speakers kept for validation.
        on_bad_file: refuse to start, or skip recordings that cannot be opened and name them once.
        batch_size: clips in a training batch, pairs in a test batch.
        negatives_per_clip: hard texts drawn for each training clip.
        workers: processes that prepare batches.
        split_seed: of the built test, validation and the sample that is trained on. Runs of several seeds share it.
        seed: of the order of training and its draws; None: the run's seed.

    Example::

        LibriPhrase("corpora/LibriSpeech", alignments="corpora/alignments", negatives_per_clip=4)

    Raises:
        UserError: a folder, subset, alignment, CSV column or recording is missing or unusable.
    """

    def __init__(
        self,
        librispeech: str | Path,
        alignments: str | Path | None = None,
        train_subsets: list[str] | None = None,
        test_subset: str = "train-other-500",
        test_csv: str | Path | None = None,
        test_audio: str | Path | None = None,
        protocol: Protocol = "P1",
        phrases_per_length: int = 200_000,
        max_words: int = LONGEST_PHRASE,
        max_speakers: int = 1166,
        pairs: int = 3,
        val_speakers: float = 0.05,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 64,
        negatives_per_clip: int = 0,
        workers: int = 2,
        split_seed: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.train_subsets = train_subsets or ["train-clean-100", "train-clean-360"]
        for subset in (*self.train_subsets, test_subset):
            if subset not in SUBSETS:
                raise UserError(f"'{subset}' is no subset of LibriSpeech.{did_you_mean(subset, SUBSETS)}")
        if test_subset in self.train_subsets and test_csv is None:
            raise UserError(f"{test_subset} is both trained and tested on: its speakers would be known.")
        if not 1 <= max_words <= LONGEST_PHRASE or not 0 < val_speakers < 1:
            raise UserError(f"max_words is {max_words} (1 to 4), val_speakers {val_speakers} (between 0 and 1).")
        self.librispeech = Path(librispeech).expanduser()
        self.alignments = None if alignments is None else Path(alignments).expanduser()
        self.test_subset = test_subset
        self.test_csv = None if test_csv is None else Path(test_csv).expanduser()
        self.test_audio = self.test_csv if test_audio is None else Path(test_audio).expanduser()
        self.protocol: Protocol = protocol
        self.phrases_per_length = phrases_per_length
        self.max_words = max_words
        self.max_speakers = max_speakers
        self.pairs_per_anchor = pairs
        self.val_speakers = val_speakers
        self.on_bad_file = on_bad_file
        self.batch_size = batch_size
        self.negatives_per_clip = negatives_per_clip
        self.workers = workers
        self.split_seed = split_seed
        self._seed = seed
        self.test_names = [""] if protocol == "P1" else ["", "lpe"]

    def check(self) -> None:
        """Refuse folders, alignments and CSV files that are not there; reads none of them."""
        self._check_librispeech()
        for subset in (*self.train_subsets, *([self.test_subset] if self.test_csv is None else [])):
            check_subset(self.librispeech, subset, self.alignments)
        if self.test_csv is not None:
            csv_files(self.test_csv)
            if self.test_audio is not None and not self.test_audio.is_dir():
                raise UserError(f"the folder of test clips {self.test_audio} does not exist.")

    def _check_librispeech(self) -> None:
        if not self.librispeech.is_dir():
            raise UserError(f"the LibriSpeech folder {self.librispeech} does not exist.")

    def load(self) -> None:
        """Read the alignments, build the test where none is given, and open every recording that is used."""
        self.seed = run_seed(self._seed)
        self._check_librispeech()
        self.lexicon = Pronouncer()
        self.skipped: dict[str, str] = {}
        folder = self.test_csv if self.test_csv is not None else self._built_test()
        self.test_rows = read_test(folder, self.test_audio, self.librispeech)
        self.tests = self.test_rows.pairs(self.protocol, self._checked(self.test_rows.segments))
        self._set_up_training()
        if self.skipped:
            named = "; ".join(f"{file}: {reason}" for file, reason in self.skipped.items())
            warnings.warn(f"{len(self.skipped)} audio files skipped: {named}", stacklevel=2)

    def _table(self, subset: str) -> WordTable:
        subset_folder(self.librispeech, subset)
        return read_alignments(self.librispeech, subset, self.alignments)

    def _built_test(self) -> Path:
        """Folder of the CSV files of the built test, made now where the cache does not hold it."""
        table = self._table(self.test_subset)
        shape = [self.test_subset, self.max_words, self.max_speakers, self.pairs_per_anchor, self.split_seed]
        key = content_hash([_VERSION, shape, table.vocabulary, table.utterances, float(table.end.sum())])
        folder = cache_folder("libriphrase", key)
        missing = [
            w for w in range(1, self.max_words + 1) if not (folder / f"libriphrase_diffspk_all_{w}word.csv").exists()
        ]
        if missing:
            groups = [find_phrases(table, words) for words in range(1, self.max_words + 1)]
            speakers = most_talkative(groups, self.max_speakers)
            with Console(stderr=True).status(
                "building the LibriPhrase test"
            ) as status:  # minutes for all of LibriSpeech
                for group in groups:
                    anchors = find_anchors(group, speakers, self.pairs_per_anchor)
                    status.update(f"building the LibriPhrase test: {len(anchors)} anchors of {group.words} words")
                    rows = build_rows(group, anchors, self.split_seed, self.pairs_per_anchor)
                    write_csv(folder, group, rows, self.test_subset)
        return folder

    def _checked(self, segments: Segments) -> list[int]:
        """Clips to leave out."""
        bad = segments.bad()
        if bad and self.on_bad_file == "refuse":
            refuse(segments, bad)
        self.skipped |= {str(segments.files[clip]): reason for clip, reason in bad.items()}
        return list(bad)

    def _set_up_training(self) -> None:
        rng = np.random.default_rng([self.split_seed, 6])
        files: list[Path] = []
        spans: list[tuple[float, float]] = []
        texts: list[str] = []
        speakers: list[str] = []
        is_val: list[bool] = []
        found_at: dict[str, Path] = {}
        for subset in self.train_subsets:
            table = self._table(subset)
            names = list(dict.fromkeys(table.speakers()))
            val = {names[i] for i in rng.permutation(len(names))[: max(1, round(self.val_speakers * len(names)))]}
            for words in range(1, self.max_words + 1):
                found = find_phrases(table, words)
                in_val = np.array([found.speakers[s] in val for s in found.speaker], np.bool_)
                wanted = -(-self.phrases_per_length // len(self.train_subsets))
                for group, held in ((_sample(found, np.flatnonzero(~in_val), wanted, rng), False),
                                    (_sample(found, _shared_texts(found, in_val), None, rng), True)):  # fmt: skip
                    said = group.texts()
                    for phrase in range(len(group)):
                        utterance, start, end = group.clip(phrase)
                        if utterance not in found_at:
                            found_at[utterance] = recording(self.librispeech, subset, utterance)
                        files.append(found_at[utterance])
                        spans.append((start, end))
                        texts.append(said[group.text[phrase]])
                        speakers.append(group.speakers[group.speaker[phrase]])
                        is_val.append(held)
        self.segments = Segments(files, [s for s, _ in spans], [e for _, e in spans])
        bad = set(self._checked(self.segments))
        kept = [i for i in range(len(files)) if i not in bad]
        self.train_clips = [i for i in kept if not is_val[i]]
        if not self.train_clips:
            raise UserError(f"no phrase of 0.5 to 2 s found in {', '.join(self.train_subsets)}.")
        self.texts, self.speakers = texts, speakers
        val_clips = [i for i in kept if is_val[i]]
        self.validation = build_p1(
            [texts[i] for i in val_clips], [speakers[i] for i in val_clips], self.split_seed, distance="libriphrase",
            lexicon=self.lexicon, fewer_positives=True,
        )  # fmt: skip
        self.validation.clip = np.asarray(val_clips, np.int64)[self.validation.clip]

    def train_dataloader(self) -> DataLoader:
        texts, epoch = [self.texts[clip] for clip in self.train_clips], SharedEpoch()
        negatives = None
        if self.negatives_per_clip:
            negatives = NegativeTexts(texts, self.lexicon, confusions(texts))
        rows = TrainingRows(
            self.segments, self.train_clips, texts, self.lexicon, negatives, self.negatives_per_clip, self.seed, epoch
        )
        sampler = BucketBatchSampler(rows.lengths, self.batch_size, self.seed, epoch=epoch)
        return self._loader(rows, collate_training, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        rows = EvaluationRows(self.segments, self.validation, self.lexicon)
        return self._loader(rows, collate_evaluation, batch_size=self.batch_size)

    def test_dataloader(self) -> list[DataLoader]:
        sets = [EvaluationRows(self.test_rows.segments, pairs, self.lexicon) for pairs in self.tests.values()]
        return [self._loader(rows, collate_evaluation, batch_size=self.batch_size) for rows in sets]

    def _loader(self, rows: Dataset, collate: Any, **how: Any) -> DataLoader:
        keep = self.workers > 0
        return DataLoader(rows, collate_fn=collate, num_workers=self.workers, persistent_workers=keep, **how)

    def summary(self) -> dict[str, Any]:
        """What the record keeps of the data: hash, protocol, counts, and what test and training share."""
        self.setup()
        trained = {self.speakers[clip] for clip in self.train_clips}
        tested = {row[side] for row in self.test_rows.rows for side in ("anchor_spk", "comparison_spk")}
        train_texts = {self.texts[clip] for clip in self.train_clips}
        typed = {row["anchor_text"] for row in self.test_rows.rows}
        files = {self.segments.files[clip] for clip in self.train_clips}
        hashes = [pairs.content_hash() for pairs in (*self.tests.values(), self.validation)]
        return {
            "hash": content_hash([hashes, self.train_clips, self.texts]),
            "protocol": self.protocol,
            "test": "official CSV files" if self.test_csv is not None else f"built from {self.test_subset}",
            "counts": {
                "train": len(self.train_clips),
                "val": self.validation.counts(),
                **{f"test {name}".strip(): pairs.counts() for name, pairs in self.tests.items()},
                "skipped_files": len(self.skipped),
            },
            "overlap": {
                "speakers": len(trained & tested),
                "texts": len(train_texts & typed),
                "files": len(files.intersection(self.test_rows.segments.files)),
            },
        }


def _sample(phrases: Phrases, chosen: np.ndarray, count: int | None, rng: np.random.Generator) -> Phrases:
    """``count`` of the chosen phrases at random (None: all), in the order of the recordings."""
    if count is not None and len(chosen) > count:
        chosen = np.sort(rng.permutation(chosen)[:count])
    return phrases.select(chosen)


def _shared_texts(phrases: Phrases, among: np.ndarray) -> np.ndarray:
    """Phrases for validation: one per speaker of the texts that most of the ``among`` speakers say, up to VAL_TEXTS."""
    positions = np.flatnonzero(among)
    _, first = np.unique(
        phrases.text[positions] * len(phrases.speakers) + phrases.speaker[positions], return_index=True
    )
    once = positions[np.sort(first)]
    voices = np.bincount(phrases.text[once], minlength=1)
    shared = np.flatnonzero(voices >= 2)
    best = shared[np.argsort(-voices[shared], kind="stable")][:VAL_TEXTS]
    return once[np.isin(phrases.text[once], best)]
