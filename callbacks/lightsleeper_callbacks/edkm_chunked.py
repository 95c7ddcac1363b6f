"""DKM with both passes written out: no attention map is kept, and never a whole one is built.

A round depends on a weight through its value only, so a point may stand for many equal weights: `edkm_table` uses that.
Saved for backward are the points and (r + 1) x k x d centroids; attention is computed again, a chunk of points at a
time. This is ours, not in the eDKM paper, and exact: the gradient that autograd finds for ``dkm.dkm``.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightsleeper_callbacks.dkm import TINY

CHUNK = {"cpu": 1 << 17}
"""Attention values computed at a time: on a CPU they stay in its caches. Elsewhere BIG_CHUNK."""
BIG_CHUNK = 1 << 25


class Rounds(NamedTuple):
    """What a forward pass went through: all that its backward pass needs beside the points."""

    centroids: Tensor
    """(r + 1, k, d): round t starts from [t] and ends at [t + 1]."""
    mass: Tensor
    """(r, k): attention that each centroid got."""
    alive: Tensor
    """(r, k) bool: the centroids that moved."""


def attend(points: Tensor, centroids: Tensor, tau: Tensor | float) -> Tensor:
    """Attention (k, m) of points (d, m) to centroids (k, d); columns sum to 1."""
    squared = (points[0] - centroids[:, :1]).square_()
    for axis in range(1, len(points)):
        offset = points[axis] - centroids[:, axis, None]
        squared.addcmul_(offset, offset)
    return torch.softmax(squared.mul_(-1 / tau), 0)


def run(
    points: Tensor,
    counts: Tensor | None,
    centroids: Tensor,
    tau: Tensor | float,
    iterations: int,
    eps: float,
    fixed: Tensor | None = None,
) -> Rounds:
    """The rounds of ``dkm.dkm`` for points (d, m) that stand for ``counts`` (m,) weights each; None is one each."""
    visited, masses, moving = [centroids], [], []
    for _ in range(iterations):
        start = visited[-1]
        # Chunks are added up in float64: there may be thousands.
        mass = start.new_zeros(len(start), dtype=torch.float64)
        moment = start.new_zeros(start.shape, dtype=torch.float64)
        for part in _parts(points, start):
            share = attend(points[:, part], start, tau)
            if counts is not None:
                share *= counts[part]
            mass += share.sum(1)
            for axis, along in enumerate(points[:, part]):
                # A sum, not a product of matrices: its error does not grow with the chunk. One in a centroid comes back
                # in the attention multiplied by the distance of two centroids over tau.
                moment[:, axis] += (share * along if axis < len(points) - 1 else share.mul_(along)).sum(1)
        alive = mass > TINY if fixed is None else (mass > TINY) & ~fixed
        means = (moment / torch.where(alive, mass, 1.0)[:, None]).to(start.dtype)
        visited.append(torch.where(alive[:, None], means, start))
        masses.append(mass.to(start.dtype))
        moving.append(alive)
        if bool((visited[-1] - start).abs().amax() <= eps):
            break
    return Rounds(torch.stack(visited), torch.stack(masses), torch.stack(moving))


def mixtures(points: Tensor, rounds: Rounds, tau: Tensor | float) -> Tensor:
    """The soft-clustered points (d, m)."""
    start, end = rounds.centroids[-2], rounds.centroids[-1]
    result = torch.empty_like(points)
    for part in _parts(points, start):
        result[:, part] = end.t() @ attend(points[:, part], start, tau)
    return result


def gradients(
    points: Tensor,
    counts: Tensor | None,
    rounds: Rounds,
    tau: Tensor | float,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """What reaches the weights: ``through`` (d, m) by way of the centroids, and ``direct`` (d, m), the rest.

    ``grad`` (d, m) is the gradient of the mixtures, summed over the weights of a point. With ``counts`` (d = 1 only) a
    weight gets ``through + direct * its own gradient``; without, ``through + direct``.
    """
    visited, last = rounds.centroids, len(rounds.mass) - 1
    through, direct = torch.zeros_like(points), torch.zeros_like(points)
    carry = torch.zeros_like(visited[0], dtype=torch.float64)  # gradient of the centroids that leave a round (k, d)
    for part in _parts(points, visited[0]):
        carry += attend(points[:, part], visited[last], tau) @ grad[:, part].t()
    for index in range(last, -1, -1):
        start, end, alive = visited[index], visited[index + 1], rounds.alive[index][:, None]
        pull = torch.where(alive, carry.to(start.dtype) / torch.where(alive, rounds.mass[index][:, None], 1.0), 0.0)
        offset = (pull * end).sum(1, keepdim=True)
        moment, total = torch.zeros_like(carry), torch.zeros_like(carry[:, :1])
        for part in _parts(points, start):
            here = points[:, part]
            share = attend(here, start, tau)
            through[:, part] += pull.t() @ share
            # Gradient of the logits: share * (its own gradient - the mean one). It sums to 0 over the centroids, so
            # what a weight gets through the distances, -2 (w - c) / tau of each, is 2 c / tau.
            logits = _centred(share, (pull @ here).sub_(offset))
            through[:, part] += (start.t() * (2 / tau)) @ logits
            if counts is not None:
                logits *= counts[part]
            if index == last:
                own = _centred(share, end.expand(-1, share.shape[1]) if counts is not None else end @ grad[:, part])
                direct[:, part] = (start.t() * (2 / tau)) @ own
                logits += own * grad[:, part] if counts is not None else own
            if index:
                moment += logits @ here.t()
                total += logits.sum(1, keepdim=True)
        # The start of the first round is given: what reaches it goes nowhere. Nor does what reaches a centroid that
        # stayed: a fixed one always does, an empty one has no weight to get it from.
        carry = (moment - start * total) * (2 / tau)
    return through, direct


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, centroids: Tensor, tau: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
        points = vectors.t()
        rounds = run(points, None, centroids, tau, *settings)
        ctx.save_for_backward(vectors, tau, *rounds)
        end = rounds.centroids[-1].clone()
        ctx.mark_non_differentiable(end)
        return mixtures(points, rounds, tau).t().contiguous(), end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        vectors, tau, *rounds = ctx.saved_tensors
        through, direct = gradients(vectors.t(), None, Rounds(*rounds), tau, grad.t())
        return (through + direct).t(), *[None] * 5


def dkm(
    vectors: Tensor,
    centroids: Tensor,
    tau: Tensor | float,
    iterations: int = 5,
    eps: float = 1e-4,
    fixed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``dkm.dkm`` in O(n + k) memory: the same arguments, results and first derivative."""
    tau = torch.as_tensor(tau, dtype=vectors.dtype, device=vectors.device)
    return _Chunked.apply(vectors, centroids.detach(), tau, iterations, eps, fixed)


def _centred(share: Tensor, value: Tensor) -> Tensor:
    """share * (value - mean of value under share), column by column."""
    weighted = share * value
    return weighted.addcmul_(share, weighted.sum(0), value=-1)


def _parts(points: Tensor, centroids: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK.get(points.device.type, BIG_CHUNK) // len(centroids))
    return (slice(at, at + size) for at in range(0, points.shape[1], size))
