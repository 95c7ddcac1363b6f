"""Files that are never half written, what proves them later, and where generated data is kept between runs.

Everything under the cache folder can be deleted at any time: it is keyed by the hash of what made it.
"""

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError

__all__ = [
    "cache_folder",
    "cache_path",
    "content_hash",
    "free_bytes",
    "gzip_bytes",
    "replacing",
    "sha256",
    "write_atomic",
    "write_json",
]


def cache_path(*parts: str) -> Path:
    """``$LIGHTSLEEPER_CACHE`` or ``~/.cache/lightsleeper``, with ``parts`` below it; nothing is created."""
    root = Path(os.environ.get("LIGHTSLEEPER_CACHE") or Path.home() / ".cache" / "lightsleeper")
    return root.expanduser().joinpath(*parts)


def cache_folder(*parts: str) -> Path:
    """`cache_path`, created when missing."""
    folder = cache_path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the cache folder {folder}: {error.strerror}. Set LIGHTSLEEPER_CACHE to a writable folder."
        ) from None
    return folder


def free_bytes(folder: Path) -> int:
    """Space left on the disk of ``folder``, which need not exist."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def content_hash(content: Any, length: int = 16) -> str:
    """Hex digest of a JSON-able value; equal content gives an equal hash on every machine."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def sha256(path: Path) -> str:
    """Hex digest of the content of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gguf_parts(source: str | Path) -> tuple[str, str | None]:
    """Folder and name of the GGUF file that ``source`` is, or that a folder without a config holds as its only one.

    Anything else comes back as it is, with None.
    """
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return str(path.parent), path.name
    if path.is_dir() and not (path / "config.json").is_file():
        found = list(path.glob("*.gguf"))
        if len(found) == 1:
            return str(path), found[0].name
    return str(source), None


def gzip_bytes(path: Path) -> int:
    """Size after gzip level 6 without name and time: what an update over the air would carry."""
    return len(gzip.compress(Path(path).read_bytes(), compresslevel=6, mtime=0))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an exception.

    A killed process leaves at most a hidden ``.tmp`` file; a reader never sees half a file. Raises UserError where it
    cannot be written, also for an OSError of the block.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    try:
        yield temporary
        _move(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` at once. Raises OSError: of a full disk, a run says more than a path."""
    temporary = _beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Replace ``path`` by ``content`` at once. Raises UserError where it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def _beside(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}")
    os.close(handle)
    return Path(name)


def _move(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as written:
        os.fsync(written.fileno())  # a rename may reach the disk before the content it names
    temporary.chmod(0o644)  # mkstemp makes private files; caches and deliverables are for sharing
    os.replace(temporary, path)
