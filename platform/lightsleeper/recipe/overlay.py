"""Merging of recipe files and command-line overrides, on plain dictionaries.

jsonargparse would replace a whole `callbacks` mapping by that of a second file; here an overlay that names one callback
keeps the others.
"""

import copy
from collections.abc import Mapping
from typing import Any

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.recipe.catalog import dotted_path
from lightsleeper.recipe.yaml_io import parse_value

Config = dict[str, Any]

SECTIONS = ("seed_everything", "requires", "model", "data", "callbacks", "trainer", "run", "tracking")
CLASS_KEYS = ("class_path", "init_args")
REQUIRE_KEYS = ("recipe", "set")
NAMED = ("callbacks", "requires")  # sections whose entries are switched off by null


def normalise(part: Config, places: Mapping[str, str]) -> Config:
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
    merge(config, normalise(nested, {}))
    if positions is not None:
        positions[plain(key)] = "command line"


def _step(node: Any, part: str) -> Any:
    """Child of a mapping, looking through init_args where the mapping names a class; None when absent."""
    if not isinstance(node, dict):
        return None
    if "class_path" in node and part not in CLASS_KEYS:
        node = node.get("init_args") or {}
    return node.get(part)


def _check_named(config: Config, parts: list[str], value: Any, text: str) -> None:
    if len(parts) < 2 or parts[0] not in NAMED or parts[1] in (config.get(parts[0]) or {}):
        return
    fresh = {"class_path", "recipe"}
    creates = parts[2:3] and parts[2] in fresh or len(parts) == 2 and (isinstance(value, (str, dict)))
    if not creates:
        known = config.get(parts[0]) or {}
        have = did_you_mean(parts[1], known) if known else " It has none."
        raise UserError(f"override '{text}': the recipe has no {parts[0]}.{parts[1]}.{have}")


def plain(key: str) -> str:
    """A dotted key without its `init_args`, as people write it."""
    return ".".join(part for part in key.split(".") if part != "init_args")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else f"{value!r}"
