"""Checks of one recipe, section by section, argument by argument; every failure names its key and place.

Names are checked against the signatures before jsonargparse sees a value: its own message for a typo lists every member
of a union. Each section is parsed on its own, so a failure belongs to one key, and `Recipe.where` knows its line.
"""

import importlib
import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import lightning as L
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from lightsleeper import sharding
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.recipe import catalog
from lightsleeper.recipe.loading import Recipe
from lightsleeper.recipe.overlay import Config
from lightsleeper.recipe.signatures import (
    Parameter,
    accepts_null,
    culprit,
    fits,
    imports,
    literals,
    parameters,
    parser_of,
    type_text,
)

OWNED_TRAINER = {
    "callbacks": "name them in the section 'callbacks'",
    "logger": "see the section 'tracking'",
    "default_root_dir": "see --runs-dir",
}
TRAINER_SKIP = frozenset(OWNED_TRAINER)
SEED_LIMIT = 2**32  # numpy's, which Lightning's seed_everything obeys

# what a constructor refuses its arguments with; anything else is a bug and keeps its traceback
_MISTAKES = (UserError, ValueError, OSError, ImportError, MisconfigurationException)


@dataclass(frozen=True)
class Reader:
    """Checks one recipe; every failure names its key and place."""

    recipe: Recipe
    trust: bool

    def fail(self, key: str, text: str, cause: BaseException | None = None) -> NoReturn:
        place = self.recipe.where(key) if self.recipe.files or self.recipe.positions else ""
        raise UserError(f"{place}: {key}: {text}" if place else f"{key}: {text}") from cause

    # --- sections ---

    def mapping(self, section: str) -> Config:
        value = self.recipe.config.get(section)
        if value is not None and not isinstance(value, dict):
            self.fail(section, f"expected a mapping, got {_got(value)}.")
        return value or {}

    def seed(self) -> int:
        value = self.recipe.config.get("seed_everything", 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < SEED_LIMIT:
            self.fail("seed_everything", f"expected a whole number from 0 to {SEED_LIMIT - 1}, got {_got(value)}.")
        return value

    def trainer(self) -> tuple[ArgumentParser, Namespace]:
        given = self.mapping("trainer")
        for name, instead in OWNED_TRAINER.items():
            if name in given:
                self.fail(f"trainer.{name}", f"lightsleeper sets it; {instead}.")
        from lightning.pytorch.accelerators import AcceleratorRegistry
        from lightning.pytorch.strategies import StrategyRegistry

        sharding.register()
        choices = {
            "accelerator": {*AcceleratorRegistry.available_accelerators(), "auto", "gpu"},
            "strategy": {*StrategyRegistry.available_strategies(), "auto"},
            "profiler": {"simple", "advanced", "pytorch", "xla"},
        }
        for name, valid in choices.items():
            value = given.get(name)
            if isinstance(value, str) and value not in valid and "." not in value:
                self.fail(f"trainer.{name}", f"there is no {name} '{value}'.{did_you_mean(value, valid)}")
        return self.arguments("trainer", L.Trainer, given, TRAINER_SKIP)

    def section(self, key: str, cls: type) -> Any:
        return self.construct(key, cls, *self.arguments(key, cls, self.mapping(key)))

    # --- classes ---

    def plain(self, key: str, spec: Any, base: type) -> Config:
        cls, parser, namespace = self.spec(key, spec, base)
        return {"class_path": _short(f"{cls.__module__}.{cls.__qualname__}"), "init_args": as_plain(parser, namespace)}

    def object(self, key: str, spec: Any, base: type) -> Any:
        return self.construct(key, *self.spec(key, spec, base))

    def construct(self, key: str, cls: type, parser: ArgumentParser, namespace: Namespace) -> Any:
        return self.guard(key, lambda: cls(**parser.instantiate(namespace).as_dict()))

    def guard(self, key: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except ModuleNotFoundError as error:
            self.fail(key, f"needs the package '{error.name}', which is not installed.", error)
        except _MISTAKES as error:
            text = " ".join(str(error).split()) or type(error).__name__
            self.fail(key, text, error)
        except (MemoryError, RuntimeError) as error:  # torch refuses an allocation with a RuntimeError
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            self.fail(key, "these sizes need more memory than this machine has.", error)

    def spec(self, key: str, spec: Any, base: type | None) -> tuple[type, ArgumentParser, Namespace]:
        """Class, parser and parsed arguments of `{class_path, init_args}`."""
        if isinstance(spec, str):
            spec = {"class_path": spec}
        if not isinstance(spec, dict):
            self.fail(key, f"expected class_path and init_args, got {_got(spec)}.")
        for name in spec:
            if name not in ("class_path", "init_args"):
                self.fail(f"{key}.{name}", f"unknown key '{name}'.{_hint(name, ('class_path', 'init_args'))}")
        if "class_path" not in spec:
            self.fail(key, "no class_path. The files of an overlay follow the recipe they change.")
        if not isinstance(spec["class_path"], str):
            self.fail(key, f"class_path: expected the name of a class, got {_got(spec['class_path'])}.")
        given = spec.get("init_args")
        if given is not None and not isinstance(given, dict):
            self.fail(f"{key}.init_args", f"expected a mapping, got {_got(given)}.")
        cls = self.import_class(f"{key}.class_path", spec["class_path"], base)
        return (cls, *self.arguments(f"{key}.init_args", cls, given or {}))

    def import_class(self, key: str, name: str, base: type | None) -> type:
        callbacks = {**catalog.COMPRESSIONS, **catalog.CALLBACKS}
        choices = {L.LightningModule: catalog.MODELS, L.LightningDataModule: catalog.DATA, Callback: callbacks}
        dotted = catalog.dotted_path(name)
        shipped = catalog.is_shipped(name)
        module_name, _, attribute = dotted.rpartition(".")
        if not module_name:
            options = choices.get(base, catalog.SHORT_NAMES) if base else catalog.SHORT_NAMES
            self.fail(key, f"no shipped class '{name}'.{did_you_mean(name, options)}")
        if not shipped and not self.trust:
            self.fail(key, f"'{name}' is not a shipped class; a recipe is code: imported only with --trust.")
        if not shipped and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # a script's path lacks the working folder, where users keep their classes
        try:
            found = getattr(importlib.import_module(module_name), attribute, None)
        except ModuleNotFoundError as error:
            if shipped and str(error.name).startswith("lightsleeper"):
                self.fail(key, f"'{name}' is not part of this installation (no module '{error.name}').", error)
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                self.fail(key, f"'{name}': no module '{error.name}'.", error)
            self.fail(key, f"'{name}' needs the package '{error.name}', which is not installed.", error)
        except Exception as error:  # a user's module runs any code
            reason = " ".join(str(error).split())
            self.fail(key, f"importing '{module_name}' failed: {type(error).__name__}: {reason}", error)
        if found is None:
            public = [entry for entry in vars(sys.modules[module_name]) if not entry.startswith("_")]
            self.fail(key, f"module '{module_name}' has no '{attribute}'.{_hint(attribute, public)}")
        if not isinstance(found, type):
            self.fail(key, f"'{name}' is not a class.")
        if base is not None and not issubclass(found, base):
            hint = " It subclasses pytorch_lightning's; import from lightning." if _foreign(found) else ""
            self.fail(key, f"'{name}' is no {base.__name__}.{hint}")
        return found

    # --- arguments ---

    def arguments(
        self, key: str, cls: type, given: Config, skip: frozenset[str] = frozenset()
    ) -> tuple[ArgumentParser, Namespace]:
        """Parse ``given`` against the constructor of ``cls``."""
        known = parameters(cls, skip)
        label = key if key in ("trainer", "run", "tracking") else cls.__name__
        for name, value in self.flat(key, given, known, label):
            parameter = known.get(name)
            if parameter is None:
                continue
            if value is None and not accepts_null(parameter.type):
                self.fail(f"{key}.{name}", f"expected {type_text(parameter.type)}, got null.")
            named = isinstance(value, str) and "." in value and not value.startswith("${requires.")  # that is a folder
            if not self.trust and named and imports(parameter.type):
                self.fail(f"{key}.{name}", f"'{value}' may name code: accepted only with --trust.")
        for name, parameter in known.items():
            if parameter.required and _dig(given, name) is None and not _has(given, name):
                self.fail(key.removesuffix(".init_args"), f"{label} needs '{name}' ({type_text(parameter.type)}).")
        values = {
            name: self.nested(f"{key}.{name}", value) if name in known and imports(known[name].type) else value
            for name, value in given.items()
        }
        parser = parser_of(cls, skip)
        try:
            return parser, parser.parse_object(values)
        except (ArgumentError, ValueError, TypeError) as error:
            self.blame(key, values, known, label, error)

    def flat(
        self, key: str, given: Mapping[str, Any], known: Collection[str], label: str, prefix: str = ""
    ) -> Iterator[tuple[str, Any]]:
        """(argument name, value), looking into dataclass arguments; refuses names the constructor does not have."""
        level = {name[len(prefix) :].split(".")[0] for name in known if name.startswith(prefix)}
        for name, value in given.items():
            if name not in level:
                self.fail(f"{key}.{prefix}{name}", f"{label} has no argument '{name}'.{_hint(str(name), level)}")
            if f"{prefix}{name}" not in known and isinstance(value, dict):
                yield from self.flat(key, value, known, label, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    def nested(self, key: str, value: Any) -> Any:
        """Classes inside arguments: checked like the outer ones, short names written out for jsonargparse."""
        if isinstance(value, list):
            return [self.nested(f"{key}.{index}", item) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if "class_path" not in value:
            return {name: self.nested(f"{key}.{name}", item) for name, item in value.items()}
        cls, parser, namespace = self.spec(key, value, None)
        return {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": as_plain(parser, namespace, short=False),
        }

    def blame(
        self, key: str, values: Config, known: Mapping[str, Parameter], label: str, error: BaseException
    ) -> NoReturn:
        """Turn jsonargparse's refusal into one line about the one value that does not fit."""
        for name, value in self.flat(key, values, known, label):
            if name in known and not fits(known[name].type, value):
                path, typehint, part = culprit(known[name].type, value, f"{key}.{name}")
                near = did_you_mean(part, literals(typehint)) if isinstance(part, str) else ""
                near = near if "Did you mean" in near else ""
                wanted = type_text(typehint)
                if near and len(wanted) > 80:  # seventeen precisions
                    self.fail(path, f"{_got(part)} is not valid.{near}", error)
                self.fail(path, f"expected {wanted}, got {_got(part)}.{near}", error)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        self.fail(key, f"{label}: {lines[-1] if lines else type(error).__name__}", error)


# --- values ---


def as_plain(parser: ArgumentParser, namespace: Namespace, short: bool = True) -> Config:
    """Parsed arguments as plain data; shipped classes by their short names, unless jsonargparse reads it next."""
    data = json.loads(parser.dump(namespace, format="json", skip_unset=False))
    return _shorten(data) if short else data


def _shorten(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: _shorten(item) for name, item in value.items()}
    if isinstance(value.get("class_path"), str):
        value["class_path"] = _short(value["class_path"])
    return value


def _short(path: str) -> str:
    """Short name of a shipped class, also when ``path`` names the module that defines it."""
    module, _, attribute = path.rpartition(".")
    cls = getattr(sys.modules.get(module), attribute, None)
    public, _, _ = catalog.SHORT_NAMES.get(attribute, "").rpartition(".")
    if cls is not None and getattr(sys.modules.get(public), attribute, None) is cls:
        return attribute
    return catalog.short_name(path)


def _dig(given: Any, name: str) -> Any:
    for part in name.split("."):
        given = given.get(part) if isinstance(given, dict) else None
    return given


def _has(given: Config, name: str) -> bool:
    head, _, last = name.rpartition(".")
    inner = _dig(given, head) if head else given
    return isinstance(inner, dict) and last in inner


def _foreign(cls: type) -> bool:
    return any(base.__module__.startswith("pytorch_lightning") for base in cls.__mro__)


def _got(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hint(name: str, options: Collection[str]) -> str:
    """The nearest name, or all of them while they fit in a line."""
    text = did_you_mean(str(name), options)
    return text if len(text) <= 200 else " `lightning explain` lists what is valid."
