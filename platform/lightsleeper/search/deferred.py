"""The stage that trials, and the steps they require, leave for the end: beside other trials it would time those too."""

from collections.abc import Iterable
from pathlib import Path

from lightsleeper.errors import UserError
from lightsleeper.tracking.record import Record, read, status_of

STAGE = "benchmark"


def waiting(folders: Iterable[Path], runs_dir: Path) -> list[Path]:
    """Of these runs and all they required, those in ``runs_dir`` that have left the stage; steps before their runs."""
    found: dict[Path, Record | None] = {}
    for folder in folders:
        _collect(folder, runs_dir, found)
    return [folder for folder, record in found.items() if record is not None and _left(record)]


def _collect(folder: Path, runs_dir: Path, found: dict[Path, Record | None]) -> None:
    if folder in found:
        return
    try:
        record = read(folder)
    except UserError:  # of a run on another machine, or removed since
        found[folder] = None
        return
    for step in record.lineage.values():
        _collect(runs_dir / str(step.get("recipe")) / str(step.get("run_id")), runs_dir, found)
    found[folder] = record


def _left(record: Record) -> bool:
    """Also of a run that was killed, or failed, over the stage itself."""
    return record.stages.get(STAGE) not in (None, "finished") and status_of(record) != "running"
