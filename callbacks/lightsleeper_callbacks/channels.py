"""Channel pruning: which layers share a channel, masks on all of them, and their removal.

torch-pruning traces the network on an example input and finds what a channel touches: the layers that make it (several,
where an addition ties them), norms and depthwise convolutions that carry it, layers that read it. Whether it may really
go is then tried on a copy with random biases and statistics: masked and narrowed network have to agree.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightsleeper_callbacks import masks, weights
from lightsleeper_callbacks.finalize import detached_copy
from lightsleeper_callbacks.masking import Budget
from lightsleeper_callbacks.structure import Structure, describe
from lightsleeper_callbacks.weights import Target, Transform

AGREE = 1e-4  # largest difference in the trial, as a share of the largest output: float32 through random norms
MIXING = ("Bmm", "ScaledDotProduct", "Attention")  # autograd nodes in which channels are summed over


@dataclass(frozen=True)
class Member:
    """A parameter that carries channels of a group."""

    layer: str
    parameter: str
    axis: int
    channels: tuple[int, ...]
    """Channel of the group at each of ``positions``."""
    positions: tuple[int, ...]
    """Where along ``axis``."""
    scored: bool
    """Whether its norm is part of the channel's magnitude: the weight of a layer that makes the channel."""
    gated: bool
    """Whether training multiplies it by the mask: not what a batch norm follows, which would undo it."""

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.parameter}" if self.layer else self.parameter


@dataclass(frozen=True)
class Group:
    """Channels that can only go together, and everything that has to become zero with them."""

    root: str
    size: int
    members: tuple[Member, ...]

    @property
    def makers(self) -> list[str]:
        """Layers that make these channels."""
        return [member.layer for member in self.members if member.scored]


# Masks.


class Gate(Budget):
    """The mask of one group: m = sigmoid((v^2 - t^2) / tau), v^2 the mean of |w_c|^2 over the layers that make it.

    Shared by all members, so that the gradient of each of them reaches every weight that v depends on.
    """

    threshold: Tensor

    def __init__(self, group: Group, tau: float | None) -> None:
        super().__init__()
        self.name, self.size, self.tau = group.root, group.size, tau
        self.members: list[ChannelMask] = []  # lists hide them from nn.Module: they are no children
        self.register_buffer("threshold", torch.tensor(0.0), persistent=False)
        self._fresh = False
        self._kept: tuple[Any, Tensor] | None = None

    def squares(self) -> Tensor:
        """v^2, (channels,), with gradient."""
        makers = [member for member in self.members if member.scored]
        return torch.stack([member.squares() for member in makers]).mean(0)

    def scores(self) -> Tensor:
        with torch.no_grad():
            return self.squares().sqrt()

    def advance(self, share: float) -> None:
        self.follow(share)
        if self.pruned:
            self.threshold = masks.threshold(self.scores(), self.pruned)
        self._fresh = True
        self.forget()

    def mask(self) -> Tensor:
        """m of training, (channels,), with gradient; computed once for all members."""
        originals = [member.original for member in self.members if member.scored]
        key = (torch.is_grad_enabled(), *(weight._version for weight in originals))
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        squares = self.squares()
        t = self.threshold if self._fresh else masks.threshold(squares.sqrt(), self.pruned)
        mask = masks.mask_of_squares(squares, t, self.tau)
        self._kept = (key, mask)
        if mask.requires_grad:
            mask.register_hook(self._backward_done)
        return mask

    def hard(self) -> Tensor:
        """True for the channels that stay."""
        return masks.hard_mask(self.scores(), self.pruned)

    def forget(self) -> None:
        self._kept = None
        for member in self.members:
            member.forget()

    def _backward_done(self, gradient: Tensor) -> None:
        self._kept = None  # its graph is gone

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fresh = False
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


