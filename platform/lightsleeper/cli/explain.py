"""`lightning explain`: what the keys of a recipe mean, with type, default and the value the recipe gives."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError, did_you_mean

HELP = "Say what a key of a recipe means: its type, default, value and text. Without KEY, list them all."

SECTION_TEXTS = {
    "seed_everything": "Seed of every random number generator; runs that differ only in it form a group.",
    "requires": "Earlier steps: name -> recipe, or {recipe, set}. A finished run of the same recipe is used again "
    "if it still has the formats asked for; ${requires.NAME} stands for its folder.",
    "model": "The model family: class_path and init_args.",
    "data": "The data module: class_path and init_args.",
    "callbacks": "Named callbacks, each class_path and init_args; null switches one off.",
    "trainer": "Arguments of Lightning's Trainer.",
    "run": "What the run does.",
    "tracking": "Where Weights & Biases files the run.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [-h] [--debug] [--trust] RECIPE [OVERLAY ...] [KEY]"
    parser.add_argument(
        "words", nargs="+", metavar="RECIPE, KEY", help="recipe, overlays, then a key such as model.dim"
    )
    parser.add_argument("--trust", action="store_true", help="import classes that lightsleeper does not ship")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.recipe import load, plain
    from lightsleeper.recipe.parsing import resolve

    files, key = split_key(args.words)
    recipe = load([Path(file) for file in files], args.overrides)
    resolved = resolve(recipe, args.trust)
    entries = collect(resolved)
    wanted = [name for name in entries if key is None or plain(name) == plain(key)]
    below = [name for name in entries if key is not None and plain(name).startswith(f"{plain(key)}.")]
    if key is not None and not wanted and not below:
        raise UserError(f"no key '{key}' in this recipe.{did_you_mean(plain(key), map(plain, entries))[:200]}")
    for name in [*wanted, *below]:
        if key is None:
            print(entries[name].line(name))
        elif below:
            print(entries[name].brief(name))
        else:
            place = recipe.where(name) if plain(name) in recipe.positions else "default"
            print(entries[name].full(name, place))
    return 0


def split_key(words: list[str]) -> tuple[list[str], str | None]:
    """The last word is a key unless it names a file or a shipped recipe."""
    from lightsleeper.recipe import shipped

    last = words[-1]
    named = last.endswith((".yaml", ".yml")) or Path(last).exists() or last in shipped()
    if len(words) == 1 or (named and last.partition(".")[0] not in SECTION_TEXTS):
        return words, None
    return words[:-1], last


class Entry:
    """One key: its type, default, value and text."""

    def __init__(self, kind: str, value: Any, text: str, default: Any = None, required: bool = False) -> None:
        self.kind, self.value, self.text, self.default, self.required = kind, value, text, default, required

    def line(self, name: str) -> str:
        value = f" = {_show(self.value)}" if self.value is not _NO_VALUE else ""
        return f"{name}{value}  ({self.kind})"

    def brief(self, name: str) -> str:
        text = f"\n    {textwrap.shorten(self.text, 110, placeholder=' ...')}" if self.text else ""
        return self.line(name) + text

    def full(self, name: str, place: str) -> str:
        lines = [name, f"  type     {self.kind}"]
        if self.value is not _NO_VALUE:
            default = "none: must be given" if self.required else _show(self.default)
            lines += [f"  default  {default}", f"  value    {_show(self.value)}  ({place})"]
        return "\n".join([*lines, *textwrap.wrap(self.text, 110, initial_indent="  ", subsequent_indent="  ")])


_NO_VALUE: Any = object()


def collect(resolved: dict[str, Any]) -> dict[str, Entry]:
    """Every key of a resolved recipe, by dotted name."""
    import lightning as L

    from lightsleeper.recipe.config import RunConfig, TrackingConfig
    from lightsleeper.recipe.reader import TRAINER_SKIP

    entries: dict[str, Entry] = {
        "seed_everything": Entry("int", resolved["seed_everything"], SECTION_TEXTS["seed_everything"], 0),
        "requires": Entry("mapping", resolved["requires"], SECTION_TEXTS["requires"], {}),
    }
    for section in ("model", "data"):
        _add_class(entries, section, resolved[section], SECTION_TEXTS[section])
    entries["callbacks"] = Entry("mapping", _NO_VALUE, SECTION_TEXTS["callbacks"])
    for name, spec in resolved["callbacks"].items():
        _add_class(entries, f"callbacks.{name}", spec, "")
    for section, cls in (("trainer", L.Trainer), ("run", RunConfig), ("tracking", TrackingConfig)):
        entries[section] = Entry("mapping", _NO_VALUE, SECTION_TEXTS[section])
        _add_arguments(entries, section, cls, resolved[section], TRAINER_SKIP if cls is L.Trainer else frozenset())
    return entries


def _add_class(entries: dict[str, Entry], key: str, spec: dict[str, Any], text: str) -> None:
    from lightsleeper.recipe.parsing import find_class
    from lightsleeper.recipe.signatures import summary

    cls = find_class(spec["class_path"])
    entries[key] = Entry(f"class {spec['class_path']}", _NO_VALUE, summary(cls) or text)
    _add_arguments(entries, f"{key}.init_args", cls, spec["init_args"], frozenset())


def _add_arguments(
    entries: dict[str, Entry], key: str, cls: type, values: dict[str, Any], skip: frozenset[str]
) -> None:
    from lightsleeper.recipe.signatures import parameters, type_text

    for name, parameter in parameters(cls, skip).items():
        value: Any = values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        entries[f"{key}.{name}"] = Entry(
            type_text(parameter.type), value, parameter.text, parameter.default, parameter.required
        )


def _show(value: Any) -> str:
    return "null" if value is None else json.dumps(value, default=str, ensure_ascii=False)
