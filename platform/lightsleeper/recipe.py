"""Recipes as plain data: find the file, merge overlays and overrides, hash. YAML only, no torch.

One recipe file plus any number of overlays become one dictionary before any class is looked up, because a second
config file would replace a whole `callbacks` mapping in jsonargparse. Every key remembers the file and line it came
from (`Recipe.where`), so that later errors can name the place.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightsleeper.catalog import SECTIONS, dotted_path
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.yaml_io import dump, parse, parse_value, shown

Config = dict[str, Any]

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
REQUIRE_KEYS = ("recipe", "set")

_NAMED = ("callbacks", "requires")  # sections whose entries are switched off by null
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
        parts = _plain(key).split(".")
        while parts:
            if ".".join(parts) in self.positions:
                return self.positions[".".join(parts)]
            parts.pop()
        return ", ".join(shown(file) for file in self.files) or "the recipe"


# --- files ---


def recipe_folders() -> list[Path]:
    """Folders that hold shipped recipes: inside the wheel, or the checkout that an editable install points to."""
    package = Path(__file__).resolve().parent
    folders = [package / "_shipped" / "recipes"]
    checkout = package.parents[1]
    if (checkout / "pyproject.toml").is_file():
        folders.append(checkout / "recipes")
    return [folder for folder in folders if folder.is_dir()]


def shipped() -> dict[str, Path]:
    """Shipped recipes and overlays by name (`kws_dsp`, `overlays/libriphrase`), sorted."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for file in sorted(folder.rglob("*.yaml")):
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    return dict(sorted(found.items(), key=lambda item: ("/" in item[0], item[0])))


