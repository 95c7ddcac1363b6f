"""What pruning callbacks share: budgets that follow a ramp, masks as parametrisations, and the life of a training.

Where a callback differs is its temperature and the shape of its ramp.
"""

import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightsleeper_callbacks import channel_masks, channels, masks
from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.masking import GroupMask, WeightMask
from lightsleeper_callbacks.schedule import check_ramp, ramp
from lightsleeper_callbacks.structure import Structure
from lightsleeper_callbacks.weights import CONVOLUTIONS, Target, attach, carried, detach, find, whole

SOFT = 0.1
"""Mean |m - 1[m >= 0.5]| of a layer from which its mask counts as soft: 0.01 for normally distributed weights at the
relative temperature, 0.3 at tau = t^2."""
Mode = Literal["unstructured", "n:m", "channel"]


@dataclass(frozen=True)
class Masked:
    """What one budget is for: the weights of a target, or the channels of a group of layers."""

    name: str
    size: int
    target: Target | None
    mask: Any  # WeightMask, GroupMask or channel_masks.Gate

    @property
    def weight(self) -> Tensor:
        assert self.target is not None
        return whole(self.target.original)


class Pruning(Compression):
    """Base of ``PDPMasking`` and ``MagnitudePruning``; their docstrings describe the arguments."""

    phase = Phase.PRUNE
    tau: float | None = None
    """Temperature of the masks: None is relative to each threshold, 0 makes them hard."""
    least: ClassVar[float] = 0.25
    """Share of what even pruning would leave it that each layer keeps under a global budget: one whose weights are all
    small, such as a freshly initialised output layer, would otherwise be left with a handful (measured: 1 of 2560)."""
    least_channels: ClassVar[float] = 0.1
    """Share of the channels of a layer that always stays: a ranking by norm across layers could empty one."""

    def __init__(
        self,
        sparsity: float | None,
        mode: Mode,
        pattern: str,
        targets: Sequence[str] | None,
        exclude: Sequence[str],
        start: float,
        end: float,
        budget: Literal["global", "layer"],
        statistics: bool,
    ) -> None:
        super().__init__()
        if mode not in ("unstructured", "n:m", "channel"):
            raise ValueError(f"mode is 'unstructured', 'n:m' or 'channel', got '{mode}'")
        if budget not in ("global", "layer"):
            raise ValueError(f"budget is 'global' or 'layer', got '{budget}'")
        self.n, self.m = _pattern(pattern)
        if mode == "n:m":
            if sparsity is not None and not math.isclose(sparsity, 1 - self.n / self.m):
                raise ValueError(
                    f"pattern {pattern} is a sparsity of {1 - self.n / self.m:g}; got {sparsity}: leave it out"
                )
        elif sparsity is None:
            raise ValueError(f"mode '{mode}' needs a sparsity")
        elif not 0 <= sparsity < 1:
            raise ValueError(f"sparsity is a share, 0 <= sparsity < 1; got {sparsity}")
        check_ramp(start, end)
        for name, value in (("targets", targets), ("exclude", exclude)):
            if isinstance(value, str):
                raise ValueError(f"{name} is a list of names, got the text '{value}'")
        self.sparsity, self.mode = sparsity, mode
        self.sharded = mode != "channel"
        self.targets, self.exclude = targets, exclude
        self.start, self.end = start, end
        self.budget, self.statistics = budget, statistics
        self._judged = False
        self._removed: dict[str, list[int]] = {}
        self._names: list[str] = []
        self._shrunk: tuple[int, int] | None = None
        self._found: weakref.WeakKeyDictionary[nn.Module, list[Masked]] = weakref.WeakKeyDictionary()
        self._plans: weakref.WeakKeyDictionary[nn.Module, list[channel_masks.Group]] = weakref.WeakKeyDictionary()

    def shape(self, done: float) -> float:
        """Share of the budget that goes when ``done`` of the ramp is over."""
        return done

    # Before training.

    def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
        if max_epochs is not None and max_epochs < 0:
            raise ValueError("its ramp is a share of the training, which max_epochs: -1 leaves without an end")
        if self.mode == "channel":
            self._plan(module)
        else:
            self._targets(module)

    def preview(self, module: nn.Module) -> nn.Module:
        self.prepare(module)
        return module

    def prepare(self, module: nn.Module) -> None:
        if self.mode == "channel":
            channel_masks.attach(module, self._plan(module), self.tau)
        else:
            for target in self._targets(module):
                attach(target, self._mask(target))
        self._found.pop(module, None)
        self._plans.pop(module, None)
        self._judged = False

    def _mask(self, target: Target) -> WeightMask | GroupMask:
        if self.mode == "unstructured":
            return WeightMask(self.tau).to(target.original.device)
        return GroupMask(self.tau, self.n, self.m, _inputs_axis(target)).to(target.original.device)

    def _targets(self, module: nn.Module) -> list[Target]:
        found = find(module, self.targets, self.exclude)
        for target in found:
            if _pruned_already(target):
                raise ValueError(f"'{target.name}' is pruned by another callback already")
        if self.targets is None:
            # An embedding's rows are vectors of their own: only who names a tied one prunes it.
            found = [t for t in found if not any(isinstance(layer, nn.Embedding) for layer, _ in t.owners)]
        if self.mode == "unstructured":
            return found
        uneven = [t for t in found if t.original.shape[_inputs_axis(t)] % self.m]
        if uneven and self.targets is not None:
            inputs = uneven[0].original.shape[_inputs_axis(uneven[0])]
            raise ValueError(
                f"'{uneven[0].name}' has {inputs} inputs, no multiple of {self.m}: pattern "
                f"{self.n}:{self.m} does not fit; exclude it"
            )
        if len(uneven) == len(found):
            raise ValueError(f"no layer has a multiple of {self.m} inputs: pattern {self.n}:{self.m} fits none")
        if uneven:
            rank_zero_info(
                f"{type(self).__name__}: stays dense, as its inputs are no multiple of {self.m}: "
                + ", ".join(t.name for t in uneven)
            )
        return [t for t in found if t not in uneven]

    def _plan(self, module: nn.Module) -> list[channel_masks.Group]:
        if module not in self._plans:
            chosen = find(module, self.targets, self.exclude, kinds=("Linear", "Conv"))
            if (twice := next((t for t in chosen if _pruned_already(t)), None)) is not None:
                raise ValueError(f"'{twice.name}' is pruned by another callback already")
            self._plans[module] = channels.plan(module, chosen, named=self.targets is not None)
        return self._plans[module]

    # During training.

    def step(self, module: nn.Module, progress: float) -> None:
        share = self.shape(ramp(progress, self.start, self.end))
        if share <= 0:
            return
        masked = self._masked(module)
        self._allot(masked)
        for entry in masked:
            _advance(entry, share)
        if share >= 1 and not self._judged:
            self._judged = True
            self._judge(masked)

    def settled(self, progress: float) -> bool:
        return progress >= self.end

    def _masked(self, module: nn.Module) -> list[Masked]:
        """All budgets of a prepared module, its copy, or a copy's copy."""
        if module not in self._found:
            self._found[module] = list(_collect(module, self.mode))
        return self._found[module]

    def _allot(self, masked: list[Masked]) -> None:
        """Fix the budgets once, from the weights as they are now."""
        if not masked or all(entry.mask.budget is not None for entry in masked):
            return
        if self.mode == "n:m":
            found = [entry.size * (self.m - self.n) // self.m for entry in masked]
        else:
            assert self.sparsity is not None
            scores = [entry.mask.scores(entry.weight) if entry.target else entry.mask.scores() for entry in masked]
            least = self.least_channels if self.mode == "channel" else self.least * (1 - self.sparsity)
            most = [entry.size - max(1, math.ceil(least * entry.size)) for entry in masked]
            allot = masks.budgets if self.budget == "global" else masks.uniform_budgets
            found = allot(scores, self.sparsity, most)
        for entry, count in zip(masked, found, strict=True):
            entry.mask.allot(count)

    def _judge(self, masked: list[Masked]) -> None:
        """Warn where the mask is still soft: what training sees is then not what ships."""
        gaps = {entry.name: _gap(entry)[1] for entry in masked}
        soft = {name: gap for name, gap in gaps.items() if gap > SOFT}
        if soft:
            worst = max(soft, key=soft.__getitem__)
            hint = "train on after the ramp, by a smaller end"
            if self.tau:
                hint = "leave tau out: it is then relative to each layer's threshold"
            rank_zero_warn(
                f"{type(self).__name__}: the ramp is over, but {len(soft)} of {len(masked)} masks are soft, softest "
                f"'{worst}' (mean |m - 1[m >= 0.5]| = {soft[worst]:.2f}): hardening will change the outputs; {hint}"
            )

    # The deliverable.

    @property
    def wants_statistics(self) -> bool:
        return self.statistics

    def finalize(self, module: nn.Module) -> nn.Module:
        masked = list(_collect(module, self.mode))
        self._allot(masked)
        self._removed, self._shrunk, self._names = {}, None, []
        for entry in masked:
            if entry.mask.pruned < entry.mask.budget:
                rank_zero_warn(
                    f"{type(self).__name__}: '{entry.name}' is pruned further than training went "
                    f"({entry.mask.budget} of {entry.size}, trained with {entry.mask.pruned}): its ramp was not over"
                )
                break
        with torch.no_grad():
            for entry in masked:
                _advance(entry, 1.0)
                if entry.target is not None:
                    self._names.append(entry.name)
                    detach(entry.target, entry.mask, entry.mask.hard(entry.weight))
            if self.mode == "channel":
                self._removed, self._names = channel_masks.bake(module)
        return module

    def simplify(self, module: nn.Module) -> tuple[nn.Module, Structure]:
        if not any(self._removed.values()):
            return module, {}
        before = _parameters(module)
        structure = channels.remove(module, self._removed)
        self._shrunk = before, _parameters(module)
        return module, structure

    def report(self, module: nn.Module) -> dict[str, float]:
        """Of a prepared module: ``compress/sparsity`` (share of the targets' weights, or channels, that the hard mask
        prunes), ``compress/sparsity_model`` (share of all parameters) and ``compress/softness`` (mean
        |m - 1[m >= 0.5]| of the softest layer). Of a finalized one: zeros counted, and ``compress/parameters_removed``.
        """
        masked = list(_collect(module, self.mode))
        if masked:
            return self._report_training(module, masked)
        every = dict(module.named_parameters())
        weights = [every[name] for name in self._names if name in every]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        total = _parameters(module)
        if self._shrunk is not None:
            before, after = self._shrunk
            return {"compress/parameters_removed": 1 - after / before, "compress/sparsity_model": zeros / total}
        if not weights:
            return {}
        size = sum(weight.numel() for weight in weights)
        return {"compress/sparsity": zeros / size, "compress/sparsity_model": zeros / total}

    def _report_training(self, module: nn.Module, masked: list[Masked]) -> dict[str, float]:
        full = self.mode == "n:m"  # its hard mask knows no ramp
        gone = {e.name: (e.mask.budget if full and e.mask.pruned else e.mask.pruned) for e in masked}
        found = {"compress/sparsity": sum(gone.values()) / sum(entry.size for entry in masked)}
        zeros = channel_masks.zeros(module) if self.mode == "channel" else sum(gone.values())
        found["compress/sparsity_model"] = zeros / _parameters(module)
        if self.tau != 0:
            found["compress/softness"] = max(_gap(entry)[1] for entry in masked)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # Weak references cannot be copied or sent to another process.
        return {**super().__getstate__(), "_found": weakref.WeakKeyDictionary(), "_plans": weakref.WeakKeyDictionary()}


def _collect(module: nn.Module, mode: Mode) -> Iterator[Masked]:
    if mode == "channel":
        for gate in channel_masks.gates(module):
            yield Masked(gate.name, gate.size, None, gate)
    else:
        kind = WeightMask if mode == "unstructured" else GroupMask
        for target, mask in carried(module, kind):
            yield Masked(target.name, target.original.numel(), target, mask)


def _advance(entry: Masked, share: float) -> None:
    if entry.target is None:
        entry.mask.advance(share)
    else:
        entry.mask.advance(entry.weight, share)


def _gap(entry: Masked) -> tuple[float, float]:
    if not entry.mask.pruned:
        return 0.0, 0.0
    return masks.softness(entry.mask.mask() if entry.target is None else entry.mask.mask(entry.weight))


def _pruned_already(target: Target) -> bool:
    layer, name = target.owners[0]
    chain = getattr(layer, "parametrizations", {})
    kinds = (WeightMask, GroupMask, channel_masks.ChannelMask)
    return name in chain and any(isinstance(transform, kinds) for transform in chain[name])


def _inputs_axis(target: Target) -> int:
    """Inputs are what a hardware's N:M kernel sums over: the input channels of a convolution."""
    if target.transposed:
        return 0
    return 1 if isinstance(target.layer, CONVOLUTIONS) else -1


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _pattern(text: str) -> tuple[int, int]:
    """N and M of "N:M"; raises ValueError."""
    left, _, right = str(text).partition(":")
    if not (left.isdigit() and right.isdigit() and 0 < int(left) < int(right) <= 32):
        raise ValueError(f"pattern is N:M, N of M weights stay, such as '2:4' (0 < N < M <= 32); got '{text}'")
    return int(left), int(right)
