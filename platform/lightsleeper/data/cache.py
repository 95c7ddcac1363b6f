"""Where generated data is kept between runs, and how a file gets there whole.

Everything under the cache folder can be deleted at any time: it is keyed by the hash of what made it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError


def cache_path(*parts: str) -> Path:
    """``$LIGHTSLEEPER_CACHE`` or ``~/.cache/lightsleeper``, with ``parts`` below it; nothing is created."""
    root = Path(os.environ.get("LIGHTSLEEPER_CACHE") or Path.home() / ".cache" / "lightsleeper")
    return root.expanduser().joinpath(*parts)


def free_bytes(folder: Path) -> int:
    """Space left on the disk of ``folder``, which need not exist."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


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


def content_hash(content: Any, length: int = 16) -> str:
    """Hex digest of a JSON-able value; equal content gives an equal hash on every machine."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    """Hex sha256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an exception.

    A killed process leaves at most a ``.tmp`` file; a reader never sees half a file.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}")
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 would lock others out of a shared cache
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
