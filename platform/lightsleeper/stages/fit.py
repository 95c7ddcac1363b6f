"""The fit stage: Lightning's Trainer with our checkpoints, metrics file and epoch lines, and nothing per step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger

from lightsleeper.errors import UserError
from lightsleeper.recipe.parsing import Parts, ordered
from lightsleeper.run_folder import CHECKPOINTS, METRICS
from lightsleeper.stages.checkpoints import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    BestCheckpoint,
    EpochBoundary,
    is_complete,
    load_checkpoint,
)
from lightsleeper.stages.console import EpochLines, Log
from lightsleeper.stages.metrics_file import MetricsFile


class DataReady(Callback):
    """Calls ``action`` with the data module once it is set up, before the first batch."""

    def __init__(self, action: Callable[[Any], None]) -> None:
        self._action = action

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._action(trainer.datamodule)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Progress:
    """How far the fit of a run folder has come."""

    step: int = 0
    """Optimizer steps in the last checkpoint; 0 when there is none."""
    epoch: int = 0
    """Finished epochs."""
    complete: bool = False

    @classmethod
    def of(cls, folder: Path) -> "Progress":
        path = folder / CHECKPOINTS / LAST
        if not path.exists():
            return cls()
        state = load_checkpoint(path)
        if not {"global_step", "epoch", "state_dict"} <= state.keys():
            raise UserError(f"checkpoint {path} is not one of a run.")
        return cls(state["global_step"], state["epoch"], is_complete(state))


def fit(
    parts: Parts,
    folder: Path,
    log: Log,
    loggers: Sequence[Logger] = (),
    data_ready: Callable[[Any], None] | None = None,
    follower: bool = False,
    watch: Callback | None = None,
) -> None:
    """Train ``parts.model``, from `last.ckpt` on where there is one.

    ``follower``: as a rank above 0, which writes nothing. ``watch``: a callback that is not the recipe's.
    Stopped at any moment, it leaves the last finished epoch.
    """
    checkpoints = folder / CHECKPOINTS
    last = checkpoints / LAST
    done = Progress.of(folder)
    if done.complete:
        log.say(f"fit: complete at step {done.step}")
        return
    if done.step:
        log.say(f"fit: continuing after epoch {done.epoch} at step {done.step}")
    boundary = EpochBoundary(checkpoints, parts.seed)
    trainer = L.Trainer(
        **{
            **parts.trainer_args,
            "logger": False if follower else [MetricsFile(folder / METRICS, done.step), *loggers],
            "callbacks": [
                boundary,
                *([DataReady(data_ready)] if data_ready else []),
                *_callbacks(parts, folder, log),
                *([watch] if watch else []),
            ],
            "plugins": _plugins(parts.trainer_args.get("plugins")),
            "default_root_dir": folder,
            "enable_checkpointing": parts.run.monitor is not None,
            "enable_progress_bar": log.console.is_terminal,
            "enable_model_summary": False,  # the table at the end has the size
        }
    )
    restore = str(last) if done.step else None
    trainer.ckpt_path = restore  # not given to fit, which knows it only after setup: too late to spare initialisations
    trainer.fit(parts.model, datamodule=parts.data, weights_only=True if restore else None)
    if parts.run.monitor is not None and not (checkpoints / BEST).exists():
        log.say(f"warning: no epoch was judged by run.monitor '{parts.run.monitor}'; the last one ships")


def _callbacks(parts: Parts, folder: Path, log: Log) -> list[Callback]:
    headline = tuple(name for name in (parts.run.monitor, "val/loss", "train/loss") if name)
    callbacks: list[Callback] = [*ordered(parts.callbacks), EpochLines(log, headline)]
    if log.console.is_terminal:
        callbacks.append(RichProgressBar(leave=False))
    if parts.run.monitor is not None:
        callbacks.append(BestCheckpoint(folder / CHECKPOINTS, parts.run.monitor, parts.run.mode))
    return callbacks


def _plugins(given: Any) -> list[Any]:
    plugins = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]
    return [*plugins, AtomicCheckpointIO()]
