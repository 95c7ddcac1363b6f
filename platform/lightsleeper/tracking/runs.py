"""Run folders: where they lie, how one is found, compared and removed. Reads records only; no torch."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.run_folder import ARCHITECTURE, EXPORT, RECORD
from lightsleeper.tracking.record import LATER, Record, read, status_of

LAST = "last"
LOCK = ".lock"


@dataclass(frozen=True)
class Found:
    """One run on disk."""

    folder: Path
    record: Record

    @property
    def status(self) -> str:
        return status_of(self.record)


def runs_root(given: str | Path | None = None) -> Path:
    """`--runs-dir`, else LIGHTSLEEPER_RUNS, else ./runs."""
    return Path(given or os.environ.get("LIGHTSLEEPER_RUNS") or "runs")


def new_folder(root: Path, recipe: str) -> Path:
    """A run folder nobody else has: the exclusive mkdir decides, whatever the clock and the dice say.

    Ids are unique over all recipes, so that an id alone finds its run, and sort by age: within one second the dice fall
    above those that have fallen.
    """
    while True:
        second = f"{datetime.now():%Y%m%d-%H%M%S}"
        lowest = max((int(path.name[-4:], 16) + 1 for path in root.glob(f"*/{second}-{'[0-9a-f]' * 4}")), default=0)
        if lowest > 0xFFFF:  # some 16 runs in this second
            time.sleep(0.05)
            continue
        folder = root / recipe / f"{second}-{lowest + secrets.randbelow(0x10000 - lowest):04x}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def scan(root: Path) -> tuple[list[Found], list[str]]:
    """All runs under ``root``, oldest first, and one line for each record that cannot be read."""
    runs: list[Found] = []
    unreadable: list[str] = []
    for path in sorted(root.glob(f"*/*/{RECORD}"), key=lambda path: path.parent.name):
        try:
            runs.append(Found(path.parent, read(path)))
        except UserError as error:
            unreadable.append(str(error))
    return runs, unreadable


def find(name: str | Path, root: Path, recipe: str | None = None) -> Path:
    """The folder of a run given as path, id, start of an id, or `last`.

    ``recipe`` narrows `last` to the runs of one recipe. Steps that a run required are not the last run: their parent
    is. Raises UserError when none or several fit.
    """
    text = str(name)
    path = Path(text)
    if path.name == RECORD and path.is_file():
        return path.parent
    if (path / RECORD).is_file():
        return path
    if text == LAST:
        return _last(root, recipe)
    folders = sorted(path.parent for path in root.glob(f"*/*/{RECORD}"))
    matches = [folder for folder in folders if folder.name == text]
    matches = matches or [folder for folder in folders if text and folder.name.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(folder.name for folder in matches[:4])
        raise UserError(f"'{text}' is the start of {len(matches)} runs: {names}{', ...' if len(matches) > 4 else ''}.")
    if not folders:
        raise UserError(f"no run '{text}': there are no runs under {root}.")
    hint = did_you_mean(text, [folder.name for folder in folders]) if len(folders) <= 8 else ""
    raise UserError(f"no run '{text}' under {root}.{hint or ' `lightning runs` lists them.'}")


def _last(root: Path, recipe: str | None) -> Path:
    for found in reversed(scan(root)[0]):
        if found.record.parent is None and recipe in (None, found.record.recipe):
            return found.folder
    raise UserError(f"no last run: there are no runs{f' of {recipe}' if recipe else ''} under {root}.")


def finished_with(
    root: Path, recipe: str, config_hash: str, stages: Set[str], formats: Set[str] = frozenset()
) -> Path | None:
    """Folder of the newest finished run of ``recipe`` with this hash that went through ``stages`` and has ``formats``.

    Neither one that its sweep has stopped early counts, nor one whose deliverable was deleted: the model where it was
    finalized, a file of one of ``formats``.
    """
    for path in sorted((root / recipe).glob(f"*/{RECORD}"), reverse=True):
        try:
            record = read(path)
        except UserError:
            continue
        if record.status != "finished" or record.hash != config_hash or record.sweep.get("pruned"):
            continue
        done = {name for name, state in record.stages.items() if state in {"finished", *LATER}}
        kept = "finalize" not in stages or (path.parent / EXPORT / ARCHITECTURE).is_file()
        written = {artifact["format"] for artifact in record.artifacts}
        lost = {a["format"] for a in record.artifacts if not (path.parent / a["path"]).is_file()}
        if stages <= done and kept and formats <= written - lost:
            return path.parent
    return None


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold an exclusive lock file; yields False when somebody else holds it (never with ``wait``).

    The kernel drops the lock with the process, so `kill -9` leaves none behind. It holds between processes only.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none; runs are not protected from each other there
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            # Not flock: data workers inherit that one, and outlive a killed run by some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError:  # a network disk without locks
            pass
        yield True


def differences(first: Record, second: Record) -> dict[str, tuple[Any, Any]]:
    """Dotted settings in which two runs differ, in the order of the first; a missing one is None."""
    names = list(dict.fromkeys([*first.knobs, *second.knobs]))
    pairs = {name: (first.knobs.get(name), second.knobs.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def parse_age(text: str) -> timedelta:
    """`30d`, `12h` or `45m` as a duration; raises UserError."""
    match = re.fullmatch(r"(\d+)([dhm])", text)
    if not match:
        raise UserError(f"age '{text}': expected a number and d, h or m, such as 30d.")
    return timedelta(**{{"d": "days", "h": "hours", "m": "minutes"}[match[2]]: int(match[1])})


def removable(
    runs: list[Found], statuses: set[str], older_than: timedelta | None = None, now: datetime | None = None
) -> list[Found]:
    """Runs with one of ``statuses`` (any, when empty) and older than ``older_than``; never a running one."""
    limit = None if older_than is None else (now or datetime.now(UTC)) - older_than
    return [
        found
        for found in runs
        if found.status != "running"
        and (not statuses or found.status in statuses)
        and (limit is None or datetime.fromisoformat(found.record.started) < limit)
    ]


def remove(found: Found) -> bool:
    """Delete a run folder; False when it runs (again) or was taken by a resume in the meantime."""
    with locked(found.folder / LOCK) as free:
        if not free or status_of(read(found.folder)) == "running":
            return False
        shutil.rmtree(found.folder)
    return True


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
