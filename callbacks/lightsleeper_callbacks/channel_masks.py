"""Channels that can only go together, and their mask: one for all layers that an addition ties.

A group has one gate; every parameter that carries its channels is multiplied by it, as a parametrisation. Which
channels belong together, and their removal, is in ``channels``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightsleeper_callbacks import masks, weights
from lightsleeper_callbacks.masking import Budget
from lightsleeper_callbacks.weights import Target, Transform


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
