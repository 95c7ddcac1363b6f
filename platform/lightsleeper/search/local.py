"""`lightning sweep` without W&B: check, open the study, let the engine work, say what came out."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.run_folder import WANDB
from lightsleeper.search import folder as folders
from lightsleeper.search import slurm, storage
from lightsleeper.search.board import Board, counts, outcome, settings, table
from lightsleeper.search.engine import Engine, Options
from lightsleeper.search.study import Study
from lightsleeper.search.sweep_file import SweepFile
from lightsleeper.tracking.record import timestamp
from lightsleeper.tracking.runs import runs_root


@dataclass
class Request:
    """What the command line asks for."""

    file: SweepFile
    id: str
    runs_dir: Path
    workers: int = 1
    count: int | None = None
    storage: str | None = None
    objectives: str | None = None
    known: folders.Known | None = None
    """Of a sweep that was here before."""
    create: bool = True
    """False: it has to exist."""
    slurm: bool = False
    slurm_set: list[str] = field(default_factory=list)
    guest: bool = False
    """Take trials while some are waiting, then leave the rest, benchmarks too, to others."""

    @property
    def folder(self) -> Path:
        return folders.folder_of(self.runs_dir, self.id)

    @property
    def resume_line(self) -> str:
        place = "" if self.runs_dir.resolve() == runs_root().resolve() else f" --runs-dir {self.runs_dir}"
        return f"lightning sweep --resume {self.id}{place}"


def run(request: Request) -> int:
    """The whole sweep, or this machine's part of it; returns the exit code. Raises UserError."""
    console = Console(highlight=False, soft_wrap=True)
    if request.slurm:
        slurm.check(request)
    study = opened(request)
    if request.slurm:
        slurm.submit(request, console)
        console.print(f"when they have ended, for the benchmarks: {request.resume_line}", markup=False)
        return 0
    from lightsleeper.stages.console import stoppable

    options = Options(request.runs_dir, request.workers, request.count, request.guest, _devices())
    try:
        with stoppable(), Board(console) as board:
            threads = f"{request.workers} worker(s), {request.file.method}"
            board.say(f"sweep {request.id}: {counts(study.rows())}; {threads}, logs in {request.folder}")
            Engine(study, options, request.folder, board).run()
    except KeyboardInterrupt:
        console.print(f"interrupted; trials keep their last epoch. Resume: {request.resume_line}", markup=False)
        return 130
    except EveryRunError as error:
        raise EveryRunError(f"{error} The sweep stopped; continue: {request.resume_line}") from error
    return report(study, request, console)


def opened(request: Request) -> Study:
    """Check everything, then create or join the study."""
    from lightsleeper.search import checks, objectives

    file = request.file
    known = request.known
    foreign = storage.asked(request.storage) is not None
    if known is not None and known.foreign and not foreign:
        raise UserError(f"sweep {known.id} is in a shared database: --storage URL, or {storage.VARIABLE}.")
    goals = objectives.parse(request.objectives, file.metric, file.goal) if request.objectives else {}
    checked = checks.settings(file, request.runs_dir, goals)
    url = storage.url_of(request.storage, request.folder)
    opened = storage.open_storage(url)
    study = Study(request.id, checked, opened, os.getpid(), request.create)
    # Only now: what was refused leaves nothing behind.
    public = request.storage if request.storage and storage.shown(request.storage) == request.storage else None
    folders.save(
        request.runs_dir,
        folders.Known(request.id, f"{file.name}.yaml", request.objectives, public, foreign, timestamp()),
        file.path,
    )
    return study


def report(study: Study, request: Request, console: Console) -> int:
    """The end: all trials, the best, and where to go from here."""
    rows = study.rows()
    console.print(table(study))
    console.print(counts(rows), markup=False)
    best = study.best()
    for row in best if len(best) <= 5 else ():
        console.print(f"best: trial {row.number}, {outcome(row, study)} with {settings(row.parameters)}", markup=False)
    if len(best) > 5:
        console.print(f"{len(best)} trials that no other beats in everything", markup=False)
    recipe = request.runs_dir / study.settings.recipe
    console.print(f"records: {recipe}/*/record.json, in W&B group {request.id}", markup=False)
    console.print("Pareto front: lightning dashboard", markup=False)
    offline = [row.run for row in rows if row.run and any((recipe / row.run / WANDB).glob("offline-run-*"))]
    if offline:
        console.print(
            f"W&B upload: wandb sync {recipe}/*/wandb/offline-run-*  (one group of runs there, not a W&B sweep)",
            markup=False,
        )
    if any(row.state in ("waiting", "running") for row in rows):
        console.print(f"continue: {request.resume_line}", markup=False)
    ended = [row for row in rows if row.state not in ("waiting", "running")]
    return 1 if ended and all(row.state == "failed" for row in ended) else 0


def _devices() -> int:
    import torch

    return torch.cuda.device_count()
