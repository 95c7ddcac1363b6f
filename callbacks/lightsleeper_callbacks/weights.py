"""Which weights a method acts on, and the parametrisations through which it acts.

A parametrised layer keeps its trained weight as `parametrizations.<name>.original` and computes the weight that it uses
from it. Methods chain: what clustering gets is what pruning gives.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.nn.utils import parametrize

_T = TypeVar("_T", bound="Transform")

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TYPES: dict[str, tuple[type[nn.Module], ...]] = {
    "Linear": (nn.Linear,),
    "Conv": CONVOLUTIONS,
    "Embedding": (nn.Embedding,),
    "MultiheadAttention": (nn.MultiheadAttention,),
}
PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention


@dataclass(frozen=True)
class Target:
    """One trained weight and every layer that uses it: tied weights are one target with two owners."""

    name: str
    """Dotted name of the weight in its first owner, without parametrisations: `encoder.0.weight`."""
    owners: tuple[tuple[nn.Module, str], ...]
    """Layer and the name of its weight."""

    @property
    def layer(self) -> nn.Module:
        return self.owners[0][0]

    @property
    def original(self) -> nn.Parameter:
        """The trained parameter beneath all parametrisations."""
        return original(*self.owners[0])

    @property
    def weight(self) -> Tensor:
        """The weight as the layer uses it now."""
        return getattr(*self.owners[0])

    @property
    def transposed(self) -> bool:
        """Whether inputs are the first axis: transformers' Conv1D, and transposed convolutions."""
        return _is_hf_conv1d(self.layer) or isinstance(self.layer, CONVOLUTIONS[3:])


