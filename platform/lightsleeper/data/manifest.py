"""Reading ``manifest.csv``: one recording a line, ``path,text[,speaker]``; other columns are ignored."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightsleeper.data.lexicon import split_words
from lightsleeper.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Recording:
    file: Path
    text: str
    """Words separated by blanks, lower case."""
    speaker: str
    """"" where the manifest does not say."""


def read_manifest(folder: Path, name: str = "manifest.csv") -> list[Recording]:
    """The recordings of ``folder``.

    Raises:
        UserError: folder, file or a column is missing; a line has no path, or a text that cannot be pronounced.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"folder of recordings {folder} does not exist.")
    path = folder / name
    if not path.is_file():
        near = did_you_mean(name, (p.name for p in folder.glob("*.csv")))
        raise UserError(f"{folder} has no {name} (columns path,text[,speaker]).{near}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8: {error}.") from None
    for column in ("path", "text"):
        if column not in columns:
            raise UserError(f"{path} has no column '{column}'; its header is '{','.join(columns)}'.")
    if not rows:
        raise UserError(f"{path} lists no recordings.")
    recordings = []
    for line, row in enumerate(rows, start=2):
        where, text = (row["path"] or "").strip(), row["text"] or ""
        if not where:
            raise UserError(f"{path}, line {line}: no path.")
        try:
            words = " ".join(split_words(text))
        except UserError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        recordings.append(Recording(folder / where, words, (row.get("speaker") or "").strip()))
    return recordings


def check_names(given: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuse a speaker or text that the recordings do not have."""
    for name in given:
        if name not in known:
            raise UserError(f"{what}: '{name}' does not occur in the recordings.{did_you_mean(name, known)}")
