"""The check stage: everything that can be refused before any data is touched and any folder is made."""

import importlib.util
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightsleeper_callbacks.base import check_strategy

from lightsleeper import recipe as recipes
from lightsleeper import sharding
from lightsleeper.data.module import asked
from lightsleeper.deploy.formats import FORMATS
from lightsleeper.deploy.small import check_small
from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.files import cache_folder, cache_path, free_bytes
from lightsleeper.models.family import Family
from lightsleeper.quiet import quiet
from lightsleeper.recipe import parsing
from lightsleeper.recipe.config import RunConfig, TrackingConfig
from lightsleeper.recipe.reader import Reader
from lightsleeper.stages.rehearsal import rehearse
from lightsleeper.tracking import weights_and_biases
from lightsleeper.tracking.record import LATER, Record, status_of
from lightsleeper.tracking.runs import finished_with

FREE_BYTES = 300 * 10**6
"""Least free space: the embedded corpus, a few checkpoints and the exported files take about a third of it."""


@dataclass
class Plan:
    """A resolved recipe and those it requires."""

    recipe: recipes.Recipe
    config: recipes.Config
    """Resolved; `${requires.<name>}` is still in it, so that it holds no path of this machine."""
    steps: dict[str, "Plan"] = field(default_factory=dict)
    prefix: str = ""
    """What its keys begin with on the command line: `requires.encoder.set.` for the keys of that step."""

    @property
    def reader(self) -> Reader:
        """Builds objects of the recipe, and refuses with the places of its keys."""
        return Reader(replace(self.recipe, config=self.config), trust=True)

    @property
    def settings(self) -> RunConfig:
        return RunConfig(**self.config["run"])

    def finished(self, runs_dir: Path) -> Path | None:
        """The folder of a run that makes this one, as a required step, needless."""
        stages = set(self.settings.stages)
        formats = set(self.settings.formats) if "export" in stages else set()  # which are no part of the hash
        return finished_with(runs_dir, self.recipe.name, self.hash, stages, formats)

    @property
    def identity(self) -> recipes.Config:
        """What decides the weights that ship: a required step counts by its own hash."""
        chosen = {key: self.config["run"][key] for key in ("monitor", "mode")}
        return {**self.config, "best": chosen, "requires": {name: step.hash for name, step in self.steps.items()}}

    @property
    def hash(self) -> str:
        return recipes.config_hash(self.identity)

    @property
    def group(self) -> str:
        return recipes.group_hash(self.identity)

    def recorded(self) -> recipes.Config:
        """The config for the record, which holds no path of this machine."""
        requires = {name: {"recipe": step.recipe.name, "hash": step.hash} for name, step in self.steps.items()}
        return {**self.config, "requires": requires}

    def saved(self) -> recipes.Config:
        """The config for `recipe.yaml`: runs again to the same numbers, from any folder, whatever the files become."""
        shipped = recipes.shipped()
        requires = {}
        for name, step in self.steps.items():
            file = step.recipe.files[0]
            known = step.recipe.name in shipped and shipped[step.recipe.name].resolve() == file.resolve()
            requires[name] = {"recipe": step.recipe.name if known else str(file.resolve()), "set": step.saved()}
        return {**self.config, "requires": requires}


def plan(recipe: recipes.Recipe, prefix: str = "") -> Plan:
    """Resolve a recipe and, depth first, those it requires; every constructor has a try. Raises UserError."""
    required = recipes.required(recipe)
    steps = {name: plan(step, f"{prefix}requires.{name}.set.") for name, step in required.items()}
    return Plan(recipe, parsing.check(recipe), steps, prefix)


def check(todo: Plan, runs_dir: Path, done: Set[str] = frozenset()) -> None:
    """Refuse what cannot end well, before a folder is made: raises UserError. ``done`` are the stages behind it."""
    check_settings(todo)
    rehearse(todo, runs_dir)
    if set(todo.settings.stages) - done - {"benchmark"}:  # which alone reads no data
        check_data(todo, runs_dir)
    need_writable(runs_dir)
    need_space(runs_dir)
    need_space(cache_path())
    cache_folder()


def check_settings(todo: Plan) -> None:
    """Refuse stages, packages, trainer arguments and tracking that cannot work, depth first; raises UserError."""
    for step in todo.steps.values():
        check_settings(step)
    settings = todo.settings
    if "export" in settings.stages and "finalize" not in settings.stages:
        raise UserError("run.stages: export needs finalize, whose model it writes.")
    if "benchmark" in settings.stages and "export" not in settings.stages:
        raise UserError("run.stages: benchmark needs export, whose files it times.")
    if "export" in settings.stages:
        for file_format in settings.formats:
            need_packages(FORMATS[file_format].packages, f"run.formats: {file_format}")
    check_model(parsing.find_class(todo.config["model"]["class_path"]), settings)
    check_trainer(todo)
    weights_and_biases.wanted_mode(TrackingConfig(**todo.config["tracking"]))


