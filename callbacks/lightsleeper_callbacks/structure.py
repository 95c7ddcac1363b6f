"""Layers that a method has rebuilt, as JSON: enough to make the changed network again from its own constructor."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Structure = dict[str, dict[str, Any]]
"""Module path -> ``{"type": "Conv1d", "args": {...}}``: the torch.nn layer that stands there now; or
``{"method": "fuse"}``: the module there has folded itself by this method."""

FOLDS = ("reparameterize", "fuse", "switch_to_deploy")
"""Methods without arguments by which modules fold themselves, in place or into what they return (MobileOne, timm,
RepVGG)."""


def describe(layer: nn.Module) -> dict[str, Any]:
    """Type and constructor arguments of a plain torch.nn layer, JSON-able.

    Raises TypeError for any other module, and for one whose arguments cannot be read off it.
    """
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise TypeError(f"{kind.__name__} is no torch.nn layer: it cannot be rebuilt from a description")
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("device", "dtype"):
            continue
        if name == "bias":
            arguments[name] = layer.bias is not None
        elif hasattr(layer, name):
            value = getattr(layer, name)
            arguments[name] = list(value) if isinstance(value, tuple) else value
        elif parameter.default is inspect.Parameter.empty:
            raise TypeError(f"{kind.__name__} keeps no '{name}': it cannot be rebuilt from a description")
    return {"type": kind.__name__, "args": arguments}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The layer of a description, freshly initialised. Raises ValueError for one that is not a torch.nn layer."""
    kind = getattr(nn, str(description.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"'{description.get('type')}' is no torch.nn layer")
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in description.get("args", {}).items()}
    return kind(**arguments)


class NoModuleError(TypeError):
    """A method by the name of a fold gives something else than a module."""


def fold_itself(module: nn.Module, method: str) -> nn.Module:
    """What ``module``, which may be changed, becomes by a method of FOLDS; raises NoModuleError where that is none."""
    if method not in FOLDS:
        raise TypeError(f"'{method}' is none of {', '.join(FOLDS)}")
    with torch.no_grad():
        result = getattr(module.eval(), method)()
    if not isinstance(result, nn.Module | None):
        raise NoModuleError(f"{type(module).__name__}.{method}() gives a {type(result).__name__}, no module")
    return module if result is None else result


def rebuild(module: nn.Module, structure: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the layers of ``structure`` in their places, in place. Raises ValueError where there is no such place."""
    for path, description in structure.items():
        try:
            old = module.get_submodule(path)
            training = old.training
            method = description.get("method")
            new = build(description) if method is None else fold_itself(old, method)
            module.set_submodule(path, new.train(training))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"layer '{path}' cannot be rebuilt: {error}") from error
