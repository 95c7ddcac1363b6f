"""`runs/.sweeps/<id>/`: what this machine knows of a sweep without asking a database."""

import json
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import write_atomic
from lightsleeper.search.sweep_file import SweepFile

FOLDER = ".sweeps"
FILE = "sweep.json"
LAST = "last"


@dataclass(frozen=True)
class Known:
    """A sweep that was started or joined here."""

    id: str
    file: str
    """Name of the copy of the sweep file, beside."""
    objectives: str | None
    storage: str | None
    """`--storage` as given, if it holds no password; None is the SQLite file beside."""
    foreign: bool
    """Whether the study is in a database of `--storage`."""
    started: str


def folder_of(runs_dir: Path, sweep: str) -> Path:
    return runs_dir / FOLDER / sweep


def new_id(file: SweepFile) -> str:
    return f"{file.name}-{datetime.now():%Y%m%d-%H%M}-{secrets.token_hex(2)}"


def check_id(sweep: str) -> str:
    """Fit for a folder, a W&B group and a key of the database; raises UserError."""
    if not re.fullmatch(r"\w[\w.-]{0,119}", sweep, re.ASCII):
        raise UserError(f"--id '{sweep}': expected at most 120 letters, digits, '-', '_' and '.'.")
    return sweep


def save(runs_dir: Path, known: Known, source: Path) -> Path:
    """Keep the sweep file, so that resuming needs neither it nor its options again; returns the folder."""
    folder = folder_of(runs_dir, known.id)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / known.file
    if source.resolve() != copy.resolve():
        write_atomic(copy, source.read_text(encoding="utf-8"))
    write_atomic(folder / FILE, json.dumps(asdict(known), indent=1))
    return folder


def find(runs_dir: Path, sweep: str) -> Known:
    """A sweep by id, its start, or `last`; raises UserError with the nearest."""
    known = {path.parent.name: path for path in sorted((runs_dir / FOLDER).glob(f"*/{FILE}"))}
    if not known:
        raise UserError(f"no sweep '{sweep}': none was started in {runs_dir}.")
    if sweep == LAST:
        return max((_read(path) for path in known.values()), key=lambda found: found.started)
    fits = [name for name in known if name == sweep] or [name for name in known if name.startswith(sweep)]
    if len(fits) != 1:
        hint = f" It is the start of {len(fits)}: {', '.join(fits[:4])}." if fits else did_you_mean(sweep, known)
        raise UserError(f"no sweep '{sweep}' in {runs_dir}.{hint}")
    return _read(known[fits[0]])


def _read(path: Path) -> Known:
    try:
        return Known(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
