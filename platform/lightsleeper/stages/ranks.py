"""Several processes, one run. Rank 0 owns the folder, the record and all stages; the others only train along.

Under `strategy: ddp` Lightning starts the other ranks by repeating the command line, so each of them arrives in
`experiment.run` again: it learns from the environment which run it belongs to.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console

from lightsleeper import recipe as recipes
from lightsleeper.errors import UserError
from lightsleeper.recipe import parsing
from lightsleeper.stages.checkpoints import seed_everything
from lightsleeper.stages.console import Log, stoppable
from lightsleeper.stages.fit import fit
from lightsleeper.stages.plan import Plan

_HASH, _FOLDER = "LIGHTSLEEPER_RANK_HASH", "LIGHTSLEEPER_RANK_FOLDER"


def is_follower() -> bool:
    """Whether this process is not rank 0 (torchrun, SLURM or Lightning's own launcher said so)."""
    return (getattr(rank_zero_only, "rank", 0) or 0) > 0


@contextmanager
def leading(config_hash: str, folder: Path) -> Iterator[None]:
    """Tell the ranks launched inside which run this is; afterwards the process stands alone again.

    Without that, metrics of the test stage would wait for ranks that have ended.
    """
    before = dict(os.environ)
    os.environ.update({_HASH: config_hash, _FOLDER: str(folder.absolute())})
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def follow(todo: Plan, runs_dir: Path, folder: Path | None = None) -> Path:
    """Train along as a rank above 0, in the run that rank 0 leads."""
    config_hash, folder = _followed() or (todo.hash, folder or runs_dir)
    candidates = [todo]
    while candidates and candidates[0].hash != config_hash:
        candidates = [*candidates[1:], *candidates[0].steps.values()]
    if not candidates:
        raise UserError(f"{todo.recipe.name}: rank 0 runs another recipe.")
    todo = candidates[0]
    steps: dict[str, Path] = {}
    for name, step in todo.steps.items():
        found = step.finished(runs_dir)
        if found is None:
            raise UserError(f"requires.{name}: run {step.recipe.name} once, in one process, before several.")
        steps[name] = found.absolute()
    L.seed_everything(todo.config["seed_everything"], workers=True, verbose=False)
    parts = parsing.build(recipes.substitute(todo.config, steps))
    if parts.run.threads is not None:
        torch.set_num_threads(parts.run.threads)
    seed_everything(parts.seed, 0)  # as rank 0 does before its fit
    with Log(Path(os.devnull), Console(quiet=True)) as log, stoppable():
        fit(parts, folder, log, follower=True)
    return folder


def _followed() -> tuple[str, Path] | None:
    """(config hash, folder) of the run this rank trains along with; None when rank 0 did not say."""
    if _HASH not in os.environ:
        return None
    return os.environ[_HASH], Path(os.environ[_FOLDER])