class ChannelMask(Transform):
    """One member's parametrisation: its channels times the gate of its group."""

    channels: Tensor
    positions: Tensor

    def __init__(self, gate: Gate, member: Member, layer: nn.Module) -> None:
        super().__init__()
        self.gate = gate
        self.axis, self.scored, self.gated, self.parameter = member.axis, member.scored, member.gated, member.parameter
        self._layer = [layer]
        length = weights.original(layer, member.parameter).shape[member.axis]
        whole = tuple(range(length))
        self.whole = member.positions == whole == member.channels and gate.size == length
        self.register_buffer("channels", torch.tensor(member.channels), persistent=False)
        self.register_buffer("positions", torch.tensor(member.positions), persistent=False)

    @property
    def original(self) -> nn.Parameter:
        return weights.original(self._layer[0], self.parameter)

    def squares(self) -> Tensor:
        """Squared norm of each of the group's channels in this weight, (channels,); 0 for one that it does not hold."""
        original = self.original
        weight = original if original.dtype == torch.float64 else original.float()
        square = weight.movedim(self.axis, 0).flatten(1).square().sum(1)
        if self.whole:
            return square
        return square.new_zeros(self.gate.size).index_add(0, self.channels, square[self.positions])

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """A value per channel of the group, (channels,), to one per position that broadcasts against ``like``; 1 where
        ``like`` holds other channels."""
        if not self.whole:
            ones = torch.ones(like.shape[self.axis], dtype=values.dtype, device=values.device)
            values = ones.index_put((self.positions,), values[self.channels])
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return values.view(shape)

    def soft(self, weight: Tensor) -> Tensor:
        if not (self.gated and self.gate.pruned):
            return weight
        return weight * self.spread(self.gate.mask(), weight).to(weight.dtype)

    def hard(self, weight: Tensor) -> Tensor:
        if not self.gate.pruned:
            return weight
        return weight.masked_fill(~self.spread(self.gate.hard(), weight), 0)


def attach(module: nn.Module, groups: Sequence[Group], tau: float | None) -> None:
    """Let every member of every group compute its parameter through the group's gate."""
    for group in groups:
        gate = Gate(group, tau)
        for member in group.members:
            layer = module.get_submodule(member.layer)
            mask = ChannelMask(gate, member, layer).to(weights.original(layer, member.parameter).device)
            gate.members.append(mask)
            weights.attach(Target(member.name, ((layer, member.parameter),)), mask)


def gates(module: nn.Module) -> list[Gate]:
    """The gates of a prepared module, in its order."""
    return list({id(mask.gate): mask.gate for _, mask in _carried(module)}.values())


def zeros(module: nn.Module) -> int:
    """How many elements of parameters the hard masks of a prepared module prune."""
    kept = {gate: gate.hard() for gate in gates(module)}
    found = 0
    for _, mask in _carried(module):
        gone = int((~kept[mask.gate][mask.channels]).sum())
        found += gone * (mask.original.numel() // mask.original.shape[mask.axis])
    return found


def bake(module: nn.Module) -> tuple[dict[str, list[int]], list[str]]:
    """Zero the pruned channels and take all masks off; returns those channels by root layer, and what was masked."""
    kept = {gate: gate.hard() for gate in gates(module)}  # before anything is zeroed: a mask follows from the weights
    removed = {gate.name: (~stays).nonzero()[:, 0].tolist() for gate, stays in kept.items()}
    names = []
    for target, mask in list(_carried(module)):
        names.append(target.name)
        weight = target.original.detach()
        weights.detach(target, mask, weight.masked_fill(~mask.spread(kept[mask.gate], weight), 0))
    return removed, list(dict.fromkeys(names))


def _carried(module: nn.Module) -> Iterator[tuple[Target, ChannelMask]]:
    for path, layer in module.named_modules():
        for name, chain in getattr(layer, "parametrizations", {}).items():
            for transform in chain:
                if isinstance(transform, ChannelMask):
                    yield Target(f"{path}.{name}" if path else name, ((layer, name),)), transform


# Structure.


def plan(module: nn.Module, chosen: Sequence[Target], named: bool) -> list[Group]:
    """Groups of channels that the ``chosen`` layers make, and that can be removed without changing what is left.

    ``named``: the user named the layers, so one that cannot be narrowed is refused; otherwise it stays as it is. Raises
    ValueError for that, where nothing is left, and without an example input to trace.
    """
    wanted = {path for path, layer in module.named_modules() if any(layer is target.layer for target in chosen)}
    try:
        trial = _Trial(module)
    except (TypeError, AttributeError, IndexError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"torch-pruning cannot trace the network ({_short(error)})") from error
    found: list[Group] = []
    reasons: dict[str, str] = {}
    for group, reason in trial.candidates():
        makers = group.makers
        if wanted.isdisjoint(makers):
            continue
        others = [maker for maker in makers if maker not in wanted]
        if reason is None and others:
            reason = f"an addition ties them to those of '{others[0]}', which is not to be pruned"
        if reason is None:
            found.append(group)
        else:
            reasons.update(dict.fromkeys([maker for maker in makers if maker in wanted], reason))
    if found and trial.run(found) is not None:
        verdicts = [(group, _Trial(module).run([group])) for group in found]
        found = [group for group, reason in verdicts if reason is None]
        for group, reason in verdicts:
            if reason is not None:
                reasons.update(dict.fromkeys(group.makers, reason))
    seen = {*reasons, *(maker for group in found for maker in group.makers)}
    reasons.update(dict.fromkeys(sorted(wanted - seen), "the example input does not reach it"))
    if reasons and (named or not found):
        layer, reason = next(iter(reasons.items()))
        raise ValueError(f"channels of '{layer}' cannot be removed: {reason}" + "; exclude it" * named)
    if reasons:
        rank_zero_info(
            "Keep all their channels: " + "; ".join(f"{layer}, {reason}" for layer, reason in reasons.items())
        )
    return found


def remove(module: nn.Module, channels: Mapping[str, Sequence[int]]) -> Structure:
    """Take ``channels`` (by root layer) out of every layer they touch, in place; returns the layers that changed."""
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    before = _shapes(module)
    graph = _trace(module.requires_grad_(True))
    for root, gone in channels.items():
        if gone:
            _group(graph, module.get_submodule(root), gone).prune()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained[name])
    changed = [path for path, shapes in _shapes(module).items() if shapes != before[path]]
    return {path: describe(module.get_submodule(path)) for path in changed}


