"""`lightning schema`: the JSON schema of recipes and overlays, generated from the signatures of all shipped classes."""

import argparse
import json
from pathlib import Path
from typing import Any

HELP = (
    "Print the JSON schema of recipes. Editors with the YAML language server use it by a first line "
    "`# yaml-language-server: $schema=FILE`."
)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of the terminal")


def main(args: argparse.Namespace) -> int:
    if args.output is None:
        print(json.dumps(recipe_schema(), indent=2))
        return 0
    from lightsleeper.files import write_json

    write_json(args.output, recipe_schema(), indent=2)
    print(f"schema written to {args.output}")
    return 0


def recipe_schema() -> dict[str, Any]:
    """Schema of a recipe or overlay: no section is required, unknown ones are refused."""
    import lightning as L

    from lightsleeper.cli.explain import SECTION_TEXTS
    from lightsleeper.recipe import catalog
    from lightsleeper.recipe.config import RunConfig, TrackingConfig
    from lightsleeper.recipe.reader import SEED_LIMIT, TRAINER_SKIP

    properties: dict[str, Any] = {
        "seed_everything": {"type": "integer", "minimum": 0, "maximum": SEED_LIMIT - 1},
        "requires": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/requirement"}},
        "model": {"$ref": "#/$defs/model"},
        "data": {"$ref": "#/$defs/data"},
        "callbacks": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/callback"}},
        "trainer": _arguments(L.Trainer, TRAINER_SKIP),
        "run": _arguments(RunConfig),
        "tracking": _arguments(TrackingConfig),
    }
    for section, text in SECTION_TEXTS.items():
        properties[section]["description"] = text
    requirement = {
        "type": ["string", "object", "null"],
        "properties": {"recipe": {"type": "string"}, "set": {"$ref": "#"}},
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "lightsleeper recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {
            "requirement": requirement,
            "model": _choice(catalog.MODELS),
            "data": _choice(catalog.DATA),
            "callback": _choice({**catalog.COMPRESSIONS, **catalog.CALLBACKS}),
        },
    }


def _choice(classes: dict[str, str]) -> dict[str, Any]:
    """Either a shipped class with its own arguments, a dotted path, or, in an overlay, arguments without a class."""
    return {
        "type": ["object", "string", "null"],
        "properties": {
            "class_path": {"anyOf": [{"enum": list(classes)}, {"type": "string", "pattern": r"\."}]},
            "init_args": {"type": ["object", "null"]},
        },
        "allOf": [
            {
                "if": {"type": "object", "properties": {"class_path": {"const": name}}, "required": ["class_path"]},
                "then": {"properties": {"init_args": arguments}},
            }
            for name in classes
            if (arguments := _class_arguments(name)) is not None
        ]
        + [
            {
                "if": {"type": "object", "required": ["class_path"]},
                "then": {"propertyNames": {"enum": ["class_path", "init_args"]}},
            }
        ],
    }


def _class_arguments(name: str) -> dict[str, Any] | None:
    from lightsleeper.errors import UserError
    from lightsleeper.recipe.parsing import find_class

    try:
        return _arguments(find_class(name))
    except UserError:  # its optional package is missing here: the name stays valid, the arguments unchecked
        return None


def _arguments(cls: type, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    from lightsleeper.recipe.signatures import parameters, summary, type_schema

    schema: dict[str, Any] = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
    if summary(cls):
        schema["description"] = summary(cls)
    for name, parameter in parameters(cls, skip).items():
        *groups, last = name.split(".")
        level = schema
        for group in groups:
            level = level["properties"].setdefault(
                group, {"type": "object", "properties": {}, "additionalProperties": False}
            )
        entry = type_schema(parameter.type)
        if parameter.text:
            entry["description"] = parameter.text
        if not parameter.required and _is_json(parameter.default):
            entry["default"] = parameter.default
        level["properties"][last] = entry
    return schema


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
