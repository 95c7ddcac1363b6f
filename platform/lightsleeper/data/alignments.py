"""Word alignments of LibriSpeech as they lie on people's disks, in two layouts, as one table of words.

Layout 1: one CSV per subset (``audio_filename,start,end,text``), as LibriPhrase uses. Layout 2: a
``SPEAKER-CHAPTER.alignment.txt`` beside the recordings, as in the alignments merged into the LibriSpeech folder. Both
come from the Montreal Forced Aligner and keep pauses as words without text.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import cache_folder, content_hash, replacing

SUBSETS = (
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
)
_NO_WORD = ("", "<unk>")
_LETTER = re.compile("[a-z]")
_VERSION = 1

Row = tuple[str, float, float, str]
"""Utterance id such as ``84-121123-0000``, start and end in seconds, word."""


@dataclass
class WordTable:
    """All aligned words of a subset in the order of the recordings; one entry per word in the arrays."""

    utterances: list[str]
    """Ids ``SPEAKER-CHAPTER-NUMBER``."""
    utterance: NDArray[np.int32]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    word: NDArray[np.int32]
    """Position in ``vocabulary``; -1 for a pause or a word that the aligner did not know."""
    vocabulary: list[str]

    def speakers(self) -> list[str]:
        """Speaker of each utterance."""
        return [name.split("-")[0] for name in self.utterances]


def subset_folder(librispeech: Path, subset: str) -> Path:
    """Where a subset's speakers lie; the archive's own top folder may be there or not.

    Raises:
        UserError: the subset's name is unknown, or no such folder exists.
    """
    if subset not in SUBSETS:
        raise UserError(f"'{subset}' is no subset of LibriSpeech.{did_you_mean(subset, SUBSETS)}")
    for place in (subset, f"LibriSpeech/{subset}", f"{subset}/{subset}", f"{subset}/LibriSpeech/{subset}"):
        folder = librispeech / place
        if folder.is_dir() and not (folder / subset).is_dir():
            return folder
    raise UserError(f"{librispeech} has no folder {subset}: unpack LibriSpeech's {subset}.tar.gz there.")


def recording(librispeech: Path, subset: str, utterance: str) -> Path:
    """The audio file of an utterance: FLAC as distributed, or WAV where that is what lies there."""
    speaker, chapter = utterance.split("-")[:2]
    path = _folder(librispeech, subset) / speaker / chapter / f"{utterance}.flac"
    wav = path.with_suffix(".wav")
    return wav if not path.exists() and wav.exists() else path


@cache
def _folder(librispeech: Path, subset: str) -> Path:
    return subset_folder(librispeech, subset)


def read_alignments(librispeech: Path, subset: str, alignments: Path | None = None) -> WordTable:
    """The aligned words of a subset; parsed once, then read from the cache.

    ``alignments`` holds the CSV files, or the ``.alignment.txt`` files in LibriSpeech's folders; None: they lie in the
    LibriSpeech folder itself.

    Raises:
        UserError: no alignments in either layout, or a line that is none.
    """
    sources, reader = _find(librispeech, subset, alignments)
    stamps = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in sources]
    path = cache_folder("alignments") / f"{content_hash([_VERSION, subset, stamps])}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            names, vocabulary = (str(stored[key]).split("\n") for key in ("utterances", "vocabulary"))
            utterance, start, end, word = (stored[key] for key in ("utterance", "start", "end", "word"))
            return WordTable(names, utterance, start, end, word, vocabulary)
    except (OSError, ValueError, KeyError):
        table = _collect(row for source in sources for row in reader(source))
    if not table.utterances:
        raise UserError(f"the alignments of {subset} hold no words: {sources[0]}")
    with replacing(path) as temporary:
        np.savez(
            temporary,
            utterances="\n".join(table.utterances),
            vocabulary="\n".join(table.vocabulary),
            utterance=table.utterance,
            start=table.start,
            end=table.end,
            word=table.word,
        )
    return table


def check_subset(librispeech: Path, subset: str, alignments: Path | None = None) -> None:
    """Raise UserError when the recordings or the alignments of a subset are not there; reads neither."""
    subset_folder(librispeech, subset)
    _find(librispeech, subset, alignments)


def _find(
    librispeech: Path, subset: str, alignments: Path | None
) -> tuple[list[Path], Callable[[Path], Iterator[Row]]]:
    """The files to read, and how."""
    root = alignments or librispeech
    if not root.exists():
        raise UserError(f"the folder of alignments {root} does not exist.")
    names = [published_csv(subset), f"{subset}.csv"]
    if root.is_file():
        return [root], _csv_rows
    for name in names:
        if (root / name).is_file():
            return [root / name], _csv_rows
    try:
        texts = sorted(subset_folder(root, subset).glob("*/*/*.alignment.txt"))
    except UserError:
        texts = []
    if texts:
        return texts, _text_rows
    raise UserError(
        f"no word alignments of {subset} in {root}: expected {names[0]} (or {names[1]}) with the columns "
        f"audio_filename,start,end,text, or {subset}/SPEAKER/CHAPTER/SPEAKER-CHAPTER.alignment.txt files."
    )


def published_csv(subset: str) -> str:
    """Name of a subset's file in LibriPhrase's release: train-other-500 is librispeech_other_train_500h_all_utt.csv."""
    part, kind, *hours = subset.split("-")
    return f"librispeech_{kind}_{part}{''.join(f'_{h}h' for h in hours)}_all_utt.csv"


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for column in ("audio_filename", "start", "end", "text"):
            if column not in (reader.fieldnames or ()):
                raise UserError(
                    f"{path} has no column '{column}'; its header is '{','.join(reader.fieldnames or ())}'."
                )
        for line, row in enumerate(reader, start=2):
            try:
                yield Path(row["audio_filename"]).stem, float(row["start"]), float(row["end"]), row["text"] or ""
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {line}: start and end are no numbers of seconds.") from None


def _text_rows(path: Path) -> Iterator[Row]:
    """Lines such as ``84-121123-0000 ",GO,,DO" "0.490,0.890,1.270,1.380"``: words and the time at which each ends."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            utterance, words, ends = line.split(" ")
            spoken, times = words.strip('"').split(","), [float(t) for t in ends.strip('"').split(",")]
            if len(spoken) != len(times):
                raise ValueError
        except ValueError:
            raise UserError(f'{path}, line {number}: expected ID "WORD,WORD,..." "END,END,...".') from None
        for word, start, end in zip(spoken, [0.0, *times], times, strict=False):
            yield utterance, start, end, word


def _collect(rows: Iterable[Row]) -> WordTable:
    utterances: dict[str, int] = {}
    vocabulary: dict[str, int] = {}
    columns: tuple[list, list, list, list] = ([], [], [], [])
    for name, start, end, text in rows:
        text = text.strip().lower()
        word = -1 if text in _NO_WORD or not _LETTER.search(text) else vocabulary.setdefault(text, len(vocabulary))
        for column, value in zip(
            columns, (utterances.setdefault(name, len(utterances)), start, end, word), strict=True
        ):
            column.append(value)
    utterance, start_s, end_s, words = columns
    # A CSV may interleave recordings; words of one must follow each other.
    order = np.argsort(np.array(utterance, np.int32), kind="stable")
    return WordTable(
        list(utterances),
        np.array(utterance, np.int32)[order],
        np.array(start_s, np.float64)[order],
        np.array(end_s, np.float64)[order],
        np.array(words, np.int32)[order],
        list(vocabulary),
    )
