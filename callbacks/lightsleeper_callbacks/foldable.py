"""What folds in a module, and the proof: branches, modules that offer to fold themselves, batch norms behind layers.

Each fold is proved on its layer alone, with its own and with random batch-norm statistics, before anything is replaced.
That a norm stands behind a layer is known of neighbours in an ``nn.Sequential``; elsewhere it is seen where
``example_input_array`` is set, and proved on the whole module. What is used in several places, carries hooks or
parametrisations, or cannot be proved stays as it is.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from lightsleeper_callbacks.finalize import TOLERANCE, NotExactError, _example_outputs, detached_copy, difference
from lightsleeper_callbacks.repconv import fold_norm, with_weights
from lightsleeper_callbacks.structure import FOLDS, NoModuleError, Structure, describe, fold_itself

FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
IDENTITY: dict[str, Any] = {"type": "Identity", "args": {}}


@dataclass(frozen=True)
class Folded:
    """What takes the place of a module, and how ``structure.rebuild`` makes it."""

    layer: nn.Module
    description: dict[str, Any]


def folds(module: nn.Module, exclude: Sequence[str] = ()) -> dict[str, Folded]:
    """What every part of ``module`` that folds becomes, by path; ``module`` stays as it is.

    ``exclude``: names or patterns of modules to leave. Raises NotExactError where a module that offers to fold itself
    changes its outputs by that, ValueError where this cannot be known.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)  # proofs draw inputs: a training must not notice
        module_paths = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
        example = _Example(module)
        found: dict[str, Folded] = {}
        done: list[str] = []  # nothing inside these is looked at
        for path, layer in module.named_modules():
            if not path or module_paths[id(layer)] > 1 or _within(path, done):
                continue
            if any(fnmatchcase(path, pattern) for pattern in exclude):
                done.append(path)
            elif (method := _method(layer)) and (made := _folded_by(path, layer, method, example)) is not None:
                found[path] = made
                done.append(path)
        for path, norm_path in _norms_behind(module, example, done):
            layer, norm = module.get_submodule(path), module.get_submodule(norm_path)
            made_layer = _without_norm(layer, norm)
            found[path] = Folded(made_layer, describe(made_layer))
            found[norm_path] = Folded(nn.Identity(), IDENTITY)
        return found


def put(module: nn.Module, folded: Mapping[str, Folded]) -> Structure:
    """Let the folded layers take their places in ``module``; parameters that fold to themselves stay the same."""
    for path, part in folded.items():
        old, new = module.get_submodule(path), part.layer
        before = dict(old.named_parameters())
        for name, value in list(new.named_parameters()):
            same = before.get(name)
            if same is not None and same.dtype == value.dtype and torch.equal(same, value):
                owner, _, leaf = name.rpartition(".")
                setattr(new.get_submodule(owner), leaf, same)
        module.set_submodule(path, new.train(old.training))
    return {path: part.description for path, part in folded.items()}


# Modules that fold themselves.


def _method(layer: nn.Module) -> str | None:
    """The method by which a module folds itself; not a namesake such as the sampling of a variational autoencoder."""
    for name in FOLDS:
        method = getattr(layer, name, None) if hasattr(type(layer), name) else None
        if callable(method):
            try:
                inspect.signature(method).bind()
            except (TypeError, ValueError):
                continue
            return name
    return None


def _folded_by(path: str, layer: nn.Module, method: str, example: "_Example") -> Folded | None:
    """The proved result of ``method``; None where it folds nothing (any more)."""
    clone = copy.deepcopy(layer).eval()
    before = _signature(clone)
    try:
        made = fold_itself(clone, method)
    except NoModuleError:
        return None
    except Exception as error:
        raise ValueError(
            f"'{path}' ({type(layer).__name__}) fails to fold by {method}() ({error}): exclude '{path}' to leave it"
        ) from error
    if made is clone and _signature(made) == before:
        return None
    _prove(path, layer, partial(fold_itself, method=method), example.inputs(path, layer))
    if not any(parameter.requires_grad for parameter in layer.parameters()):
        made.requires_grad_(False)
    try:
        return Folded(made, {"method": method} if made is clone else describe(made))
    except TypeError:  # no layer of torch.nn
        return Folded(made, {"method": method})