class _Trial:
    """A copy of a module with random biases and statistics, on which channels are removed to see whether it works.

    Fresh biases and statistics are zeros: they would hide that a removed channel had a constant to give.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = detached_copy(module).requires_grad_(True)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in self.module.modules():
                if isinstance(layer, _BatchNorm):
                    for tensor, low, high in ((layer.running_mean, -1, 1), (layer.running_var, 0.5, 2)):
                        if tensor is not None:
                            tensor.uniform_(low, high, generator=generator)
            for name, parameter in self.module.named_parameters():
                if name.rpartition(".")[2] == "bias":
                    parameter.uniform_(-1, 1, generator=generator)
        self.paths = {layer: path for path, layer in self.module.named_modules()}
        self.graph = _trace(self.module)

    def candidates(self) -> Iterator[tuple[Group, str | None]]:
        """Every group of channels, and why it cannot be removed, as far as that is plain to see."""
        for found in self.graph.get_all_groups():
            root = found[0].dep.target.module
            if root in self.paths:
                yield self._describe(found), self._reason(found)

    def run(self, groups: Sequence[Group]) -> str | None:
        """Remove every second channel of ``groups``; None where the outputs are those of the masked network."""
        gone = {group.root: list(range(1, group.size, 2)) for group in groups}
        with torch.no_grad():
            for group in groups:
                for member in group.members:
                    at = [p for c, p in zip(member.channels, member.positions, strict=True) if c % 2]
                    self.module.get_parameter(member.name).index_fill_(
                        member.axis, torch.tensor(at, dtype=torch.long), 0
                    )
            before = _outputs(self.module)
        try:
            with torch.enable_grad():
                remove(self.module, gone)
            with torch.no_grad():
                after = _outputs(self.module)
        except Exception as error:  # the network's own code at sizes that it was not written for
            return f"the narrower network fails ({_short(error)})"
        if [value.shape for value in before] != [value.shape for value in after]:
            return "the outputs change their shape"
        for old, new in zip(before, after, strict=True):
            if old.numel() and not (old - new).abs().max() <= AGREE * max(1.0, float(old.abs().max())):
                return "the outputs change when they are gone rather than zero"
        return None

    def _describe(self, found: Any) -> Group:
        root = found[0].dep.target.module
        members = []
        for item in found:
            layer = item.dep.target.module
            maker = isinstance(layer, (_ConvNd, nn.Linear)) and self._makes(item)
            if not (maker or isinstance(layer, _BatchNorm)):
                continue
            normed = all(isinstance(node.module, _BatchNorm) for node in item.dep.target.outputs)
            follows = bool(item.dep.target.outputs) and normed and maker
            for parameter in ("weight", "bias"):
                if getattr(layer, parameter) is None:
                    continue
                carries = isinstance(layer, _ConvNd) and layer.groups > 1  # depthwise
                transposed = isinstance(layer, _ConvTransposeNd) and parameter == "weight" and not carries
                members.append(
                    Member(
                        layer=self.paths[layer],
                        parameter=parameter,
                        axis=1 if transposed else 0,
                        channels=tuple(item.root_idxs),
                        positions=tuple(item.idxs),
                        scored=maker and not carries and parameter == "weight",
                        gated=not follows,
                    )
                )
        return Group(self.paths[root], len(found[0].idxs), tuple(members))

    def _makes(self, item: Any) -> bool:
        """Whether a convolution or linear layer gives these channels, rather than reads them."""
        return self.graph.is_out_channel_pruning_fn(item.dep.handler)

    def _reason(self, found: Any) -> str | None:
        for item in found:
            node = item.dep.target
            layer = node.module
            called = f"'{self.paths[layer]}'" if layer in self.paths else ""
            kind = type(layer).__name__
            if isinstance(layer, _BatchNorm):
                if not layer.affine:
                    return f"the batch norm {called} has no weight and bias to switch one off"
                if not layer.track_running_stats:
                    return f"the batch norm {called} keeps no statistics"
            elif isinstance(layer, _ConvNd):
                if layer.groups > 1 and not layer.groups == layer.in_channels == layer.out_channels:
                    return f"{called} is a grouped convolution"
                if layer.groups > 1 and isinstance(layer, _ConvTransposeNd):
                    return f"{called} is a transposed depthwise convolution"
            elif isinstance(layer, nn.Parameter):
                return "a parameter outside any layer carries them"
            elif not isinstance(layer, nn.Linear) and layer in self.paths and any(True for _ in layer.parameters()):
                if not isinstance(layer, nn.PReLU):
                    return f"{called} ({kind}) computes across channels"
            elif any(name in str(getattr(layer, "_grad_fn", "")) for name in MIXING):
                return "attention multiplies them"
            if isinstance(layer, (_ConvNd, nn.Linear)) and self._makes(item) and not node.outputs:
                return "they are the network's outputs"
            if kind == "_OutputOp":
                return "they are the network's outputs"
        return None


def _trace(module: nn.Module) -> Any:
    """torch-pruning's graph of ``module``; its parameters need gradients."""
    import torch_pruning

    network, inputs = _examples(module)[0]
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of operations it does not know: the trial tells
        return torch_pruning.DependencyGraph().build_dependency(
            network,
            inputs,
            forward_fn=lambda model, example: _call(model, example),
            output_transform=lambda result: [value for value in _flat(result) if value.grad_fn is not None],
            verbose=False,
        )


