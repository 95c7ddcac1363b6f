"""Reading and writing recipe YAML: duplicate keys refused, every key's place kept, YAML 1.2 plain values.

PyYAML follows YAML 1.1, where `no` is false, `1:30` is 90 and `1e-3` is text. `yes`, `no`, `on` and `off` are keywords
people spot, and learning rates are written 1e-3, so plain values are resolved by the YAML 1.2 core rules here.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from lightsleeper.errors import UserError

_INT = re.compile(r"^(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_RULES = (
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", _BOOL, list("tTfF")),
    ("tag:yaml.org,2002:int", _INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.")),
    ("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"]),
)
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True  # a resolved recipe is read by people: no anchors


for _tag, _pattern, _first in _RULES:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def shown(path: Path) -> str:
    """A path as a message shows it: relative when it lies below the working folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def parse(
    path: Path, expected: str = "a mapping of sections (model, data, trainer ...)"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Content of one recipe file and the `file:line` of each dotted key.

    Raises UserError (one line) for unreadable files, YAML syntax, duplicate keys and anything but a mapping.
    """
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}.") from error
    positions: dict[str, str] = {}
    value = _parse_text(text, name, positions)
    if not isinstance(value, dict):
        got = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{name}: expected {expected}, got {got}.")
    return value, positions


def parse_value(text: str, source: str) -> Any:
    """One YAML value from a command line; the empty text is an empty string. Raises UserError naming ``source``."""
    return "" if text == "" else _parse_text(text, f"'{source}'", {})


def dump(config: Any) -> str:
    """YAML of plain data in the order given; `parse` reads back an equal value."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _parse_text(text: str, name: str, positions: dict[str, str]) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _construct(loader, node, name, "", positions, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        what = " ".join(" ".join(part for part in (error.context, error.problem) if part).split())
        raise UserError(f"{name}{line}: YAML syntax: {what}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: YAML syntax: {' '.join(str(error).split())}.") from error
    finally:
        if loader is not None:
            loader.dispose()


def _construct(
    loader: _Loader, node: yaml.Node, name: str, path: str, positions: dict[str, str], above: tuple[int, ...]
) -> Any:
    if id(node) in above:
        raise UserError(f"{name}:{node.start_mark.line + 1}: YAML: '{path}' contains itself.")
    above = (*above, id(node))
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:  # scalars: the constructor refuses
        raise UserError(f"{name}:{node.start_mark.line + 1}: YAML: the tag '{node.tag}' is not allowed.")
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, name, f"{path}.{index}", positions, above) for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    _refuse_duplicates(loader, node, name, path)
    loader.flatten_mapping(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        inner = f"{path}.{key}" if path else str(key)
        positions[inner] = f"{name}:{key_node.start_mark.line + 1}"
        result[key] = _construct(loader, value_node, name, inner, positions, above)
    return result


def _refuse_duplicates(loader: _Loader, node: yaml.MappingNode, name: str, path: str) -> None:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{name}:{line}: YAML: a key must be a plain value.")
        key = loader.construct_object(key_node) if key_node.value != "<<" else "<<"
        if key in seen:
            inside = f" in '{path}'" if path else ""
            raise UserError(f"{name}:{line}: duplicate key '{key}'{inside}, first on line {seen[key]}.")
        seen[key] = line
