"""Text that every machine has: the sources of Python's standard library, split by file."""

import hashlib
import sysconfig
from pathlib import Path

# Tests and tables: long, and unlike the rest.
LEFT_OUT = (
    "__pycache__",
    "ensurepip",
    "encodings",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
)
HELD_OUT_SHARE = 0.05


def standard_library() -> tuple[list[Path], list[Path]]:
    """Source files to train on and held-out ones, each sorted by path; the split is a hash of the path."""
    root = Path(sysconfig.get_path("stdlib"))
    train: list[Path] = []
    held_out: list[Path] = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if set(inside.parts).isdisjoint(LEFT_OUT):
            drawn = int.from_bytes(hashlib.sha256(inside.as_posix().encode()).digest()[:4], "big") / 2**32
            (held_out if drawn < HELD_OUT_SHARE else train).append(path)
    return train, held_out


def read_text(paths: list[Path]) -> str:
    """The files one after another; what is no UTF-8 becomes the replacement character."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