def check_data(todo: Plan, runs_dir: Path) -> None:
    """Call `DataModule.check` of every step that has not finished, depth first (of the others the data may be gone).

    Raises UserError.
    """
    for step in todo.steps.values():
        if step.finished(runs_dir) is None:
            check_data(step, runs_dir)
    spec, reader = todo.config["data"], todo.reader
    if any(recipes.references(spec)):  # built once the step it names has run
        return
    data = reader.object("data", spec, L.LightningDataModule)
    reader.guard("data", asked(data, "check"))
    model = todo.config["model"]
    family = parsing.find_class(model["class_path"])
    if issubclass(family, Family):
        reader.guard("data", lambda: family.check_source(model.get("init_args") or {}, data))


def check_model(family: type, settings: RunConfig) -> None:
    """Refuse a model class that cannot go through the stages asked for; raises UserError."""
    for stage, method in (("finalize", "architecture"), ("export", "export_spec")):
        if stage in settings.stages and getattr(family, method, None) in (None, getattr(Family, method)):
            raise UserError(
                f"run.stages: {stage} needs {family.__name__}.{method}(), which it does not define"
                f" (see lightsleeper.models.family.Family); without {stage} it can run."
            )
    if "export" in settings.stages:
        check_small(family, settings.formats, "run.formats: ")
    own = getattr(family, "save_transformers", None) not in (None, Family.save_transformers)
    if "export" in settings.stages and "transformers" in settings.formats and not own:
        raise UserError(f"run.formats: transformers needs a network of that library, which {family.__name__} is not.")


def check_trainer(todo: Plan) -> None:
    """Refuse what the Trainer refuses, as a GPU that is not there, and a callback its strategy; raises UserError."""
    settings, reader = todo.config["trainer"], todo.reader
    plain = {name: value for name, value in settings.items() if not isinstance(value, (dict, list))}
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        with quiet("lightning.pytorch"):  # the fit says it again, into log.txt
            trainer = L.Trainer(**{**plain, **bare})
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    family = parsing.find_class(todo.config["model"]["class_path"])
    sharding.check(trainer.strategy, family, str(trainer.precision))
    callbacks = {
        name: reader.object(f"callbacks.{name}", spec, L.Callback)
        for name, spec in todo.config["callbacks"].items()
        if not any(recipes.references(spec))
    }
    reader.guard("callbacks", lambda: check_strategy(parsing.ordered(callbacks), trainer.strategy))


def need_packages(packages: tuple[str, ...], who: str) -> None:
    """Raise UserError naming the packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{who} needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def need_writable(folder: Path) -> None:
    """Create ``folder`` and prove that a file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise EveryRunError(f"runs folder {folder} cannot be written: {reason}. --runs-dir names another.") from error


def need_space(folder: Path, need: int = FREE_BYTES) -> None:
    """Raise UserError when the disk of ``folder`` (which need not exist) has less than ``need`` bytes left."""
    free = free_bytes(folder)
    if free < need:
        raise EveryRunError(f"{folder}: {free / 1e6:.0f} MB free on its disk, {need / 1e6:.0f} MB needed.")


def check_resume(todo: Plan, record: Record) -> None:
    """Refuse to continue a run that is over, running, or another one; raises UserError."""
    name, status = record.run_id, status_of(record)
    if status == "finished" and not LATER & set(record.stages.values()):
        raise UserError(f"run {name} is finished: `lightning show {name}`. Nothing to resume.")
    if status == "running" and record.process is not None:
        where = f"process {record.process['pid']} on {record.process['host']}"
        raise UserError(f"run {name} is still running ({where}).")
    if record.recipe != todo.recipe.name:
        raise UserError(f"run {name} is a run of {record.recipe}, not of {todo.recipe.name}.")
    skipped = ("tracking", "requires")  # where it is tracked may change; steps are compared by what they resolve to
    old = {key: value for key, value in record.config.items() if key not in skipped}
    changed = changed_keys(old, {key: value for key, value in todo.config.items() if key not in skipped})
    changed += [
        f"requires.{required}"
        for required, step in todo.steps.items()
        if record.lineage.get(required, {}).get("hash", step.hash) != step.hash
    ]
    if changed:
        keys = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        raise UserError(f"run {name} cannot be resumed with a changed recipe: {keys}. Start a new run.")


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, without `init_args`."""
    found: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        first, second = old.get(key), new.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += changed_keys(first, second, name)
        elif first != second:
            found.append(name)
    return found
