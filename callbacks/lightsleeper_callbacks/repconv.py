"""Re-parameterisable convolutions: several conv-BN branches in training, one plain convolution in the deliverable.

    y = sum_n BN(conv_K(x)) + sum_k BN(conv_k(x)) + BN(conv_1(x)) + BN(x)

as in RepVGG (2101.03697), MobileOne (2206.04040) and RepCNN (2406.02652, whose layer sizes we could not establish:
every branch is therefore an argument). The activation is left to the caller. A norm per branch is essential: without it
(``norms="sum"``, for comparison) the sum is linear in the weights and trains like one convolution. The fold is exact
for running statistics only, and is computed in float64 on the CPU.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Size = tuple[int, ...]
Norms = Literal["branch", "sum"]
L = TypeVar("L", bound=nn.Module)


def fold_norm(weight: Tensor, bias: Tensor | None, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight (out, ...) and bias (out,) of the layer that equals ``norm`` in eval mode behind a layer with these.

    ``bias`` None is zero. Raises ValueError for a norm without running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded: it needs the batch")
    factor = (_exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * _exact(norm.weight)
    shift = -_exact(norm.running_mean) if bias is None else _exact(bias) - _exact(norm.running_mean)
    shift = shift * factor
    if norm.bias is not None:
        shift = shift + _exact(norm.bias)
    return _exact(weight) * factor.view(-1, *[1] * (weight.dim() - 1)), shift


def place(weight: Tensor, kernel: Size, first: Size) -> Tensor:
    """Weight (out, in, *small) among zeros in (out, in, *kernel), its first tap at ``first``."""
    ends = [(at, whole - at - k) for at, whole, k in zip(first, kernel, weight.shape[2:], strict=True)]
    return F.pad(weight, [count for pair in reversed(ends) for count in pair])


def delta(channels: int, groups: int, kernel: Size, tap: Size) -> Tensor:
    """The kernel (channels, channels / groups, *kernel), float64, that passes each channel on as it is at ``tap``."""
    weight = torch.zeros(channels, channels // groups, *kernel, dtype=torch.float64)
    out = torch.arange(channels)
    at: Any = (out, out % (channels // groups), *tap)
    weight[at] = 1
    return weight


def with_weights(layer: L, weight: Tensor, bias: Tensor, trained: bool) -> L:
    """A new convolution or linear layer like ``layer`` with these values in its type; draws no random numbers."""
    kind: Any = type(layer)
    old: Any = layer
    if isinstance(layer, nn.Linear):
        made = kind(old.in_features, old.out_features, device="meta")
    else:
        made = kind(
            old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation, old.groups,
            padding_mode=old.padding_mode, device="meta",
        )  # fmt: skip
    for name, value in (("weight", weight), ("bias", bias)):
        setattr(made, name, nn.Parameter(value.to(old.weight.device, old.weight.dtype), requires_grad=trained))
    return made.train(layer.training)


class _RepConv(nn.Module):
    convolution: ClassVar[Any]
    norm: ClassVar[Any]
    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Size,
        stride: int | Size = 1,
        dilation: int | Size = 1,
        groups: int = 1,
        branches: int = 1,
        kernels: Sequence[int | Size] = (),
        scale: bool = True,
        skip: bool = True,
        causal: bool = False,
        norms: Norms = "branch",
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups, self.causal = in_channels, out_channels, groups, causal
        self.kernel_size, self.stride, self.dilation = map(self._size, (kernel_size, stride, dilation))
        one, smaller = self._size(1), [self._size(kernel) for kernel in kernels]
        if branches < 1:
            raise ValueError(f"branches must be 1 or more; got {branches}")
        for name, size in (("kernel_size", self.kernel_size), ("stride", self.stride), ("dilation", self.dilation)):
            if min(size) < 1:
                raise ValueError(f"{name} must be 1 or more; got {size}")
        for kernel in smaller:
            if any(not 1 <= k <= whole for k, whole in zip(kernel, self.kernel_size, strict=True)):
                raise ValueError(f"kernels must lie within kernel_size {self.kernel_size}; got {kernel}")
        if not causal:
            for kernel in (self.kernel_size, *smaller):
                if any(k % 2 == 0 for k in kernel):
                    raise ValueError(f"a centred kernel must be odd, to have a middle; got {kernel}")
        sizes = [*[self.kernel_size] * branches, *smaller]
        if scale and one not in (self.kernel_size, *smaller):
            sizes.append(one)
        if norms not in ("branch", "sum"):
            raise ValueError(f"norms must be 'branch' or 'sum'; got {norms!r}")
        each = norms == "branch"
        self.branches = nn.ModuleList(self._branch(size, each) for size in sizes)
        legal = in_channels == out_channels and self.stride == one
        self.skip = (self.norm(out_channels) if each else nn.Identity()) if skip and legal else None
        self.whole = None if each else self.norm(out_channels)

    def _size(self, value: int | Size) -> Size:
        size = (value,) * self.dims if isinstance(value, int) else tuple(value)
        if len(size) != self.dims:
            raise ValueError(f"{type(self).__name__} takes sizes of {self.dims} numbers; got {value}")
        return size

    def _branch(self, kernel: Size, norm: bool) -> nn.Sequential:
        reach = zip(kernel, self.dilation, strict=True)
        padding = (0,) * self.dims if self.causal else tuple(k // 2 * dilation for k, dilation in reach)
        conv = self.convolution(
            self.in_channels, self.out_channels, kernel, self.stride, padding, self.dilation, self.groups, bias=False
        )
        return nn.Sequential(conv, self.norm(self.out_channels) if norm else nn.Identity())

    def _first(self, kernel: Size) -> Size:
        """Where a branch's first tap lies in the whole kernel: both end together, or have their middles together."""
        spare = (whole - k for whole, k in zip(self.kernel_size, kernel, strict=True))
        return tuple(count if self.causal else count // 2 for count in spare)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, ...) to the sum of all branches (B, out_channels, ...)."""
        branches: Any = self.branches
        total = branches[0](x)
        for branch in branches[1:]:  # one after the other: few outputs are alive at a time
            total = total + branch(self._aligned(x, branch[0].kernel_size))
        if self.skip is not None:
            total = total + self.skip(self._aligned(x, self._size(1)))
        return total if self.whole is None else self.whole(total)

    def _aligned(self, x: Tensor, kernel: Size) -> Tensor:
        """The input without the frames that only a longer kernel sees: all branches then answer for the same ones."""
        return x[..., self.dilation[0] * self._first(kernel)[0] :] if self.causal else x

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, float64, of the convolution that equals the sum of all branches in eval mode."""
        parts = []
        branches: Any = self.branches
        for conv, norm in branches:
            weight, bias = _behind(norm, conv.weight)
            parts.append((place(weight, self.kernel_size, self._first(conv.kernel_size)), bias))
        if self.skip is not None:
            unit = delta(self.out_channels, self.groups, self.kernel_size, self._first(self._size(1)))
            parts.append(_behind(self.skip, unit))
        weights, biases = zip(*parts, strict=True)
        weight, bias = torch.stack(weights).sum(0), torch.stack(biases).sum(0)
        return (weight, bias) if self.whole is None else fold_norm(weight, bias, self.whole)

    @torch.no_grad()
    def reparameterize(self) -> nn.Conv1d | nn.Conv2d:
        """The plain convolution, a new layer, that equals this one in eval mode; this one stays as it is."""
        trained = any(parameter.requires_grad for parameter in self.parameters())
        whole: Any = self.branches[0].get_submodule("0")
        return with_weights(whole, *self.folded(), trained).train(self.training)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"dilation={self.dilation}, groups={self.groups}, causal={self.causal}"
        )


class RepConv1d(_RepConv):
    """A convolution over time that trains as a sum of branches and folds into one ``nn.Conv1d``.

    Centred (default), it pads with zeros so that a stride of 1 keeps the length. Causal, every branch answers for the
    newest frame of the kernel (its last tap), and nothing is padded: ``past`` frames have to come before. Offline they
    are zeros from a layer of their own, in a stream they are the last frames; so the folded layer is a plain
    convolution either way, and the same layer serves both.

    Args:
        in_channels, out_channels, groups: as in ``nn.Conv1d``; depthwise with ``groups=in_channels``.
        kernel_size: taps; odd unless causal.
        stride, dilation: in frames, the same for every branch.
        branches: conv-BN branches with the whole kernel.
        kernels: sizes of further conv-BN branches with smaller kernels.
        scale: a branch with one tap; none where the kernel or another branch is that already.
        skip: a branch that is a norm only, where input and output match: equal channels and a stride of 1.
        causal: see above.
        norms: branch, one behind each (RepVGG, RepCNN), or sum, a single one behind their sum: the ablation that is
            linear in the weights, and skip the plain input.

    Raises ValueError for sizes that cannot be aligned.

    Example::

        layer = nn.Sequential(nn.ZeroPad1d((6, 0)), RepConv1d(32, 32, 7, groups=32, branches=4, causal=True), nn.ReLU())
        layer[1] = layer[1].eval().reparameterize()
    """

    convolution, norm, dims = nn.Conv1d, nn.BatchNorm1d, 1

    @property
    def past(self) -> int:
        """Frames before the newest that the kernel sees."""
        return self.dilation[0] * (self.kernel_size[0] - 1)


class RepConv2d(_RepConv):
    """`RepConv1d` over height and width, centred: folds into one ``nn.Conv2d``. Sizes are numbers or pairs."""

    convolution, norm, dims = nn.Conv2d, nn.BatchNorm2d, 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Size,
        stride: int | Size = 1,
        dilation: int | Size = 1,
        groups: int = 1,
        branches: int = 1,
        kernels: Sequence[int | Size] = (),
        scale: bool = True,
        skip: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, branches, kernels, scale, skip
        )


def _behind(norm: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of a branch: its weight and its norm, which may be the identity."""
    if isinstance(norm, _BatchNorm):
        return fold_norm(weight, None, norm)
    return _exact(weight), _exact(weight).new_zeros(len(weight))


def _exact(value: Tensor) -> Tensor:
    return value.detach().cpu().double()
