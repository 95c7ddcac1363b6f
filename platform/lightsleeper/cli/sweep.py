"""`lightning sweep`: the trials of a sweep file, by W&B's agents or by the local engine."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import positive

if TYPE_CHECKING:
    from lightsleeper.search.sweep_file import SweepFile

HELP = (
    "Run a sweep file. With a W&B key: register it with W&B and run its agents. Without one, or with --local or any "
    "option of the local engine: the same file here, on one machine or, with --storage, on many."
)
LOCAL = ("workers", "storage", "id", "resume", "objectives", "slurm", "slurm_set")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="sweep file, or the name of a shipped one")
    parser.add_argument("--count", type=positive, metavar="N", help="begin at most N new trials, then stop")
    parser.add_argument("--dry-run", action="store_true", help="show the trials and what is fixed; run nothing")
    parser.add_argument("--agents", type=positive, metavar="N", help="W&B agents on this machine, default 1")
    parser.add_argument("--local", action="store_true", help="run it here although there is a W&B key")
    parser.add_argument("--workers", type=positive, metavar="N", help="trials at a time; they share the CPU's cores")
    parser.add_argument(
        "--resume", nargs="?", const="last", metavar="ID", help="continue a sweep, the last one if none is named"
    )
    parser.add_argument("--id", metavar="ID", help="name of the sweep; on other machines the same name joins it")
    parser.add_argument(
        "--storage", metavar="URL", help="PostgreSQL or MySQL that machines share (or LIGHTSLEEPER_STORAGE)"
    )
    parser.add_argument("--objectives", metavar="A,B", help="search for several goals: val/auc_hard,artifact.bytes")
    parser.add_argument("--slurm", action="store_true", help="submit --workers N jobs as one array; needs --storage")
    parser.add_argument(
        "--slurm-set", action="append", default=[], metavar="KEY=VALUE", help="for submitit, such as timeout_min=600"
    )
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (LIGHTSLEEPER_RUNS, else ./runs)")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.errors import UserError
    from lightsleeper.search import sweep_file
    from lightsleeper.tracking.credentials import key_source
    from lightsleeper.tracking.runs import runs_root

    if args.file is None and args.resume is None:
        raise UserError("no sweep file given; `lightning recipes` lists the shipped ones, --resume continues a sweep.")
    if args.resume is not None and args.id is not None:
        raise UserError("--resume and --id: both name a sweep; --resume alone continues it.")
    root = runs_root(args.runs_dir)
    local = args.local or any(getattr(args, name) for name in LOCAL)
    if args.agents and local:
        raise UserError("--agents are W&B's; the local engine has --workers.")
    reachable = key_source() and not _offline()
    if not args.dry_run and (args.agents or (reachable and not local)):  # asked for, and out of reach: it says why
        from lightsleeper.search.wandb_sweep import run_agents

        return run_agents(sweep_file.read(args.file), args.agents or 1, args.count, root)
    if args.resume is not None:
        return _resume(args, root)
    file = sweep_file.read(args.file)
    return dry_run(file) if args.dry_run else _start(args, root, file)


def _offline() -> bool:
    import os

    return os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")


def dry_run(file: "SweepFile") -> int:
    """The trials, or the space they are drawn from, and what is the same for all."""
    from rich.console import Console

    from lightsleeper.search.board import settings

    console = Console(highlight=False, soft_wrap=True)
    goal = {"maximize": "as large", "minimize": "as small"}[file.goal]
    console.print(f"{file.name}: {file.metric} {goal} as possible, method {file.method}", markup=False)
    console.print(f"recipe: {' '.join(file.recipes)}", markup=False)
    console.print(f"fixed: {' '.join(file.overrides) or 'nothing else'}", markup=False)
    if file.method == "grid":
        points = list(file.points())
        for number, point in enumerate(points):
            console.print(f"trial {number}: {settings(point)}", markup=False)
        console.print(f"{len(points)} trials", markup=False)
        return 0
    for name, parameter in file.parameters.items():
        given = " ".join(f"{key}={value}" for key, value in parameter.arguments.items())
        console.print(f"{name}: {parameter.distribution} {given}", markup=False)
    many = f"{file.run_cap} trials" if file.run_cap else "trials without end: --count or run_cap ends them"
    console.print(many, markup=False)
    return 0


def _start(args: argparse.Namespace, root: Path, file: "SweepFile") -> int:
    from lightsleeper.errors import UserError
    from lightsleeper.search import folder as folders

    sweep = folders.check_id(args.id) if args.id else folders.new_id(file)
    if file.method != "grid" and file.run_cap is None and args.count is None:
        raise UserError(f"method {file.method} draws without end: set run_cap in {file.path}, or --count N.")
    return _run(args, root, file, sweep, args.objectives)


def _resume(args: argparse.Namespace, root: Path) -> int:
    from lightsleeper.errors import UserError
    from lightsleeper.search import folder as folders
    from lightsleeper.search import storage, sweep_file

    try:
        known = folders.find(root, args.resume)
    except UserError:
        if not (args.file and storage.asked(args.storage)):
            raise
        # a sweep that another machine has begun
        return _run(
            args, root, sweep_file.read(args.file), folders.check_id(args.resume), args.objectives, create=False
        )
    if args.storage is None and known.storage is not None:
        args.storage = known.storage
    file = sweep_file.read(args.file or folders.folder_of(root, known.id) / known.file)
    return (
        dry_run(file) if args.dry_run else _run(args, root, file, known.id, args.objectives or known.objectives, known)
    )


def _run(
    args: argparse.Namespace,
    root: Path,
    file: "SweepFile",
    sweep: str,
    objectives: str | None,
    known: Any = None,
    create: bool = True,
) -> int:
    from lightsleeper.search import local

    return local.run(
        local.Request(
            file=file,
            id=sweep,
            runs_dir=root,
            workers=args.workers or 1,
            count=args.count,
            storage=args.storage,
            objectives=objectives,
            known=known,
            create=create and known is None,
            slurm=args.slurm,
            slurm_set=args.slurm_set,
        )
    )
