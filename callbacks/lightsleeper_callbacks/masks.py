"""Which weights stay: thresholds, masks and budgets as pure functions of tensors.

The soft mask is that of PDP (Cho, Adya, Naik: "PDP: Parameter-free Differentiable Pruning is All You Need", NeurIPS
2023, arXiv 2305.11203): equation numbers below are the paper's. At a temperature of 0 it is the mask of magnitude
pruning, so both methods share this file. The threshold is a constant for the gradient; the paper does not say whether.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

RELATIVE_TAU = 0.04
"""Temperature as a share of t^2. The published 1e-4 at a threshold of 0.05: a weight on the border then gets 13 times
its dense gradient, and whatever the scale of a layer, a weight of 0 has m = 1e-11. On a byte-level language model at
90 % (one seed) 0.04 gave 3.35 bits a byte, 0.01 3.56, 0.3 3.60."""
_TINY = 1e-24  # least temperature: t = 0 (half of a layer is zeros) must not divide by zero; w^2/tau stays finite


def threshold(weight: Tensor, pruned: int) -> Tensor:
    """t of (2), a scalar: midway between the largest of the ``pruned`` smallest magnitudes and the next one.

    0 < pruned < number of weights. Exact, in float32 (float64 for float64 weights).
    """
    low, high = _around(_magnitude(weight), pruned)
    return (low + high) / 2


def soft_mask(weight: Tensor, t: Tensor, tau: float | None = None) -> Tensor:
    """m of (3), the chance of being kept, in its stable form sigmoid((w^2 - t^2) / tau); shaped like ``weight``.

    ``t`` broadcasts against ``weight``. ``tau``: temperature; None is RELATIVE_TAU t^2; 0 is the hard |w| >= t.
    """
    weight = _exact(weight)
    if tau == 0:
        return (weight.abs() >= t).to(weight.dtype)
    return mask_of_squares(weight * weight, t, tau)


def mask_of_squares(squares: Tensor, t: Tensor, tau: float | None = None) -> Tensor:
    """``soft_mask`` of the weights, or norms, with these squares."""
    if tau == 0:
        return (squares.sqrt() >= t).to(squares.dtype)
    scale, offset = _scaled(t.to(squares.dtype), tau)
    return torch.sigmoid(squares * scale - offset)


def soft_weight(weight: Tensor, t: Tensor, tau: float | None = None, share: float = 1.0, group: int = 1) -> Tensor:
    """(4), m w, with the gradient (5), m + 2 w^2 / tau m (1 - m), in closed form: one tensor is saved for backward.

    ``share`` blends towards the dense weight: (1 - share + share m) w. ``group``: ``weight`` is flat and each ``t`` is
    for that many consecutive weights; otherwise ``t`` broadcasts. Computed in float32 at least, returned in the type of
    ``weight``.
    """
    return _SoftWeight.apply(weight, t.detach(), tau, share, group)


class _SoftWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, t: Tensor, tau: float | None, share: float, group: int) -> Tensor:
        exact = _exact(weight)
        if tau == 0:
            mask = (exact.abs() >= (t if group == 1 else t.repeat_interleave(group))).to(exact.dtype)
            slope = mask  # magnitude pruning: a pruned weight gets no gradient
        else:
            scale, offset = _scaled(t.to(exact.dtype), tau)
            if group > 1:
                scale, offset = (x.repeat_interleave(group) if isinstance(x, Tensor) else x for x in (scale, offset))
            x = (exact * exact).mul_(scale)
            mask = (x - offset).sigmoid_()
            slope = torch.addcmul(mask, mask, mask, value=-1)  # m (1 - m)
            torch.addcmul(mask, x, slope, value=2, out=slope)
        if share < 1:
            mask = mask.mul(share).add_(1 - share)
            slope = slope.mul(share).add_(1 - share)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(slope)
        return (mask * exact).to(weight.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (gradient * slope).to(gradient.dtype), None, None, None, None


def hard_mask(magnitude: Tensor, pruned: int) -> Tensor:
    """True for all but the ``pruned`` smallest magnitudes, exactly; of equal ones the earlier stay."""
    if pruned == 0:
        return torch.ones_like(magnitude, dtype=torch.bool)
    if pruned == magnitude.numel():
        return torch.zeros_like(magnitude, dtype=torch.bool)
    _, border = _around(magnitude.clone(), pruned)
    kept = magnitude >= border
    excess = int(kept.sum()) - (magnitude.numel() - pruned)
    if excess:
        ties = (magnitude == border).flatten().nonzero()[-excess:, 0]
        kept.view(-1)[ties] = False
    return kept


def budgets(scores: Sequence[Tensor], sparsity: float, most: Sequence[int] | None = None) -> list[int]:
    """How many of each tensor's smallest go, so that floor(sparsity n) of all n go: the smallest of all.

    ``most``: what each may lose; default all but one. What one cannot lose, the others do, as far as they can.
    """
    sizes = [score.numel() for score in scores]
    most = [size - 1 for size in sizes] if most is None else most
    wanted = math.floor(sparsity * sum(sizes) + 1e-9)  # 0.29 * 100 is 28.999...
    found = [0] * len(sizes)
    open_ = list(range(len(sizes)))
    while open_:
        left = wanted - sum(found[i] for i in range(len(sizes)) if i not in open_)
        counts = _split([scores[i] for i in open_], min(left, sum(sizes[i] for i in open_)))
        full = [i for i, count in zip(open_, counts, strict=True) if count > most[i]]
        for i, count in zip(open_, counts, strict=True):
            found[i] = min(count, most[i])
        if not full:
            break
        open_ = [i for i in open_ if i not in full]
    return found


def _split(scores: Sequence[Tensor], total: int) -> list[int]:
    """How many of the ``total`` smallest values lie in each tensor; of equal ones the earlier tensors' count."""
    if total == 0:
        return [0] * len(scores)
    together = torch.cat([score.flatten() for score in scores])
    border = together.max() if total == together.numel() else _around(together, total)[0]
    counts = [int((score < border).sum()) for score in scores]
    left = total - sum(counts)
    for i, score in enumerate(scores):
        ties = min(left, int((score == border).sum()))
        counts[i] += ties
        left -= ties
    return counts


