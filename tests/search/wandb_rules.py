"""What W&B takes for a valid sweep file, said in our own words as a JSON schema, and its own schema where there is one.

W&B publishes its schema in the package `sweeps`, which needs an old numpy and is none of our dependencies. Where that
package lies on the path its schema is read and used instead; the rules below were checked against version 0.3.0.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema

EXAMPLES: dict[str, dict[str, Any]] = {
    "constant": {"value": 3},
    "categorical": {"values": [1, 2, 3]},
    "categorical_w_probabilities": {"values": ["a", "b"], "probabilities": [0.25, 0.75]},
    "int_uniform": {"min": 2, "max": 5},
    "uniform": {"min": 1.0, "max": 3.0},
    "q_uniform": {"min": 0.0, "max": 1.0, "q": 0.25},
    "log_uniform": {"min": -4, "max": 0},
    "log_uniform_values": {"min": 1e-4, "max": 1.0},
    "inv_log_uniform": {"min": 0, "max": 4},
    "inv_log_uniform_values": {"min": 1e-4, "max": 1.0},
    "q_log_uniform": {"min": 0, "max": 4, "q": 2},
    "q_log_uniform_values": {"min": 1, "max": 100, "q": 5},
    "normal": {"mu": 2.0, "sigma": 0.5},
    "q_normal": {"mu": 2.0, "sigma": 3.0, "q": 0.5},
    "log_normal": {"mu": 1.0, "sigma": 0.5},
    "q_log_normal": {"mu": 1.0, "sigma": 0.5, "q": 1},
    "beta": {"a": 2, "b": 5},
    "q_beta": {"a": 2, "b": 2, "q": 0.1},
}
"""One entry of each distribution."""

NUMBER = {"type": "number"}
POSITIVE = {"type": "number", "exclusiveMinimum": 0}
SHARE = {"type": "number", "minimum": 0}
FLOAT = {"type": "number", "format": "float"}
INT = {"type": "integer", "format": "integer"}


def _entry(name: str, needed: dict[str, Any], optional: dict[str, Any] | None = None, inferred: bool = False) -> Any:
    """One kind of parameter; ``inferred``: the distribution need not be named."""
    properties = {**needed, **(optional or {}), "distribution": {"const": name}}
    required = [*needed, *([] if inferred else ["distribution"])]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_LOG = {"min": NUMBER, "max": NUMBER}
_LIMITS = {"min": POSITIVE, "max": NUMBER}
_VALUES = {"type": "array", "minItems": 1}
_BELL = {"mu": NUMBER, "sigma": SHARE}
_BETA = {"a": SHARE, "b": SHARE}
_Q = {"q": POSITIVE}

PARAMETERS = [
    _entry("constant", {"value": {}}, inferred=True),
    _entry("categorical", {"values": _VALUES}, inferred=True),
    _entry(
        "categorical_w_probabilities",
        {"values": _VALUES, "probabilities": {"type": "array", "minItems": 1, "items": SHARE}},
        inferred=True,
    ),
    _entry("int_uniform", {"min": INT, "max": INT}, inferred=True),
    _entry("uniform", _LOG),
    _entry("uniform", {"min": FLOAT, "max": NUMBER}, inferred=True),
    _entry("uniform", {"min": NUMBER, "max": FLOAT}, inferred=True),
    _entry("q_uniform", _LOG, _Q),
    _entry("log_uniform", _LOG),
    _entry("inv_log_uniform", _LOG),
    _entry("q_log_uniform", _LOG, _Q),
    _entry("log_uniform_values", _LIMITS),
    _entry("inv_log_uniform_values", _LIMITS),
    _entry("q_log_uniform_values", _LIMITS, _Q),
    _entry("normal", {}, _BELL),
    _entry("log_normal", {}, _BELL),
    _entry("q_normal", {}, {**_BELL, **_Q}),
    _entry("q_log_normal", {}, {**_BELL, **_Q}),
    _entry("beta", {}, _BETA),
    _entry("q_beta", {}, {**_BETA, **_Q}),
]
_TEXT = {"type": "string"}
_IMPUTE = ["latest", "best", "worst"]
METRIC = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": _TEXT,
        "goal": {"enum": ["minimize", "maximize"]},
        "target": NUMBER,
        "impute": {"enum": _IMPUTE},
        "impute_while_running": {"enum": [*_IMPUTE, "false"]},
    },
}
HYPERBAND = {
    "type": "object",
    "required": ["type"],
    "anyOf": [{"required": ["max_iter", "s"]}, {"required": ["min_iter"]}],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "hyperband"},
        "max_iter": {"type": "integer"},
        "min_iter": {"type": "integer", "minimum": 1},
        "s": NUMBER,
        "eta": {"type": "number", "exclusiveMinimum": 1},
        "strict": {"type": "boolean"},
    },
}
RULES: dict[str, Any] = {
    "type": "object",
    "required": ["method", "parameters"],
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("apiVersion", "description", "program", "entity", "project", "name"), _TEXT),
        "kind": {"const": "sweep"},
        "controller": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["local", "cloud"]}},
        },
        "method": {"enum": ["bayes", "random", "grid", "custom"]},
        "command": {"type": "array"},
        "run_cap": {"type": "integer", "exclusiveMinimum": 0},
        "metric": METRIC,
        "early_terminate": HYPERBAND,
        "parameters": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"},
            "additionalProperties": {"anyOf": PARAMETERS},
        },
    },
}


def published() -> dict[str, Any] | None:
    """W&B's own schema, read from the package `sweeps` without importing it; None where that is not installed."""
    found = importlib.util.find_spec("sweeps")
    folders = found.submodule_search_locations if found is not None else None
    files = [Path(folder) / "config" / "schema.json" for folder in folders or []]
    return next((json.loads(file.read_text()) for file in files if file.is_file()), None)


_formats = jsonschema.FormatChecker()
_formats.checks("float")(lambda value: isinstance(value, float))
_formats.checks("integer")(lambda value: isinstance(value, int))


def violations(content: Any, schema: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with a sweep file by the schema, and by the two comparisons a schema cannot make."""
    schema = schema or published() or RULES
    messages = [
        error.message for error in jsonschema.Draft7Validator(schema, format_checker=_formats).iter_errors(content)
    ]
    for name, entry in content.get("parameters", {}).items() if isinstance(content, dict) else ():
        if isinstance(entry, dict):
            ends = entry.get("min"), entry.get("max")
            if all(isinstance(end, (int, float)) for end in ends) and ends[0] >= ends[1]:
                messages.append(f"{name}: min {ends[0]} is not less than max {ends[1]}")
            weights = entry.get("probabilities")
            if (
                not messages
                and weights is not None
                and (len(weights) != len(entry["values"]) or abs(sum(weights) - 1) > 1e-5)
            ):
                messages.append(f"{name}: probabilities {weights}")
    return messages