def _group(graph: Any, root: nn.Module, channels: Sequence[int]) -> Any:
    return graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, list(channels))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _examples(module: nn.Module) -> list[tuple[nn.Module, Any]]:
    """What to run, and on what: the module on its example input, or its export graphs."""
    if (example := getattr(module, "example_input_array", None)) is not None:
        return [(module, example)]
    if callable(make := getattr(module, "example_input", None)):
        return [(module, make())]
    if callable(spec := getattr(module, "export_spec", None)):
        try:
            return [(graph.module, tuple(graph.sample(0).values())) for graph in spec()]
        except NotImplementedError:
            pass
    raise ValueError(
        "mode 'channel' traces the network: give the module an example_input_array (tensor, tuple or mapping of inputs)"
    )


def _outputs(module: nn.Module) -> list[Tensor]:
    return [value.clone() for network, example in _examples(module) for value in _flat(_call(network, example))]


def _call(network: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return network(**example)
    return network(*(example if isinstance(example, (tuple, list)) else (example,)))


def _flat(result: Any) -> list[Tensor]:
    """Floating-point tensors anywhere in a result."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        result = tuple(result.values())
    return [value for part in result for value in _flat(part)] if isinstance(result, (tuple, list)) else []


def _shapes(module: nn.Module) -> dict[str, list[torch.Size]]:
    return {
        path: [tensor.shape for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False))]
        for path, layer in module.named_modules()
    }
