"""DKM for 16-bit weights in the domain of their values (edkm.md B3.1): never an attention map of all weights.

At most 65,536 values exist, and a million trained bf16 weights hold some 3,600: rounds and gradients are worked out
once a value. What is left for each weight is counting (its bit pattern is the index: no sort), looking up and adding
up. Ours, not in the eDKM paper, whose uniquification shrinks the saved maps but computes them in full; exact like it.
"""

from typing import Any

import torch
from torch import Tensor

from lightsleeper_callbacks.edkm_chunked import Rounds, gradients, mixtures, run

VALUES = 1 << 16
MINUS_ZERO = 1 << 15  # its bit pattern, in bfloat16 and in float16


class _Table(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, centroids: Tensor, tau: Tensor, dtype: torch.dtype, *settings: Any
    ) -> tuple[Tensor, Tensor]:
        short = weight.to(dtype)
        codes = _codes(short)
        counts = torch.bincount(codes, minlength=VALUES)
        counts[0] += counts[MINUS_ZERO]
        counts[MINUS_ZERO] = 0
        used = counts.nonzero()[:, 0]
        points = _values(used, dtype).to(tau.dtype)[None]  # (1, u)
        rounds = run(points, counts[used].to(tau.dtype), centroids, tau, *settings)
        # A parameter is kept by the model anyway: keeping it costs nothing, rounding it again little.
        ctx.save_for_backward(weight if weight.is_leaf else short, used, counts[used], tau, *rounds)
        ctx.dtype = dtype
        end = rounds.centroids[-1].clone()
        ctx.mark_non_differentiable(end)
        return _look_up(mixtures(points, rounds, tau)[0], used, codes, weight), end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        kept, used, counts, tau, *rounds = ctx.saved_tensors
        codes = _codes(kept.to(ctx.dtype))
        flat = grad.reshape(-1)
        summed = torch.zeros(VALUES, dtype=tau.dtype, device=flat.device).index_add_(0, codes, flat.to(tau.dtype))
        summed[0] += summed[MINUS_ZERO]
        points = _values(used, ctx.dtype).to(tau.dtype)[None]
        through, direct = gradients(points, counts.to(tau.dtype), Rounds(*rounds), tau, summed[used][None])
        result = _look_up(through[0], used, codes, grad).addcmul_(_look_up(direct[0], used, codes, grad), grad)
        return result, *[None] * 6


def dkm(
    weight: Tensor,
    centroids: Tensor,
    tau: Tensor | float,
    iterations: int = 5,
    eps: float = 1e-4,
    fixed: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor]:
    """``dkm.dkm`` of ``rounded(weight, dtype)``, of any shape; centroids (k, 1).

    Computes in float32, in float64 for a float64 weight. Saves the weight itself where it is a parameter, else two
    bytes a weight, and a few numbers a value.
    """
    exact = torch.promote_types(weight.dtype, torch.float32)
    tau = torch.as_tensor(tau, dtype=exact, device=weight.device)
    return _Table.apply(weight, centroids.detach().to(exact), tau, dtype, iterations, eps, fixed)


def _codes(short: Tensor) -> Tensor:
    """Bit patterns of a 16-bit tensor as int32 (n,)."""
    return short.contiguous().view(torch.uint16).view(-1).to(torch.int32)


def _values(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of bit patterns, int64 (n,)."""
    return codes.to(torch.uint16).view(dtype)


def _look_up(entries: Tensor, used: Tensor, codes: Tensor, like: Tensor) -> Tensor:
    """The entry (u,) of each weight's value, in shape and type of ``like``."""
    table = torch.zeros(VALUES, dtype=like.dtype, device=like.device)
    table[used] = entries.to(like.dtype)
    table[MINUS_ZERO] = table[0]
    return table.index_select(0, codes).view(like.shape)