def find(name: str | Path, beside: Path | None = None) -> Path:
    """The file of a recipe given as path, as run folder, or as shipped name; ``beside`` is a folder looked into first.

    Raises UserError with the nearest known name.
    """
    text = str(name)
    bare = re.sub(r"\.ya?ml$", "", text)
    candidates = [Path(text), Path(text) / "recipe.yaml"]
    if beside is not None:
        candidates = [beside / f"{bare}.yaml", *candidates]
    if bare == text:
        candidates.append(Path(f"{text}.yaml"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = shipped()
    for key in (bare, bare.removeprefix("recipes/")):
        if key in known:
            return known[key]
    if Path(text).is_dir():
        raise UserError(f"'{text}' is a folder without recipe.yaml; expected a recipe file or a run folder.")
    hint = did_you_mean(bare.removeprefix("recipes/"), known)
    if "Valid:" in hint:  # a bare file name of an overlay is near to its full name
        short = {key.rsplit("/", 1)[-1]: key for key in known}
        close = did_you_mean(Path(bare).name, short)
        for stem, key in short.items():
            if close == f" Did you mean '{stem}'?":
                hint = f" Did you mean '{key}'?"
    raise UserError(f"no recipe '{text}'.{hint}")


def header(file: Path) -> str:
    """First comment line of a recipe without the hash; empty when it has none."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and line.strip("# "):
            return line.lstrip("#").strip()
        if line.strip("# "):
            break
    return ""


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
        positions.update({_plain(key): place for key, place in reversed(places.items())})  # the outer key wins
        merge(config, _normalise(part, places))
    for text in overrides:
        override(config, text, positions)
    _check_references(config, positions)
    return Recipe(_name(paths[0]), config, tuple(paths), positions)


def _name(path: Path) -> str:
    # a run's own recipe.yaml keeps the name of the recipe it came from: runs/<recipe>/<run id>/recipe.yaml
    if path.name == "recipe.yaml" and (path.parent / "record.json").exists():
        return path.resolve().parent.parent.name
    return path.stem


def _check_sections(part: Config, places: Mapping[str, str]) -> None:
    for key in part:
        if key not in SECTIONS:
            raise UserError(f"{places.get(str(key), '')}: unknown section '{key}'.{did_you_mean(str(key), SECTIONS)}")


def _normalise(part: Config, places: Mapping[str, str]) -> Config:
    """Write short forms out: a class as string, a requirement as string."""
    part = copy.deepcopy(part)
    for section in ("model", "data"):
        if isinstance(part.get(section), str):
            part[section] = {"class_path": part[section]}
    for section, key in (("callbacks", "class_path"), ("requires", "recipe")):
        entries = part.get(section)
        if entries is None:
            continue
        if not isinstance(entries, dict):
            raise UserError(
                f"{places.get(section, 'command line')}: {section}: expected a mapping of names, got {_kind(entries)}."
            )
        part[section] = {name: {key: entry} if isinstance(entry, str) else entry for name, entry in entries.items()}
    for name, entry in (part.get("requires") or {}).items():
        place = places.get(f"requires.{name}", "command line")
        if entry is None:
            continue
        if not isinstance(entry, dict):
            raise UserError(f"{place}: requires.{name}: expected a recipe name or {{recipe, set}}, got {_kind(entry)}.")
        for key in entry:
            if key not in REQUIRE_KEYS:
                raise UserError(f"{place}: requires.{name}: unknown key '{key}'.{did_you_mean(str(key), REQUIRE_KEYS)}")
    return part


# --- merge ---


def merge(base: Config, overlay: Mapping[str, Any], path: tuple[str, ...] = ()) -> Config:
    """Merge ``overlay`` into ``base`` in place and return it.

    Mappings merge by key, lists and plain values replace. Null switches a mapping off (a callback, a requirement, a
    section) and otherwise is a value: `past_frames: null` means unlimited, not "the default". A changed class_path
    (or required recipe) drops the arguments of the old one. Where the base names a class, loose keys are its
    arguments: `prune: {sparsity: 0.9}`.
    """
    for key, value in overlay.items():
        old = base.get(key)
        if value is None and (not path or path == ("callbacks",) or path == ("requires",) or isinstance(old, dict)):
            base.pop(key, None)
        elif isinstance(value, Mapping):
            value = dict(value)
            if not isinstance(old, dict) or _other_class(old, value):
                base[key] = merge({}, value, (*path, key))
            else:
                base[key] = merge(old, _as_arguments(old, value), (*path, key))
        else:
            base[key] = copy.deepcopy(value)
    return base


def _other_class(old: Config, new: Config) -> bool:
    if "class_path" in old and isinstance(new.get("class_path"), str):
        return dotted_path(new["class_path"]) != dotted_path(str(old["class_path"]))
    if "recipe" in old and "recipe" in new and set(old) <= set(REQUIRE_KEYS):
        return bool(new["recipe"] != old["recipe"])
    return False


def _as_arguments(old: Config, new: Config) -> Config:
    """Move loose keys of ``new`` into init_args when ``old`` names a class."""
    loose = {key: value for key, value in new.items() if key not in CLASS_KEYS}
    if "class_path" not in old or not loose:
        return new
    kept = {key: value for key, value in new.items() if key in CLASS_KEYS}
    kept["init_args"] = {**(kept.get("init_args") or {}), **loose}
    return kept


def override(config: Config, text: str, positions: dict[str, str] | None = None) -> None:
    """Apply one `--a.b=value` to ``config`` in place; the value is YAML.

    Raises UserError for a malformed override, a path through something that is no mapping, an unknown section or a
    callback the recipe does not have.
    """
    key, equals, raw = text.lstrip("-").partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(f"override '{text}': expected --section.key=value.")
    if parts[0] not in SECTIONS:
        raise UserError(f"override '{text}': unknown section '{parts[0]}'.{did_you_mean(parts[0], SECTIONS)}")
    value = parse_value(raw, text)
    _check_named(config, parts, value, text)
    nested: Any = value
    for part in reversed(parts):
        nested = {part: nested}
    for depth in range(1, len(parts)):
        node: Any = config
        for part in parts[:depth]:
            node = _step(node, part)
        if node is not None and not isinstance(node, dict):
            raise UserError(f"override '{text}': {'.'.join(parts[:depth])} is {_kind(node)}, not a mapping.")
    merge(config, _normalise(nested, {}))
    if positions is not None:
        positions[_plain(key)] = "command line"


def _step(node: Any, part: str) -> Any:
    """Child of a mapping, looking through init_args where the mapping names a class; None when absent."""
    if not isinstance(node, dict):
        return None
    if "class_path" in node and part not in CLASS_KEYS:
        node = node.get("init_args") or {}
    return node.get(part)


def _check_named(config: Config, parts: list[str], value: Any, text: str) -> None:
    if len(parts) < 2 or parts[0] not in _NAMED or parts[1] in (config.get(parts[0]) or {}):
        return
    fresh = {"class_path", "recipe"}
    creates = parts[2:3] and parts[2] in fresh or len(parts) == 2 and (isinstance(value, (str, dict)))
    if not creates:
        known = config.get(parts[0]) or {}
        have = did_you_mean(parts[1], known) if known else " It has none."
        raise UserError(f"override '{text}': the recipe has no {parts[0]}.{parts[1]}.{have}")


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
        beside = next((file.parent for file in recipe.files if file.name != "recipe.yaml"), None)
        try:
            step = load([entry["recipe"]], beside=beside)
        except UserError as error:
            raise UserError(f"{place}: requires.{name}: {error}") from error
        if step.name in trail:
            raise UserError(f"{place}: requires.{name}: circle {' -> '.join((*trail, step.name))}.")
        extra = _normalise(entry.get("set") or {}, {})
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


def _plain(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != "init_args")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"{value!r}"


__all__ = [
    "SECTIONS",
    "Config",
    "Recipe",
    "config_hash",
    "dump",
    "find",
    "group_hash",
    "header",
    "load",
    "merge",
    "override",
    "required",
    "shipped",
    "substitute",
]