def uniform_budgets(scores: Sequence[Tensor], sparsity: float, most: Sequence[int] | None = None) -> list[int]:
    """The same share of each tensor; arguments as for ``budgets``."""
    limits = [score.numel() - 1 for score in scores] if most is None else most
    return [
        min(math.floor(sparsity * score.numel() + 1e-9), limit) for score, limit in zip(scores, limits, strict=True)
    ]


# N of M consecutive weights along the input axis.


def to_groups(weight: Tensor, m: int, axis: int) -> Tensor:
    """(groups, M); a view where ``axis`` is the last. Its size is a multiple of ``m``."""
    return weight.movedim(axis, -1).reshape(-1, m)


def from_groups(groups: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Inverse of ``to_groups``; ``groups`` may be flat."""
    axis %= len(shape)
    if axis == len(shape) - 1:
        return groups.reshape(shape)
    moved = groups.reshape([*shape[:axis], *shape[axis + 1 :], shape[axis]]).movedim(-1, axis)
    # Not contiguous(): a 1x1 kernel counts as contiguous with the strides of channels-last, and its convolution and
    # all that follow would change their memory format.
    return moved.clone(memory_format=torch.contiguous_format)


def group_thresholds(groups: Tensor, n: int) -> Tensor:
    """t of (2) for each group (groups, M): midway between its n-th and (n+1)-th largest magnitude; (groups,)."""
    rows = list(_columns(groups))
    for place in range(n):  # the largest rise to the front; a sort of short rows costs ten times as much
        for other in range(place + 1, len(rows)):
            larger = torch.maximum(rows[place], rows[other])
            torch.minimum(rows[place], rows[other], out=rows[other])
            rows[place] = larger
    following = rows[n]
    for other in rows[n + 1 :]:
        following = torch.maximum(following, other)
    return (rows[n - 1] + following) / 2


def hard_group_mask(groups: Tensor, n: int) -> Tensor:
    """True for the ``n`` largest magnitudes of each group (groups, M), exactly; of equal ones the earlier stay."""
    rows = _columns(groups)
    kept = []
    for i, row in enumerate(rows):
        larger = (rows[:i] >= row).sum(0, dtype=torch.int32) + (rows[i + 1 :] > row).sum(0, dtype=torch.int32)
        kept.append(larger < n)
    return torch.stack(kept, 1)


def _columns(groups: Tensor) -> Tensor:
    """Magnitudes as (M, groups), a new tensor: each step runs on long contiguous rows."""
    return torch.stack(_magnitude(groups).unbind(1))


def softness(mask: Tensor) -> tuple[float, float]:
    """Largest and mean |m - 1[m >= 0.5]|: how far training is from the hard mask.

    Some of a thousand weights always lie near the threshold, so the largest is close to 0.5 in any real layer; the mean
    tells a mask that separates from one that does not.
    """
    mask = mask.detach()
    gap = torch.minimum(mask, 1 - mask)
    return float(gap.max()), float(gap.mean())


def _around(values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The values at ranks ``rank`` - 1 and ``rank`` in ascending order; ``values`` (contiguous) may be reordered."""
    values = values.detach().flatten()
    if values.device.type == "cpu":
        array = values.numpy()
        array.partition(rank)  # in place, vectorised: several times faster than kthvalue or topk
        return values[:rank].amax(), values[rank]
    ordered = values.sort().values
    return ordered[rank - 1], ordered[rank]


def _magnitude(weight: Tensor) -> Tensor:
    """A new tensor."""
    return _exact(weight.detach()).abs()


def _exact(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def _scaled(t: Tensor, tau: float | None) -> tuple[Tensor | float, Tensor | float]:
    """1 / tau and t^2 / tau."""
    if t.dim() == 0 and t.device.type == "cpu":  # as numbers: a small layer spends more on each tensor than on its work
        number = float(t) ** 2
        factor = 1 / max(number * RELATIVE_TAU, _TINY) if tau is None else 1 / tau
        return factor, number * factor
    square = t * t
    scale = 1 / tau if tau is not None else (square * RELATIVE_TAU).clamp_min(_TINY).reciprocal()
    return scale, square * scale
