"""Recipes as plain data: load, require, hash.

One recipe file plus any number of overlays become one dictionary before any class is looked up, because a second
config file would replace a whole `callbacks` mapping in jsonargparse. Every key remembers the file and line it came
from (`Recipe.where`), so that later errors can name the place.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.recipe.lookup import find
from lightsleeper.recipe.overlay import SECTIONS, Config, merge, normalise, override, plain
from lightsleeper.recipe.yaml_io import parse, shown
from lightsleeper.run_folder import RECIPE, RECORD

_REFERENCE = re.compile(r"\$\{requires\.([^}]*)\}")


@dataclass(frozen=True)
class Recipe:
    """One merged recipe."""

    name: str
    """Stem of the first file; names the folder under `runs/`."""
    config: Config
    """Merged sections, `requires` normalised to `{name: {recipe, set}}`, nothing resolved yet."""
    files: tuple[Path, ...]
    """Base file and overlays, in merge order."""
    positions: dict[str, str] = field(default_factory=dict, repr=False)
    """Dotted key without its `init_args` -> `file:line` or `command line`."""
    trail: tuple[str, ...] = ()
    """Names of the recipes that required this one, outermost first."""

    def where(self, key: str) -> str:
        """The place of ``key`` or of its nearest parent as `file:line`; the file names when nothing nearer is known."""
        parts = plain(key).split(".")
        while parts:
            if ".".join(parts) in self.positions:
                return self.positions[".".join(parts)]
            parts.pop()
        return ", ".join(shown(file) for file in self.files) or "the recipe"


def load(files: Sequence[str | Path], overrides: Sequence[str] = (), beside: Path | None = None) -> Recipe:
    """Merge ``files`` left to right, then apply ``overrides`` such as `--model.dim=96`.

    Raises UserError for a missing file, bad YAML, a duplicate key, an unknown section or an impossible override.
    """
    if not files:
        raise UserError("no recipe given; `lightning recipes` lists them.")
    config: Config = {}
    positions: dict[str, str] = {}
    paths = [find(file, beside) for file in files]
    for path in paths:
        part, places = parse(path)
        _check_sections(part, places)
        positions.update({plain(key): place for key, place in reversed(places.items())})  # the outer key wins
        merge(config, normalise(part, places))
    for text in overrides:
        override(config, text, positions)
    _check_references(config, positions)
    return Recipe(_name(paths[0]), config, tuple(paths), positions)


def _name(path: Path) -> str:
    # a run's own recipe.yaml keeps the name of the recipe it came from: runs/<recipe>/<run id>/recipe.yaml
    if path.name == RECIPE and (path.parent / RECORD).exists():
        return path.resolve().parent.parent.name
    return path.stem


def _check_sections(part: Config, places: Mapping[str, str]) -> None:
    if "method" in part and "parameters" in part:
        raise UserError(f"{places['method']}: this is a sweep; `lightning sweep` runs it.")
    for key in part:
        if key not in SECTIONS:
            raise UserError(f"{places.get(str(key), '')}: unknown section '{key}'.{did_you_mean(str(key), SECTIONS)}")


# --- requirements ---


def required(recipe: Recipe) -> dict[str, Recipe]:
    """The recipes this one requires, by the name it uses, with their `set` merged on top.

    A name is looked for beside the requiring file first, then among the shipped ones. Raises UserError for a missing
    recipe and for a circle.
    """
    steps: dict[str, Recipe] = {}
    trail = (*recipe.trail, recipe.name)
    for name, entry in (recipe.config.get("requires") or {}).items():
        place = recipe.where(f"requires.{name}")
        if not isinstance(entry.get("recipe"), str):
            raise UserError(f"{place}: requires.{name}: no recipe named.")
        beside = next((file.parent for file in recipe.files if file.name != RECIPE), None)
        try:
            step = load([entry["recipe"]], beside=beside)
        except UserError as error:
            raise UserError(f"{place}: requires.{name}: {error}") from error
        if step.name in trail:
            raise UserError(f"{place}: requires.{name}: circle {' -> '.join((*trail, step.name))}.")
        extra = normalise(entry.get("set") or {}, {})
        for key in extra:
            if key not in SECTIONS:
                raise UserError(f"{place}: requires.{name}.set: unknown section '{key}'.{did_you_mean(key, SECTIONS)}")
        places = {**step.positions, **_below(recipe.positions, f"requires.{name}.set.")}
        # the recipe saved with a run sets every section: merging it would bring back a callback switched off since
        config = extra if set(SECTIONS) <= extra.keys() else merge(step.config, extra)
        steps[name] = Recipe(step.name, config, step.files, places, trail)
    return steps


def _below(positions: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): place for key, place in positions.items() if key.startswith(prefix)}


def substitute(config: Any, runs: Mapping[str, str | Path]) -> Any:
    """A copy of ``config`` in which every `${requires.<name>}` is the run folder of that step."""
    if isinstance(config, dict):
        return {key: substitute(value, runs) for key, value in config.items()}
    if isinstance(config, list):
        return [substitute(value, runs) for value in config]
    if not isinstance(config, str):
        return config

    def folder(match: re.Match[str]) -> str:
        if match[1] not in runs:
            raise UserError(f"'{config}': no step '{match[1]}' under requires.{did_you_mean(match[1], runs)}")
        return str(runs[match[1]])

    return _REFERENCE.sub(folder, config)


def references(config: Any) -> Iterable[tuple[str, str]]:
    """(dotted key, required name) of every `${requires.<name>}` in ``config``."""
    children = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in children:
        if isinstance(value, str):
            yield from ((str(key), name) for name in _REFERENCE.findall(value))
        for inner, name in references(value):
            yield f"{key}.{inner}", name


def _check_references(config: Config, positions: dict[str, str]) -> None:
    known = config.get("requires") or {}
    for key, name in references(config):
        if name not in known:
            place = Recipe("", config, (), positions).where(key)
            hint = did_you_mean(name, known) or " The recipe has no `requires`."
            raise UserError(f"{place}: {key}: no step '{name}' under requires.{hint}")


# --- identity ---


def config_hash(config: Mapping[str, Any], without: Iterable[str] = ("tracking", "run")) -> str:
    """16 hex digits over the sections that decide the weights; the order of keys does not matter."""
    skipped = set(without)
    kept = {key: value for key, value in config.items() if key not in skipped}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def group_hash(config: Mapping[str, Any]) -> str:
    """Equal for runs that differ in their seed only."""
    return config_hash(config, without=("tracking", "run", "seed_everything"))
