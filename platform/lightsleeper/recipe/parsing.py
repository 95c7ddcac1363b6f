"""From a merged recipe to a resolved one, every default written out, and on to objects."""

from dataclasses import dataclass, replace
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightsleeper_callbacks.base import Compression, by_phase, check_together

from lightsleeper.recipe.config import RunConfig, TrackingConfig
from lightsleeper.recipe.loading import Config, Recipe, references
from lightsleeper.recipe.reader import Reader, as_plain


@dataclass
class Parts:
    """The objects of one run. The Trainer is left to the run, which adds loggers and its own callbacks."""

    model: L.LightningModule
    data: L.LightningDataModule
    callbacks: dict[str, Callback]
    trainer_args: dict[str, Any]
    run: RunConfig
    tracking: TrackingConfig
    seed: int


def resolve(recipe: Recipe | Config, trust: bool = True) -> Config:
    """The recipe as plain data with every default; resolving the result again changes nothing.

    Classes are imported, never constructed. ``trust`` False imports shipped classes only. Raises UserError naming the
    key, its place and the nearest valid name.
    """
    recipe = _as_recipe(recipe)
    reader = Reader(recipe, trust)
    config = recipe.config
    for section in ("model", "data"):
        if section not in config:
            reader.fail(section, f"the recipe names no {section}.")
    resolved: Config = {"seed_everything": reader.seed(), "requires": config.get("requires") or {}}
    resolved["model"] = reader.plain("model", config["model"], L.LightningModule)
    resolved["data"] = reader.plain("data", config["data"], L.LightningDataModule)
    resolved["callbacks"] = {
        name: reader.plain(f"callbacks.{name}", spec, Callback) for name, spec in reader.mapping("callbacks").items()
    }
    resolved["trainer"] = as_plain(*reader.trainer())
    for section, cls in (("run", RunConfig), ("tracking", TrackingConfig)):
        parser, namespace = reader.arguments(section, cls, reader.mapping(section))
        reader.construct(section, cls, parser, namespace)
        resolved[section] = as_plain(parser, namespace)
    return resolved


def build(resolved: Config, recipe: Recipe | None = None) -> Parts:
    """Construct every object of a resolved recipe; seed first, because the model draws its weights here.

    ``recipe`` lends the places for messages. Raises UserError with the key when a constructor refuses its arguments.
    """
    reader = Reader(_placed(resolved, recipe), trust=True)
    config = resolved
    parser, namespace = reader.trainer()
    return Parts(
        trainer_args=reader.guard("trainer", lambda: parser.instantiate(namespace).as_dict()),
        run=reader.section("run", RunConfig),
        tracking=reader.section("tracking", TrackingConfig),
        callbacks={name: reader.object(f"callbacks.{name}", spec, Callback) for name, spec in
                   reader.mapping("callbacks").items()},
        data=reader.object("data", config["data"], L.LightningDataModule),
        model=reader.object("model", config["model"], L.LightningModule),
        seed=reader.seed(),
    )  # fmt: skip


def build_data(recipe: Recipe) -> L.LightningDataModule:
    """The data module of ``recipe`` alone, with the seed of a run. Raises UserError with the key and its place.

    Its model is not looked at: that one may need a step that has not been run here.
    """
    reader = Reader(recipe, trust=True)
    if "data" not in recipe.config:
        reader.fail("data", "the recipe has no section 'data'.")
    for key, step in references(recipe.config["data"]):
        reader.fail(f"data.{key}", f"is of the earlier step '{step}': name a finished run's folder instead.")
    L.seed_everything(reader.seed(), workers=True, verbose=False)
    data: L.LightningDataModule = reader.object("data", recipe.config["data"], L.LightningDataModule)
    return data


def build_model(recipe: Recipe) -> L.LightningModule:
    """The model of ``recipe`` alone, with the seed of a run. Raises UserError with the key and its place."""
    reader = Reader(recipe, trust=True)
    if "model" not in recipe.config:
        reader.fail("model", "the recipe has no section 'model'.")
    for key, step in references(recipe.config["model"]):
        reader.fail(f"model.{key}", f"is of the earlier step '{step}': name a finished run's folder instead.")
    L.seed_everything(reader.seed(), workers=True, verbose=False)
    model: L.LightningModule = reader.object("model", recipe.config["model"], L.LightningModule)
    return model


def check(recipe: Recipe, trust: bool = True) -> Config:
    """Resolve ``recipe`` and construct, to throw away, each part that refers to no earlier step; returns the resolved.

    What a constructor would refuse is so refused before any data is touched.
    """
    resolved = resolve(recipe, trust)
    reader = Reader(_placed(resolved, recipe), trust)
    entries: list[tuple[str, Any, type]] = [
        (f"callbacks.{name}", spec, Callback) for name, spec in resolved["callbacks"].items()
    ]
    entries += [("data", resolved["data"], L.LightningDataModule), ("model", resolved["model"], L.LightningModule)]
    built = {key: reader.object(key, spec, base) for key, spec, base in entries if not any(references(spec))}
    callbacks = {key.partition(".")[2]: part for key, part in built.items() if key.startswith("callbacks.")}
    reader.guard("callbacks", lambda: check_together(ordered(callbacks)))
    return resolved


def ordered(named: dict[str, Callback]) -> list[Callback]:
    """A recipe's callbacks in the order of their phases; compression callbacks learn their names."""
    for name, callback in named.items():
        if isinstance(callback, Compression):
            callback.name = name
    return by_phase(named.values())


def find_class(name: str) -> type:
    """The class of a short name or dotted path. Raises UserError."""
    return Reader(Recipe("", {}, ()), trust=True).import_class("class_path", name, None)


def _placed(resolved: Config, recipe: Recipe | None) -> Recipe:
    return replace(recipe, config=resolved) if recipe is not None else Recipe("", resolved, ())


def _as_recipe(recipe: Recipe | Config) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else Recipe("", recipe, ())
