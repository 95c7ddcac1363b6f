"""Which channels can go, and their removal.

torch-pruning traces the network on an example input and finds what a channel touches: the layers that make it (several,
where an addition ties them), norms and depthwise convolutions that carry it, layers that read it. Whether it may really
go is then tried on a copy with random biases and statistics: masked and narrowed network have to agree.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightsleeper_callbacks.channel_masks import Group, Member
from lightsleeper_callbacks.finalize import detached_copy
from lightsleeper_callbacks.structure import Structure, describe
from lightsleeper_callbacks.weights import Target

AGREE = 1e-4  # largest difference in the trial, as a share of the largest output: float32 through random norms
MIXING = ("Bmm", "ScaledDotProduct", "Attention")  # autograd nodes in which channels are summed over


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