class Transform(nn.Module):
    """Base of parametrisations: a pure function of the weight and of buffers that only ``Compression.step`` changes.

    The result is kept and used again while weight, mode and buffers stay the same: a tied weight and a layer that reads
    its weight twice see, and pay for, one result. A backward pass frees it. Where activations are checkpointed, every
    use computes the same anew: the recomputation has to save as many tensors as the first pass did.
    Subclasses override ``soft`` (training) and ``hard`` (evaluation: the weight as it would ship) and call ``forget``
    after changing a buffer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keeps = True
        """Whether a result waits for the next use of the weight; not where that would undo a weight's sharding."""
        self._kept: tuple[Any, ...] | None = None

    def soft(self, weight: Tensor) -> Tensor:
        """The differentiable weight of training."""
        raise NotImplementedError

    def hard(self, weight: Tensor) -> Tensor:
        """The weight that would ship."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        if torch.is_grad_enabled() and _hooked():
            return self.soft(weight) if self.training else self.hard(weight)
        mode = (weight._version if not weight.is_inference() else -1, self.training, torch.is_grad_enabled())
        if self._kept is not None and self._kept[0]() is weight and self._kept[1] == mode:
            return self._kept[2]
        result = self.soft(weight) if self.training else self.hard(weight)
        if self.keeps and not torch.is_inference_mode_enabled() and result is not weight:
            self._kept = (weakref.ref(weight), mode, result)
            if result.requires_grad and not result.is_leaf:
                result.register_hook(_forgetting(weakref.ref(self)))
        return result

    def forget(self) -> None:
        """Compute anew at the next use."""
        self._kept = None

    def train(self: _T, mode: bool = True) -> _T:
        self.forget()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # a graph cannot be copied


def _hooked() -> bool:
    """Whether hooks on saved tensors are at work here, such as those of activation checkpointing."""
    try:
        with disable_saved_tensors_hooks(""):  # refuses while there are any; the public way to ask
            return False
    except RuntimeError:
        return True


def _forgetting(transform: "weakref.ref[Transform]") -> Any:
    def hook(gradient: Tensor) -> None:
        if (alive := transform()) is not None:
            alive.forget()

    return hook


def find(
    module: nn.Module,
    targets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    kinds: Sequence[str] = ("Linear", "Conv", "MultiheadAttention"),
) -> list[Target]:
    """The weights to act on, in the order of the module.

    Args:
        module: any module, parametrised or not.
        targets: names or patterns of layers or weights (``encoder.*``), or type names (``Linear``, ``Conv1d``); None is
            every layer of ``kinds`` that is being trained.
        exclude: the same, taken away.
        kinds: of TYPES. Biases and norms are never among them.

    Raises ValueError for a name that fits no layer, for a named weight that is frozen, and where nothing is left.
    """
    found: dict[int, tuple[str, list[tuple[nn.Module, str]]]] = {}
    for path, layer, weight in _weights(module):
        name = f"{path}.{weight}" if path else weight
        found.setdefault(id(original(layer, weight)), (name, []))[1].append((layer, weight))
    paths = {id(layer): path for path, layer in module.named_modules(remove_duplicate=False)}
    used: set[str] = set()

    def fits(name: str, owners: list[tuple[nn.Module, str]], patterns: Iterable[str]) -> bool:
        hit = False
        for pattern in patterns:
            for layer, weight in owners:
                path = paths[id(layer)]
                names = (path, f"{path}.{weight}" if path else weight, *_type_names(layer))
                if any(fnmatchcase(candidate, pattern) for candidate in names):
                    used.add(pattern)
                    hit = True
        return hit

    chosen: list[Target] = []
    for name, owners in found.values():
        kind = any(isinstance(layer, TYPES[k]) or (k == "Linear" and _is_hf_conv1d(layer)) for layer, _ in owners
                   for k in kinds)  # fmt: skip
        wanted = kind if targets is None else fits(name, owners, targets)
        if fits(name, owners, exclude) or not wanted:
            continue
        target = Target(name, tuple(owners))
        if target.original.requires_grad:
            chosen.append(target)
        elif targets is not None:
            raise ValueError(f"'{name}' is frozen (requires_grad is off): it would never adapt to its compression")
    for pattern in [*(targets or ()), *exclude]:
        if pattern not in used:
            names = [name.removesuffix(".weight") for name, _ in found.values()]
            near = get_close_matches(pattern, [*names, *TYPES], 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(names[:8])} ..." * bool(names)
            raise ValueError(f"no layer with a weight to compress is called '{pattern}'{hint}")
    if not chosen:
        raise ValueError("there is no trained weight to compress (Linear, Conv, Embedding, MultiheadAttention)")
    return chosen


def attach(target: Target, transform: Transform) -> None:
    """Let every owner of the weight compute it through ``transform`` as well, after what is attached already."""
    transform.train(target.layer.training)
    for layer, weight in target.owners:
        own_class(layer)
        parametrize.register_parametrization(layer, weight, transform, unsafe=True)  # shape and type stay


def attached(target: Target, kind: type[_T]) -> _T | None:
    """The transform of class ``kind`` on this weight; None where there is none."""
    return next((t for t in _chain(*target.owners[0]) if isinstance(t, kind)), None)


def detach(target: Target, transform: Transform, weight: Tensor) -> None:
    """Take ``transform`` off and store ``weight`` as the trained weight; other transforms stay."""
    with torch.no_grad():
        target.original.copy_(weight)
    for layer, name in target.owners:
        chain: Any = _parametrizations(layer)[name]
        if len(chain) > 1:
            del chain[[t is transform for t in chain].index(True)]
        else:
            own_class(layer)
            parametrize.remove_parametrizations(layer, name, leave_parametrized=False)


def own_class(layer: nn.Module) -> None:
    """Give a parametrised layer a class of its own.

    A copy shares the class that torch made for the first one, and torch adds and deletes properties of that class: for
    the layers of the model that was copied, too.
    """
    if parametrize.is_parametrized(layer):
        kind = type(layer)
        members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(kind.__name__, kind.__bases__, members)


def carried(module: nn.Module, kind: type[_T]) -> Iterator[tuple[Target, _T]]:
    """Every weight that carries a transform of class ``kind``, with it: of a prepared module, a copy or not."""
    found: dict[int, tuple[str, list[tuple[nn.Module, str]], _T]] = {}
    for path, layer, weight in _weights(module):
        for transform in _chain(layer, weight):
            if isinstance(transform, kind):
                name = f"{path}.{weight}" if path else weight
                found.setdefault(id(transform), (name, [], transform))[1].append((layer, weight))
    for name, owners, transform in found.values():
        yield Target(name, tuple(owners)), transform


def original(layer: nn.Module, weight: str) -> nn.Parameter:
    """The trained parameter of a layer, parametrised or not."""
    if parametrize.is_parametrized(layer, weight):
        return _parametrizations(layer)[weight].original
    return getattr(layer, weight)


def is_sharded(weight: Tensor) -> bool:
    """Whether this process holds a part of the weight: under FSDP2, outside the forward pass of its layer."""
    return hasattr(weight, "full_tensor")


def whole(weight: Tensor) -> Tensor:
    """All of a weight, detached. Of a sharded one every process has to ask, in the same order."""
    weight = weight.detach()
    gather: Any = getattr(weight, "full_tensor", None)
    return weight if gather is None else gather()


def release(module: nn.Module) -> None:
    """Let go of results where weights are sharded: a layer frees its whole weight after use, so what was made of it has
    to go as well. Results of tied weights stay, for their other owners."""
    for target, transform in carried(module, Transform):
        transform.keeps = len(target.owners) > 1 or not is_sharded(target.original)


def _chain(layer: nn.Module, weight: str) -> list[nn.Module]:
    return list(_parametrizations(layer)[weight]) if parametrize.is_parametrized(layer, weight) else []


def _parametrizations(layer: nn.Module) -> Any:
    """ModuleDict of the layer's ParametrizationLists, by name of the weight."""
    return layer.parametrizations


def _weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Path, layer and name of every weight that can be compressed; a layer reached by two paths comes once."""
    kinds = tuple(kind for group in TYPES.values() for kind in group)
    for path, layer in module.named_modules():
        if not (isinstance(layer, kinds) or _is_hf_conv1d(layer)):
            continue
        names = PROJECTIONS if isinstance(layer, nn.MultiheadAttention) else ("weight",)
        for weight in names:
            if parametrize.is_parametrized(layer, weight) or isinstance(getattr(layer, weight, None), nn.Parameter):
                yield path, layer, weight


def _is_hf_conv1d(layer: nn.Module) -> bool:
    """transformers' Conv1D, a Linear with its weight stored as (inputs, outputs), without importing transformers."""
    return any(kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers") for kind in type(layer).__mro__)


def _type_names(layer: nn.Module) -> list[str]:
    """Names of the layer's classes, and of the groups of TYPES that it belongs to."""
    return [kind.__name__ for kind in type(layer).__mro__ if kind not in (nn.Module, object)] + [
        group for group, kinds in TYPES.items() if isinstance(layer, kinds)
    ]
