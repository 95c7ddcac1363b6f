"""What a sweep asks of one run: its entry in the record, stages left for later, a say at every validation."""

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback

from lightsleeper.errors import EveryRunError
from lightsleeper.recipe.config import RunConfig
from lightsleeper.run_folder import CHECKPOINTS, METRICS
from lightsleeper.stages.checkpoints import BEST, LAST, load_checkpoint, schedules_settled
from lightsleeper.stages.metrics_file import read_rows

AGENT_ENTRY = "LIGHTSLEEPER_SWEEP"
"""Variable with {name, method, metric, goal, defer} as JSON, which `lightning sweep` sets for W&B's agents."""


@dataclass(frozen=True)
class SweepTrial:
    """One trial of a sweep, as `experiment.run` takes it."""

    entry: dict[str, Any]
    """The record's `sweep`: {id, name, method, metric, goal, trial, attempt, parameters}."""
    defer: frozenset[str] = frozenset()
    """Stages left for later: the record calls them `deferred`, and resuming the run does them."""
    judge: Callable[[int, float, bool], bool] = field(default=lambda validation, value, competes: False)
    """Called with (validation, value of the metric, whether it competes); True stops the run early."""


def agent_entry(settings: RunConfig) -> dict[str, Any]:
    """The record's `sweep` under an agent of W&B; empty elsewhere."""
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if not sweep:
        return {}
    told = _told()
    parameters: dict[str, Any] = {}
    with suppress(OSError, yaml.YAMLError, AttributeError, TypeError):
        given = yaml.safe_load(Path(os.environ.get("WANDB_SWEEP_PARAM_PATH", "")).read_text(encoding="utf-8"))
        parameters = {key: spec["value"] for key, spec in given.items() if isinstance(spec, dict) and "value" in spec}
    goal = {"max": "maximize", "min": "minimize"}[settings.mode]
    return {
        "id": sweep,
        "name": told.get("name", sweep),
        "method": told.get("method"),
        "metric": told.get("metric", settings.monitor),
        "goal": told.get("goal", goal if settings.monitor else None),
        "trial": None,  # W&B numbers none
        "attempt": 1,
        "parameters": parameters,
        "value": None,
        "pruned": False,
    }


def agent_trial(settings: RunConfig) -> SweepTrial | None:
    """The trial that an agent of `lightning sweep` starts, which leaves stages for later; None elsewhere."""
    entry, defer = agent_entry(settings), _told().get("defer")
    return SweepTrial(entry, frozenset(defer)) if entry and defer else None


def _told() -> dict[str, Any]:
    """What `lightning sweep` tells the trials of its agents; empty under `wandb agent` alone."""
    with suppress(ValueError):
        found = json.loads(os.environ.get(AGENT_ENTRY) or "{}")
        return found if isinstance(found, dict) else {}
    return {}


def shipped_value(folder: Path, metric: str | None) -> float | None:
    """``metric`` at the epoch that ships: that of `best.ckpt` where there is one, else the last; None when not finite.

    Read from `metrics.csv`, so that a resumed run gives the same.
    """
    rows = [row for row in read_rows(folder / METRICS) if metric and row.get(metric)]
    path = folder / CHECKPOINTS / BEST
    if path.exists():
        best = load_checkpoint(path)
        # Lightning's logged steps count from 0: a validation at an epoch's end is logged one before its checkpoint.
        rows = [row for row in rows if int(row["epoch"]) == best["epoch"] and int(row["step"]) <= best["global_step"]]
    elif not (folder / CHECKPOINTS / LAST).exists():
        return None
    value = float(rows[-1][metric]) if rows and metric else math.nan
    return value if math.isfinite(value) else None


class Watch(Callback):
    """Tells a sweep about every validation, and ends the training where it says so.

    ``stopped`` is called before the training is told to stop, so that the record knows even if the process dies then.
    Raises EveryRunError when the sweep's metric is not logged.
    """

    def __init__(self, trial: SweepTrial, stopped: Callable[[], None]) -> None:
        self._trial, self._stopped = trial, stopped
        self._validations = 0

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.callback_metrics:  # a model may skip its metrics on the few rows of the sanity check
            self._value(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validations += 1
        if self._trial.judge(self._validations, self._value(trainer), schedules_settled(trainer)):
            self._stopped()
            trainer.should_stop = True

    def _value(self, trainer: L.Trainer) -> float:
        metric = self._trial.entry["metric"]
        logged = sorted(name for name in trainer.callback_metrics if name.startswith("val"))
        if metric not in trainer.callback_metrics:
            raise EveryRunError(f"the sweep's metric is '{metric}', which no epoch logs; logged: {logged or None}.")
        return float(trainer.callback_metrics[metric])

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]
