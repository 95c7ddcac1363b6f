"""What can be refused before any trial runs: a knob that no recipe has, a value that its class refuses."""

import random
from pathlib import Path
from typing import Any

from lightsleeper import recipe as recipes
from lightsleeper.errors import UserError
from lightsleeper.search.space import Parameter
from lightsleeper.search.study import Parameters, Settings
from lightsleeper.search.sweep_file import Goal, SweepFile
from lightsleeper.stages.plan import Plan, check, plan

TRIED = 40  # values of a knob that are tried: a recipe is built for each
DRAWN = 3  # of a distribution without a list of values


def settings(file: SweepFile, runs_dir: Path, objectives: dict[str, Goal]) -> Settings:
    """Check the sweep and the recipe it changes; raises UserError naming the knob and its value."""
    file.check_local()
    _check_hyperband(file, objectives)
    if objectives and file.method != "bayes":
        raise UserError(
            f"--objectives steer method bayes, not {file.method}, whose trials are chosen beforehand;"
            " `lightning dashboard` shows the Pareto front of any sweep."
        )
    values = {name: _values(parameter) for name, parameter in file.parameters.items()}
    first = {name: tried[0] for name, tried in values.items()}
    base = _planned(file, first, "")
    _check_trial(base, file)
    check(base, runs_dir)
    for name, tried in values.items():
        for value in tried[1:]:
            _planned(file, {**first, name: value}, f"{name}={value}: ")
    unchanged = recipes.load(file.recipes, file.overrides)
    decisive = {key: value for key, value in unchanged.config.items() if key != "tracking"}
    steps = {name: step.hash for name, step in base.steps.items()}
    found = recipes.config_hash({**decisive, "steps": steps}, without=())
    return Settings(file, base.recipe.name, found, _validations(base), objectives)


def _values(parameter: Parameter) -> list[Any]:
    try:
        values = parameter.grid()
    except UserError:
        dice = random.Random(0)
        return [parameter.draw(dice) for _ in range(DRAWN)]
    if len(values) <= TRIED:
        return values
    return [values[index * (len(values) - 1) // (TRIED - 1)] for index in range(TRIED)]


def _planned(file: SweepFile, parameters: Parameters, label: str) -> Plan:
    try:
        return plan(file.recipe(parameters))
    except UserError as error:
        raise UserError(f"{label}{error}") from error


def _check_trial(base: Plan, file: SweepFile) -> None:
    if "fit" not in base.settings.stages:
        raise UserError("run.stages: a trial needs fit, which the sweep's metric comes from.")
    trainer = base.config["trainer"]
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes") or 1
    if (isinstance(devices, int) and devices > 1) or (isinstance(devices, list) and len(devices) > 1) or nodes > 1:
        raise UserError(
            f"trainer.devices: {devices} on {nodes} nodes: a trial is one process on one device; --workers runs several"
            " side by side."
        )


def _check_hyperband(file: SweepFile, objectives: dict[str, Goal]) -> None:
    rule = file.early_terminate
    if rule is None:
        return
    if objectives:
        raise UserError("--objectives and early_terminate: stopping early needs one number to compare.")
    if rule.eta < 2 or rule.eta != int(rule.eta):
        raise UserError(f"early_terminate.eta: without W&B a whole number from 2, got {rule.eta:g}.")


def _validations(base: Plan) -> int | None:
    """How many validations a whole trial has; None when that is not known beforehand."""
    trainer = base.config["trainer"]
    epochs, interval = trainer.get("max_epochs"), trainer.get("val_check_interval")
    if not isinstance(epochs, int) or epochs < 1 or not isinstance(interval, float | None):  # batches, or a time
        return None
    every = trainer.get("check_val_every_n_epoch") or 1
    return max(1, int(epochs // every * (1 / interval if interval else 1)))
