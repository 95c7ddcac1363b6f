"""Differentiable k-means clustering (DKM), the plain form: every other back-end is measured against this one.

Weights are seen as vectors of ``d`` numbers. Each is assigned softly to ``k`` centroids, the centroids move to the
means of what they hold, and after a few rounds each weight is replaced by its mixture of centroids. Autograd goes
through all rounds and keeps the attention map (n, k) of each. Cho et al., ICLR 2022 (arXiv 2108.12659); the distance is
the squared Euclidean one, as in its appendix and in Apple's code.
"""

from typing import Any

import torch
from torch import Tensor

TINY = 1e-30
"""A centroid that holds less than this of all weights together stays where it is: its mean would be 0 / 0."""


def attention(vectors: Tensor, centroids: Tensor, tau: Tensor | float) -> Tensor:
    """Share (n, k) of each centroid (k, d) in each vector (n, d); rows sum to 1."""
    if vectors.shape[1] == 1:
        squared = (vectors - centroids.t()).square()
    else:
        squared = (vectors[:, None] - centroids).square().sum(2)
    return torch.softmax(-squared / tau, 1)


def dkm(
    vectors: Tensor,
    centroids: Tensor,
    tau: Tensor | float,
    iterations: int = 5,
    eps: float = 1e-4,
    fixed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-clustered vectors (n, d), differentiable in ``vectors``, and the last centroids (k, d), detached.

    Args:
        vectors: weights (n, d) in the precision to compute in.
        centroids: where to start (k, d); no gradient flows into them.
        tau: temperature of the softmax over squared distances, in squared weight units.
        iterations: rounds at most.
        eps: stop when no coordinate of a centroid moved by more, in weight units.
        fixed: (k,) bool, centroids that do not move (the value zero of pruned weights).
    """
    centroids = centroids.detach()
    for _ in range(iterations):
        share = attention(vectors, centroids, tau)
        mass = share.sum(0)
        alive = mass > TINY if fixed is None else (mass > TINY) & ~fixed
        # Sums, not a product of matrices: over a million float32 weights its error came to 1 % of the gradient.
        moment = torch.stack([(share * along[:, None]).sum(0) for along in vectors.unbind(1)], 1)
        means = moment / torch.where(alive, mass, 1.0)[:, None]
        previous, centroids = centroids, torch.where(alive[:, None], means, centroids)
        if bool((centroids.detach() - previous.detach()).abs().amax() <= eps):
            break
    return share @ centroids, centroids.detach()


def nearest(vectors: Tensor, centroids: Tensor, budget: int = 1 << 22) -> Tensor:
    """Index (n,) int64 of the centroid (k, d) nearest to each vector (n, d); ``budget``: distances held at once."""
    if vectors.shape[1] == 1:
        line, order = centroids[:, 0].sort(stable=True)
        return order[torch.bucketize(vectors[:, 0].contiguous(), (line[1:] + line[:-1]) / 2)]
    parts = vectors.split(max(1, budget // centroids.numel()))
    return torch.cat([(part[:, None] - centroids).square().sum(2).argmin(1) for part in parts])


def snap(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Each vector (n, d) replaced by its nearest centroid: what ships. Exact zeros stay where zero is a centroid."""
    return centroids[nearest(vectors, centroids)]


class _Rounded(torch.autograd.Function):
    """To 16 bits and back, the gradient passed on as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.to(dtype).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` with values that ``dtype`` (16 bits) can hold; straight-through gradient, not rounded itself."""
    return weight if weight.dtype == dtype else _Rounded.apply(weight, dtype)
