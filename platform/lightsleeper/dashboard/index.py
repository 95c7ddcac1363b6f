"""All run records below a folder as one Arrow table; only records that changed since the last call are read again.

The table is kept in `.index.arrow` in the runs folder, a row a record file, keyed by path, inode, time and size, with a
digest behind it. It is replaced whole; a damaged one, or one of another version, is built anew, and where it cannot be
written it is not kept.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightsleeper.dashboard.rows import TABLE, Unreadable, read
from lightsleeper.run_folder import RECORD

CACHE = ".index.arrow"
DIGEST = hashlib.sha256().digest_size  # bytes of it after the Arrow file
DEPTH = 8  # folders below the runs folder: the platform itself writes two


def load(root: Path, keep: bool = True) -> pa.Table:
    """The index of ``root``, brought up to date; schema `rows.TABLE`. ``keep``: on disk, for the next call."""
    found = list(files(root))
    keys = pa.array([f"{_shown(path)}\0{stamp}" for path, stamp in found], pa.string())
    old = _cached(root / CACHE) if keep else None
    if old is None:
        old = TABLE.empty_table()
    places = pc.index_in(keys, value_set=old["key"])
    known = old.take(places.drop_null())
    fresh = np.flatnonzero(pc.is_null(places).to_numpy(zero_copy_only=False))
    if not len(fresh) and len(known) == len(old):
        return old
    rows = [_row(root, found[index][0], keys[index].as_py()) for index in fresh]
    table = pa.concat_tables([known, pa.Table.from_pylist(rows, TABLE)]).combine_chunks()
    if keep:
        _write(table, root / CACHE)
    return table


def _row(root: Path, path: str, key: str) -> dict[str, Any]:
    try:
        return {"key": key, "path": _shown(path), **read(root / path)}
    except Unreadable as reason:
        return {"key": key, "path": _shown(path), "reason": str(reason)}


def _shown(path: str) -> str:
    """As text: a file's name may be any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def files(root: Path) -> Iterator[tuple[str, str]]:
    """(path below ``root``, stamp) of every record; links to folders are followed, once each and last."""
    seen: set[tuple[int, int]] = set()
    queue: list[tuple[str, int]] = [("", 0)]
    links: list[tuple[str, int]] = []
    while queue or links:
        inner, depth = queue.pop() if queue else links.pop()
        folder = os.path.join(root, inner)
        with suppress(OSError):
            stat = os.stat(os.path.join(folder, RECORD))
            yield os.path.join(inner, RECORD), f"{stat.st_ino} {stat.st_mtime_ns} {stat.st_size}"
            continue  # no run lies inside another one
        with suppress(OSError):
            own = os.stat(folder)
            if (own.st_dev, own.st_ino) in seen or depth == DEPTH:
                continue
            seen.add((own.st_dev, own.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and _leads_on(entry):
                        (links if entry.is_symlink() else queue).append((os.path.join(inner, entry.name), depth + 1))


def _leads_on(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _cached(path: Path) -> pa.Table | None:
    """The table on disk; None where there is none, or it is damaged or of another version."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
            return None  # Arrow itself would not notice a bit that flipped in a number
        table = pa.ipc.open_file(pa.BufferReader(content[:-DIGEST])).read_all()
        table.validate(full=True)
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(TABLE, check_metadata=True) else None


def _write(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLE, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two dashboards may start at once
    with suppress(OSError):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.write(hashlib.sha256(content).digest())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
