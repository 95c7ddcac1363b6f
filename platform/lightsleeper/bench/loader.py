"""What data loading costs in training, measured on a recipe's own model, data and Trainer.

Two figures. ``wait_share``: the time the training loop waits for its next batch, over the whole step. ``slowdown``: how
much longer a step takes than the same step on batches that lie ready in memory; it also sees worker processes that take
the cores from the training without ever making it wait.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from rich.console import Console

from lightsleeper import recipe as recipes
from lightsleeper.bench.timing import spread
from lightsleeper.errors import UserError
from lightsleeper.recipe import parsing
from lightsleeper.stages.console import Log
from lightsleeper.stages.plan import plan

WARM_UP = 5  # steps thrown away: workers start, allocators grow
ROUNDS = 3  # of loader, memory, loader, memory, ...
LOADING = "[_TrainingEpochLoop].train_dataloader_next"
TRAINING = "run_training_batch"

Times = tuple[list[float], list[float]]  # seconds of waiting and of the whole step, per step


class Durations(SimpleProfiler):
    """Seconds by action; prints no report of its own."""

    def describe(self) -> None:
        pass


class Ready:
    """Batches in memory, as a loader. Not a list: Lightning takes a list for several loaders."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def run(recipe: recipes.Recipe, runs_dir: Path, steps: int = 60) -> dict[str, Any]:
    """Train ``steps`` steps with the recipe's loader and on the same batches from memory, ROUNDS times in turn.

    Raises UserError when a required step has not been run yet, and for data with too few batches.
    """
    parts = _parts(recipe, runs_dir)
    data: Any = parts.data
    data.prepare_data()
    data.setup("fit")
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(steps), strict=False)]
    loaded: list[Times] = []
    ready: list[Times] = []
    for _ in range(ROUNDS):
        loaded.append(_times(_fresh(recipe, runs_dir, data), steps))
        data.train_dataloader = lambda: Ready(batches)
        ready.append(_times(_fresh(recipe, runs_dir, data), steps))
        del data.train_dataloader
    # Every batch counts with its fastest round: the others were slower for what else the machine did.
    step_s, ready_step_s = fastest(loaded), fastest(ready)
    waits = [wait for times, _ in loaded for wait in times]
    return {
        "recipe": recipe.name,
        "steps": len(step_s),
        "step_ms": _spread(step_s),
        "wait_ms": _spread(waits),
        "ready_step_ms": _spread(ready_step_s),
        "wait_share": sum(waits) / sum(step for _, steps_s in loaded for step in steps_s),
        "slowdown": sum(step_s) / sum(ready_step_s) - 1.0,
        "conditions": {
            "threads": torch.get_num_threads(),
            "workers": getattr(data, "workers", None),
            "batch_size": getattr(data, "batch_size", None),
            "warm_up_steps": WARM_UP,
            "rounds": ROUNDS,
            "torch": torch.__version__,
            "lightning": L.__version__,
        },
    }


def _parts(recipe: recipes.Recipe, runs_dir: Path) -> parsing.Parts:
    todo = plan(recipe)
    folders: dict[str, Path] = {}
    for name, step in todo.steps.items():
        found = step.finished(runs_dir)
        if found is None:
            raise UserError(f"requires.{name}: run it first: `lightning run {step.recipe.name}`.")
        folders[name] = found.absolute()
    L.seed_everything(todo.config["seed_everything"], workers=True, verbose=False)
    parts = parsing.build(recipes.substitute(todo.config, folders))
    if parts.run.threads is not None:
        torch.set_num_threads(parts.run.threads)
    return parts


def _fresh(recipe: recipes.Recipe, runs_dir: Path, data: Any) -> parsing.Parts:
    return replace(_parts(recipe, runs_dir), data=data)


def fastest(rounds: Sequence[Times]) -> list[float]:
    """Seconds of each step, waiting included, in the round where it was fastest."""
    return [min(values) for values in zip(*(steps for _, steps in rounds), strict=True)]


def _times(parts: parsing.Parts, steps: int) -> Times:
    """Fit once; the warm-up is removed."""
    profiler = Durations()
    with Log(Path(os.devnull), Console(quiet=True)):  # Lightning's own lines say nothing about loading
        _fit(parts, steps, profiler)
    wait_s, train_s = profiler.recorded_durations[LOADING], profiler.recorded_durations[TRAINING]
    if len(train_s) <= WARM_UP:
        raise UserError(f"only {len(train_s)} training steps were made: expected more than {WARM_UP}.")
    # An epoch's end may ask for one more batch than there is; such a wait belongs to no step.
    wait_s = wait_s[: len(train_s)]
    step_s = [wait + train for wait, train in zip(wait_s, train_s, strict=True)]
    return wait_s[WARM_UP:], step_s[WARM_UP:]


def _fit(parts: parsing.Parts, steps: int, profiler: SimpleProfiler) -> None:
    trainer = L.Trainer(
        **{
            **parts.trainer_args,
            "max_steps": steps,
            "max_epochs": -1,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "logger": False,
            "callbacks": list(parts.callbacks.values()),
            "profiler": profiler,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )
    trainer.fit(parts.model, datamodule=parts.data)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Of milliseconds."""
    return spread([1e3 * taken for taken in seconds])
