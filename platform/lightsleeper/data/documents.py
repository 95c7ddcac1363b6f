"""Text documents from files: which, in what order, and which part each belongs to, all by content alone.

The default corpus is the Python standard library's own sources: every machine has them, and they are long enough to
learn from (9 MB in Python 3.11). They differ between versions of Python, so `Documents.hash` is part of a run's record.
"""

import hashlib
import platform
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lightsleeper.errors import UserError

PARTS = ("train", "val", "test")
# Tests repeat the code that they test; encodings and topics are generated tables and help texts.
EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings", "pydoc_data"}
FEW = 20
"""Below so many documents there is no fair split by document: they are cut into sections first."""
SECTIONS = 100
"""Sections that few documents are cut into, all together."""
SECTION_BYTES = 64
"""Shorter ones would repeat, and equal documents are kept once."""


@dataclass(frozen=True)
class Document:
    name: str
    content: bytes
    """UTF-8."""

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Documents:
    """Different documents in the order of their digests: shuffled, and the same on every machine."""

    all: tuple[Document, ...]
    duplicates: int = 0
    not_text: int = 0
    """Files that are no UTF-8 text, or empty."""
    sections: bool = False
    """Whether documents were too few, and are sections of files."""

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256("".join(document.digest for document in self.all).encode()).hexdigest()

    def split(self, val_fraction: float, test_fraction: float) -> dict[str, tuple[Document, ...]]:
        """Documents by part; at least one in each. Raises UserError where they are too few."""
        count = len(self.all)
        sizes = {"test": max(round(count * test_fraction), 1), "val": max(round(count * val_fraction), 1)}
        if count - sum(sizes.values()) < 1:
            raise UserError(f"{count} documents are too few for training, validation and test.")
        end = sizes["test"] + sizes["val"]
        return {"train": self.all[end:], "val": self.all[sizes["test"] : end], "test": self.all[: sizes["test"]]}


def standard_library() -> list[Path]:
    """Source files of the running Python's standard library, without tests and generated tables, sorted.

    Raises UserError for a Python that does not carry them.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        file
        for file in folder.rglob("*.py")
        if not EXCLUDED & set(file.relative_to(folder).parts)
        and not file.name.startswith("_sysconfigdata")  # holds the paths of this machine
    )
    if len(files) < FEW:
        raise UserError(f"Python {platform.python_version()} has no sources in {folder}: name a folder of text.")
    return files


def list_files(paths: Sequence[str | Path], pattern: str = "**/*") -> list[Path]:
    """Files of folders (those that fit ``pattern``), globs and files, sorted. Raises UserError where one has none."""
    found: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            files = [file for file in path.glob(pattern) if file.is_file() and not _hidden(file.relative_to(path))]
            if not files:
                raise UserError(f"folder {given} has no file that fits '{pattern}'.")
        elif path.is_file():
            files = [path]
        else:
            anchor = Path(path.anchor or ".")
            files = [file for file in anchor.glob(str(path.relative_to(path.anchor))) if file.is_file()]
            if not files:
                raise UserError(f"{given} does not exist: expected a folder, a file or a glob of text.")
        found += files
    return sorted(dict.fromkeys(found))


def read_files(files: Iterable[Path]) -> Documents:
    """The text of ``files``. Raises UserError for a file that cannot be read and where none is text."""
    contents: dict[str, bytes] = {}
    for file in files:
        try:
            contents[file.as_posix()] = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    return collect(contents)


def collect(contents: Mapping[str, bytes]) -> Documents:
    """Documents by name, each content once. Raises UserError where none is text."""
    texts = [Document(name, content) for name, content in contents.items() if _is_text(content)]
    if not texts:
        raise UserError(f"none of {len(contents)} documents is UTF-8 text.")
    unique = {document.digest: document for document in reversed(texts)}  # the first name of equal ones stays
    chosen, duplicates = list(unique.values()), len(texts) - len(unique)
    if sections := len(chosen) < FEW:
        step = max(sum(len(document.content) for document in chosen) // SECTIONS, SECTION_BYTES)
        unique = {section.digest: section for document in chosen for section in _sections(document, step)}
        chosen = list(unique.values())
    chosen.sort(key=lambda document: document.digest)
    return Documents(tuple(chosen), duplicates, len(contents) - len(texts), sections)


def _sections(document: Document, step: int) -> Iterable[Document]:
    """Pieces of about ``step`` bytes, cut at line ends where there are any, never inside a character."""
    content, start, number = document.content, 0, 0
    while start < len(content):
        end = min(start + step, len(content))
        line = content.rfind(b"\n", start, end)
        if end < len(content) and line > start:
            end = line + 1
        while end < len(content) and content[end] & 0xC0 == 0x80:
            end += 1
        yield Document(f"{document.name}[{number}]", content[start:end])
        start, number = end, number + 1


def _is_text(content: bytes) -> bool:
    if not content or b"\0" in content:
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