def _signature(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


# Batch norms behind layers.


def _without_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(layer, FOLDABLE)
    assert isinstance(norm, _BatchNorm)
    trained = any(parameter.requires_grad for part in (layer, norm) for parameter in part.parameters())
    return with_weights(layer, *fold_norm(layer.weight, layer.bias, norm), trained)


def _pair_folded(pair: nn.Module) -> nn.Module:
    layer, norm = pair.children()
    return _without_norm(layer, norm)


def _norms_behind(module: nn.Module, example: "_Example", done: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Paths of layers and of the norms behind them, proved."""
    found = dict(_neighbours(module)) | dict(example.followed)
    uses = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
    owners = Counter(id(value) for layer in module.modules() for value in layer._parameters.values())
    for path, norm_path in found.items():
        layer, norm = module.get_submodule(path), module.get_submodule(norm_path)
        parts = (layer, norm)
        alone = all(uses[id(part)] == 1 and not _observed(part) for part in parts) and all(
            owners[id(value)] == 1 for part in parts for value in part.parameters()
        )
        if not alone or not _fit(layer, norm) or _within(path, done) or _within(norm_path, done):
            continue
        # A norm takes the second axis for channels, a linear layer the last: only of a matrix are they the same.
        if isinstance(layer, nn.Linear) and example.dims(path) != 2:
            continue
        pair = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm))
        try:
            _prove(path, pair, _pair_folded, example.inputs(path, layer))
        except (NotExactError, ValueError):
            continue
        if example.proves(path, norm_path):
            yield path, norm_path


def _neighbours(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Layer and norm next to each other where only ``nn.Sequential`` itself decides what follows what."""
    for path, sequence in module.named_modules():
        if isinstance(sequence, nn.Sequential) and type(sequence).forward is nn.Sequential.forward:
            prefix = f"{path}." if path else ""
            for (first, layer), (second, norm) in pairwise(sequence._modules.items()):
                if layer is not None and norm is not None and _fit(layer, norm):
                    yield prefix + first, prefix + second


def _fit(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether ``norm`` can be folded into ``layer``: plain ones, of equal channels, with statistics."""
    if type(layer) not in FOLDABLE or not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return False
    if parametrize.is_parametrized(layer) or parametrize.is_parametrized(norm):
        return False
    return next(layer.parameters()).shape[0] == norm.num_features  # the weight comes first


def _observed(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks)


def _within(path: str, outer: Sequence[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in outer)


# Proofs.


@dataclass
class _Example:
    """What a copy of ``module`` does with its ``example_input_array``; nothing where it has none."""

    module: nn.Module
    followed: dict[str, str] = field(default_factory=dict)
    """Layer -> the norm that got its output."""

    def __post_init__(self) -> None:
        self._inputs: dict[str, tuple[Any, ...]] = {}
        self._copy: nn.Module | None = None
        if getattr(self.module, "example_input_array", None) is None:
            return
        watched = detached_copy(self.module)
        made_by: dict[int, tuple[str, Any]] = {}  # the tensors stay alive, so that no number is used twice

        def before(path: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._inputs.setdefault(path, inputs)
            if isinstance(layer, _BatchNorm) and inputs and id(inputs[0]) in made_by:
                self.followed.setdefault(made_by[id(inputs[0])][0], path)

        def after(path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(layer, FOLDABLE):
                made_by[id(output)] = path, output

        handles = []
        for path, layer in watched.named_modules():
            handles.append(layer.register_forward_pre_hook(partial(before, path)))
            handles.append(layer.register_forward_hook(partial(after, path)))
        try:
            outputs = _example_outputs(watched)
        except Exception:  # a forward that needs more than its example: nothing can be seen
            self.followed.clear()
            self._inputs.clear()
            return
        for handle in handles:
            handle.remove()
        if outputs:
            self._copy = watched
            _randomize(watched)

    def dims(self, path: str) -> int | None:
        inputs = self._inputs.get(path)
        return inputs[0].dim() if inputs and isinstance(inputs[0], Tensor) else None

    def inputs(self, path: str, layer: nn.Module) -> tuple[Any, ...] | None:
        """Random inputs for a module, shaped as in the example, else as its first layer takes them; None: unknown."""
        seen = self._inputs.get(path)
        if seen:
            return tuple(torch.randn_like(v) if isinstance(v, Tensor) and v.is_floating_point() else v for v in seen)
        return _guessed_inputs(layer)

    def proves(self, path: str, norm_path: str) -> bool:
        """Whether the whole module, with random statistics, gives the same without the norm; True without example."""
        if self._copy is None:
            return True
        layer, norm = self._copy.get_submodule(path), self._copy.get_submodule(norm_path)
        before = _example_outputs(self._copy)
        self._copy.set_submodule(path, _without_norm(layer, norm))
        self._copy.set_submodule(norm_path, nn.Identity())
        if _equal(before, _example_outputs(self._copy)) is None:
            return True
        self._copy.set_submodule(path, layer)
        self._copy.set_submodule(norm_path, norm)
        return False


def _guessed_inputs(layer: nn.Module) -> tuple[Tensor, ...] | None:
    convolutions = [part for part in layer.modules() if isinstance(part, FOLDABLE[:3])]
    first = next((part for part in layer.modules() if isinstance(part, FOLDABLE)), None)
    if first is None:
        return None
    if isinstance(first, nn.Linear):
        return (torch.randn(4, first.in_features),)
    reach = max(
        d * (k - 1) + s for c in convolutions for d, k, s in zip(c.dilation, c.kernel_size, c.stride, strict=True)
    )
    return (torch.randn(2, first.in_channels, *[reach + 6] * len(first.kernel_size)),)


def _prove(path: str, layer: nn.Module, fold: Callable[[nn.Module], nn.Module], inputs: tuple[Any, ...] | None) -> None:
    """Raise NotExactError where ``fold`` changes what a layer computes, ValueError where that cannot be seen."""
    for random in (True, False):
        changed, failure = None, None
        for kind in (torch.float64, torch.float32):  # no rounding to excuse; but some folds make float32 layers
            try:
                changed, failure = _changed(layer, fold, inputs or (), random, kind), None
                break
            except Exception as error:
                failure = error
        if failure is not None:
            raise ValueError(
                f"'{path}' ({type(layer).__name__}) folds, but whether it does so exactly cannot be tried ({failure}): "
                f"set example_input_array, or exclude '{path}'"
            ) from failure
        if changed is not None:
            raise NotExactError(f"folding '{path}' ({type(layer).__name__}) changes its outputs by {changed}")


def _changed(
    layer: nn.Module, fold: Callable[[nn.Module], nn.Module], inputs: Sequence[Any], random: bool, kind: torch.dtype
) -> str | None:
    """What folding a copy of ``layer``, of type ``kind``, changes; ``random``: with random statistics."""
    proof = copy.deepcopy(layer).cpu().to(kind).eval()
    if random:
        _randomize(proof)
    given = [v.to(kind) if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs]
    if not given:
        raise TypeError("its input is not known")
    before = _tensors(proof(*given))
    if not before:
        raise TypeError("it gives no tensor")
    return _equal(before, _tensors(fold(proof).eval()(*given)))


def _randomize(module: nn.Module) -> None:
    """Statistics unlike fresh ones, with which a wrong fold could pass."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.5)


def _equal(before: Sequence[Tensor], after: Sequence[Tensor]) -> str | None:
    """None where equal to rounding, else what differs."""
    if [value.shape for value in before] != [value.shape for value in after]:
        return "their shape"
    changed = difference(before, after)
    scale = max([1.0, *(float(value.abs().max()) for value in before if value.numel())])
    return None if changed is None or changed <= TOLERANCE * scale else f"{changed:.2g}"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):
        value = list(value.values())
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v.detach() for v in values if isinstance(v, Tensor) and v.is_floating_point()]
