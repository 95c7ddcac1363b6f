"""A generated corpus on disk: Arrow shards that worker processes make, read through memory maps.

A shard is written whole or not at all, so a build that was killed goes on where it stopped. ``corpus.json``, written
last, says that all are there. The shards are Arrow streams that ``datasets.Dataset.from_file`` opens too.

Workers import this module: it must not import torch.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from lightsleeper.errors import UserError
from lightsleeper.files import replacing


class Job(Protocol):
    """What one worker does at a time: a shard."""

    @property
    def file(self) -> str:
        """Its name."""

    @property
    def size(self) -> int:
        """Items in it."""


J = TypeVar("J", bound=Job)


def build_shards(
    folder: Path,
    about: Mapping[str, Any],
    jobs: Sequence[J],
    make: Callable[[Path, J], None],
    check_space: Callable[[Path, int], None],
    workers: int,
    progress: bool,
    title: str,
) -> None:
    """Make the shards that ``folder`` lacks, then its ``corpus.json`` with ``about``; the caller holds its lock.

    ``make`` writes one shard, in another process; ``check_space`` refuses a disk without room for so many items.

    Raises:
        UserError: the disk is full, or a worker died.
    """
    for stale in folder.glob(".*.tmp*"):  # of a killed build; the lock is ours
        stale.unlink(missing_ok=True)
    missing = [job for job in jobs if not (folder / job.file).exists()]
    wanted, items = sum(job.size for job in missing), sum(job.size for job in jobs)
    check_space(folder, wanted)
    with _Progress(title, items, items - wanted, progress) as bar:
        _run(folder, missing, make, min(workers, len(missing)), bar)
    digests = {job.file: _shard_digest(folder / job.file) for job in jobs}
    manifest = {
        "key": folder.name,
        **about,
        "sha256": hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
        "shards": [job.file for job in jobs],
    }
    with replacing(folder / "corpus.json") as temporary:  # its presence says: complete
        temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def write_shard(path: Path, schema: pa.Schema, rows: Mapping[str, Sequence[Any]], content: Sequence[bytes]) -> None:
    """Columns as one shard; ``content`` is what its digest is taken of."""
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    schema = schema.with_metadata({"sha256": digest})  # in the file, so that a resumed build need not read it all
    batch = pa.record_batch([pa.array(rows[name], schema.field(name).type) for name in schema.names], schema=schema)
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        writer.write_batch(batch)  # one batch a shard: reading is one lookup


def map_shard(path: Path) -> pa.Table:
    """A shard as a memory map. Raises OSError or ArrowInvalid."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


def views(column: pa.LargeBinaryArray, dtype: DTypeLike) -> list[NDArray[Any]]:
    """Each row of a binary column as numbers, views of the memory map."""
    _, offsets, data = column.buffers()
    numbers = np.frombuffer(data, dtype) if data is not None else np.zeros(0, dtype)
    edges = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1] // numbers.itemsize
    return [numbers[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _run(folder: Path, jobs: Sequence[J], make: Callable[[Path, J], None], workers: int, bar: "_Progress") -> None:
    if not jobs:
        return
    # Spawn, not fork: the parent has torch and its threads, and espeak-ng must never be loaded there.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting = {pool.submit(make, folder, job): job for job in jobs}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                job = waiting.pop(future)
                future.result()
                bar.advance(job.size)
    except BrokenProcessPool:
        raise UserError(
            "a worker process died while the corpus was built (out of memory, or killed). Finished parts are kept: "
            "run again to go on, with fewer `workers` if memory is short."
        ) from None
    except OSError as error:
        raise UserError(f"the corpus could not be written to {folder}: {error.strerror or error}.") from None
    finally:  # after an error or Ctrl-C: shards under way are finished and kept, the others are dropped
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()
    if parent is not None:  # a killed parent cannot tell its workers to stop

        def leave_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=leave_with_parent, daemon=True).start()


def _shard_digest(path: Path) -> str:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).schema.metadata[b"sha256"].decode()


class _Progress:
    """A bar on stderr, or nothing."""

    def __init__(self, title: str, total: int, done: int, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=False)
        self._task = self._bar.add_task(title, total=total, completed=done)

    def advance(self, items: int) -> None:
        self._bar.advance(self._task, items)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
