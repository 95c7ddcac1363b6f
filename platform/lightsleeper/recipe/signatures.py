"""What the constructor of a class accepts: names, types, defaults and texts, as jsonargparse reads them.

jsonargparse follows `**kwargs` into parent classes and takes texts from docstrings and from the lines under dataclass
fields, so `explain`, `schema` and the checks of a recipe all speak of the same arguments.
"""

import collections.abc
import datetime
import enum
import inspect
import types
from argparse import ArgumentError
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, set_parsing_settings

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_PLAIN: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    type(None): "null",
    dict: "object",
    list: "array",
    Path: "string",
    datetime.timedelta: "string",
}
LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@dataclass(frozen=True)
class Parameter:
    """One constructor argument."""

    name: str
    """Dotted where the argument is a dataclass: `front_end.mels`."""
    type: Any
    default: Any
    required: bool
    text: str
    """Documentation of the argument; empty when it has none."""


@cache
def parser_of(cls: type, skip: frozenset[str] = frozenset()) -> ArgumentParser:
    """A parser whose keys are the constructor arguments of ``cls`` but ``skip``."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip=set(skip), fail_untyped=False)
    return parser


@cache
def parameters(cls: type, skip: frozenset[str] = frozenset()) -> dict[str, Parameter]:
    """Constructor arguments of ``cls`` by name, in the order of the signature."""
    parser = parser_of(cls, skip)
    found: dict[str, Parameter] = {}
    for action in parser._actions:
        if type(action).__name__.startswith(("_Help", "_ActionHelp", "_ActionConfig")):  # jsonargparse's own options
            continue
        text = action.help if isinstance(action.help, str) and "==" not in action.help else ""
        text = " ".join(text.replace("``", "`").split())
        typehint = getattr(action, "_typehint", None) or Any
        found[action.dest] = Parameter(action.dest, typehint, action.default, action.required, text)
    return found


def summary(cls: type) -> str:
    """First line of the docstring of ``cls``."""
    line = (inspect.getdoc(cls) or "").partition("\n")[0]
    return "" if line.startswith("..") else line  # a Sphinx directive says nothing about the class


def accepts_null(typehint: Any) -> bool:
    """Whether None is a value of the type."""
    if typehint in (Any, object, None, type(None)):
        return True
    return is_union(typehint) and any(accepts_null(part) for part in get_args(typehint))


def is_union(typehint: Any) -> bool:
    """Whether the type is `A | B` in either spelling."""
    return get_origin(typehint) in (Union, types.UnionType)


def imports(typehint: Any) -> bool:
    """Whether a text given for this type may be taken as a dotted path and imported."""
    origin = get_origin(typehint)
    if origin is Literal or typehint in (Any, None):
        return False
    if origin is collections.abc.Callable or typehint is collections.abc.Callable or origin is type:
        return True
    if origin is not None:
        return any(imports(part) for part in get_args(typehint) if part is not Ellipsis)
    return isinstance(typehint, type) and typehint not in _PLAIN and not issubclass(typehint, enum.Enum)


def type_text(typehint: Any) -> str:
    """A type as a person writes it: `int or null`, `'max' or 'min'`, `list of int`."""
    origin, args = get_origin(typehint), get_args(typehint)
    if typehint is None or typehint is type(None):
        return "null"
    if typehint is Any:
        return "anything"
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if is_union(typehint):
        return " or ".join(dict.fromkeys(type_text(arg) for arg in args))
    if origin in LISTS and args:
        inner = [type_text(arg) for arg in args if arg is not Ellipsis]
        if origin is tuple and Ellipsis not in args:
            return f"list of {len(args)} values ({', '.join(inner)})"
        return f"list of {inner[0]}" if " or " not in inner[0] else f"list of ({inner[0]})"
    if origin in MAPPINGS and len(args) == 2:
        return f"mapping of {type_text(args[0])} to {type_text(args[1])}"
    return getattr(typehint, "__name__", str(typehint))


def type_schema(typehint: Any) -> dict[str, Any]:
    """The JSON schema of a type; types that JSON cannot tell apart accept anything."""
    origin, args = get_origin(typehint), get_args(typehint)
    if typehint is None:
        return {"type": "null"}
    if isinstance(typehint, collections.abc.Hashable) and typehint in _PLAIN:
        return {"type": _PLAIN[typehint]}
    if origin is Literal:
        return {"enum": list(args)}
    if is_union(typehint):
        parts = [type_schema(arg) for arg in args]
        return {} if {} in parts else {"anyOf": parts}
    if origin in LISTS and args:
        inner = [type_schema(arg) for arg in args if arg is not Ellipsis]
        if origin is tuple and Ellipsis not in args:
            return {"type": "array", "prefixItems": inner, "minItems": len(inner), "maxItems": len(inner)}
        return {"type": "array", "items": inner[0]}
    if origin in MAPPINGS and len(args) == 2:
        return {"type": "object", "additionalProperties": type_schema(args[1])}
    if isinstance(typehint, type) and issubclass(typehint, enum.Enum):
        return {"enum": [member.name for member in typehint]}
    return {}


def fits(typehint: Any, value: Any) -> bool:
    """Whether jsonargparse takes ``value`` for the type."""
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=typehint)
        parser.parse_object({"value": value})
    except (ArgumentError, ValueError, TypeError):
        return False
    return True


def culprit(typehint: Any, value: Any, path: str) -> tuple[str, Any, Any]:
    """The innermost part of ``value`` that does not fit: its path, the type expected there, and itself."""
    options = [part for part in get_args(typehint) if part is not type(None)] if is_union(typehint) else [typehint]
    inner, args = options[0], get_args(options[0])
    items: list[tuple[Any, Any]] = []
    if len(options) == 1 and args:
        if get_origin(inner) in LISTS and isinstance(value, list) and (len(args) == 1 or Ellipsis in args):
            items = [(args[0], pair) for pair in enumerate(value)]
        elif get_origin(inner) in MAPPINGS and isinstance(value, dict):
            items = [(args[1], pair) for pair in value.items()]
    for item_type, (name, item) in items:
        if not fits(item_type, item):
            return culprit(item_type, item, f"{path}.{name}")
    return path, typehint, value


def literals(typehint: Any) -> list[str]:
    """Every text that the type lists as a literal."""
    return [arg for part in (get_args(typehint) or ()) for arg in ([part] if isinstance(part, str) else literals(part))]
