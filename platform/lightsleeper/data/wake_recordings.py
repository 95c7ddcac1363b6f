"""A user's own recordings of a wake word, and of speech without it: read, and divided into folds."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightsleeper.data.clip_cache import ClipCache, OnBadFile, cached_clips, check_files
from lightsleeper.data.manifest import check_names, read_manifest
from lightsleeper.data.noise import audio_files
from lightsleeper.errors import UserError

Parts = dict[str, list[int]]


@dataclass(frozen=True)
class Take:
    """One recording."""

    file: Path
    positive: bool
    speaker: str
    """"" where the manifest does not say."""


@dataclass(frozen=True)
class Recordings:
    """All takes, read and divided."""

    takes: list[Take]
    clips: ClipCache
    """One clip for each take."""
    positives: Parts
    negatives: Parts
    split_by: str
    """speakers, clips or none."""

    @property
    def skipped(self) -> list[str]:
        return [str(self.takes[clip].file) for clip in self.clips.bad]


def find_takes(phrase: str, folder: Path, manifest: str, negatives: Sequence[Path]) -> list[Take]:
    """Rows of the manifest whose text is the phrase, its other rows, and all audio below the other folders.

    Raises UserError where a folder, the manifest or the phrase is missing, or a recording is on both sides.
    """
    rows = read_manifest(folder, manifest)
    check_names([phrase], sorted({row.text for row in rows}), "phrase")
    takes = [Take(row.file, row.text == phrase, row.speaker) for row in rows]
    return takes + other_takes(phrase, negatives, takes)


def other_takes(phrase: str, folders: Sequence[Path], takes: Sequence[Take]) -> list[Take]:
    """All audio below folders that do not hold the phrase. Raises UserError where one is among ``takes`` of it."""
    said = {take.file.resolve() for take in takes if take.positive}
    others: list[Take] = []
    for folder in folders:
        found = audio_files(folder)
        if both := [file for file in found if file.resolve() in said]:
            raise UserError(f"negatives: {both[0]} is a recording of '{phrase}' too.")
        others += [Take(file, False, "") for file in found]
    return others


def check_takes(takes: Sequence[Take], on_bad_file: OnBadFile) -> None:
    check_files([take.file for take in takes], on_bad_file)


def read_takes(takes: Sequence[Take], on_bad_file: OnBadFile) -> ClipCache:
    """All recordings, untrimmed: a detector meets them as they are."""
    return cached_clips([take.file for take in takes], trim=False, on_bad_file=on_bad_file)


def tested_takes(takes: Sequence[Take], usable: Sequence[int]) -> tuple[Parts, Parts, str]:
    """As `split_takes`, where all recordings are the test."""
    sides = ([clip for clip in usable if takes[clip].positive == side] for side in (True, False))
    positives, negatives = ({**_nothing(), "test": clips} for clips in sides)
    return positives, negatives, "none"


def split_takes(
    takes: Sequence[Take], usable: Sequence[int], folds: int, fold: int, val_fraction: float, seed: int
) -> tuple[Parts, Parts, str]:
    """Clip numbers by part (train, val, test) of positives and of negatives, and what they are divided by.

    Fold ``fold`` of ``folds`` is the test; together the folds test every recording once. Where every recording of the
    phrase names its speaker, speakers are divided, else clips.
    """
    positive = [clip for clip in usable if takes[clip].positive]
    by = "speakers" if all(takes[clip].speaker for clip in positive) else "clips"
    units: dict[int, Hashable] = {clip: takes[clip].speaker if by == "speakers" else clip for clip in usable}
    units = {clip: unit or clip for clip, unit in units.items()}
    positives = fold_parts(positive, [units[clip] for clip in positive], folds, fold, val_fraction, seed)
    part_of = {units[clip]: part for part, clips in positives.items() for clip in clips}
    rest = [clip for clip in usable if not takes[clip].positive]
    negatives = _nothing()
    for clip in rest:
        if units[clip] in part_of:  # somebody who says the phrase says other things in the same part
            negatives[part_of[units[clip]]].append(clip)
    rest = [clip for clip in rest if units[clip] not in part_of]
    if rest:
        others = fold_parts(rest, [units[clip] for clip in rest], folds, fold, val_fraction, seed)
        negatives = {part: sorted(negatives[part] + others[part]) for part in negatives}
    return positives, negatives, by


def fold_parts(
    clips: Sequence[int], units: Sequence[Hashable], folds: int, fold: int, val_fraction: float, seed: int
) -> Parts:
    """Clips by part so that no unit is in two. Raises UserError where there are fewer units than folds."""
    names = list(dict.fromkeys(units))
    if len(names) < max(folds, 3):
        raise UserError(f"{len(names)} speakers or clips cannot be divided into {folds} folds and a validation set.")
    order = np.random.default_rng([seed, 60]).permutation(len(names))
    test = {names[i] for i in order[fold::folds]}
    rest = [names[i] for i in order if names[i] not in test]
    rest = [rest[i] for i in np.random.default_rng([seed, 61, fold]).permutation(len(rest))]
    val = set(rest[: min(max(1, round(val_fraction * len(rest))), len(rest) - 1)])
    parts: Parts = {"train": [], "val": [], "test": []}
    for clip, unit in zip(clips, units, strict=True):
        parts["test" if unit in test else "val" if unit in val else "train"].append(clip)
    return parts


def _nothing() -> Parts:
    return {"train": [], "val": [], "test": []}
