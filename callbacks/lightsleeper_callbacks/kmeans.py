"""Where clustering starts: hard k-means of the weights, the same for the same weights on every process."""

import torch
from torch import Tensor

from lightsleeper_callbacks.dkm import nearest

SAMPLE = 1 << 20  # weights looked at, evenly spread
POINTS = 1024
"""Up to this many distinct values, and WORK, one-dimensional k-means is exact; more are first put into as many bins."""
WORK = 1 << 26
ROUNDS = 50  # of Lloyd's algorithm afterwards
VECTORS = 1 << 15  # the same for vectors of several numbers


def kmeans(vectors: Tensor, k: int, zero: bool = False) -> tuple[Tensor, float]:
    """Centroids (k, d) float32 of vectors (n, d), and their mean squared error a number.

    ``zero``: the first centroid is zero, and vectors of exact zeros belong to it and count neither for the others nor
    for the error. Fewer distinct vectors than centroids leave copies of the last one.
    """
    many = SAMPLE if vectors.shape[1] == 1 else VECTORS
    data = vectors.detach()[:: max(1, -(-len(vectors) // many))].double()
    if zero:
        data = data[data.ne(0).any(1)]
    wanted = k - zero
    if not len(data):
        return vectors.new_zeros(k, vectors.shape[1], dtype=torch.float32), 0.0
    found = _line(data[:, 0], wanted)[:, None] if data.shape[1] == 1 else _space(data, wanted)
    error = (data - found[nearest(data, found)]).square().mean()
    if zero:
        found = torch.cat([torch.zeros_like(found[:1]), found])
    return found.float(), float(error)


def _line(values: Tensor, k: int) -> Tensor:
    """Centroids (k,) of numbers (n,)."""
    points, counts = values.unique(return_counts=True)  # ascending
    counts = counts.to(values.dtype)
    if len(points) <= k:
        return torch.cat([points, points[-1:].expand(k - len(points))])
    size = min(POINTS, int((WORK / k) ** 0.5))
    if len(points) <= size:
        return _exact(points, counts, k)
    # Bins halfway between equal weight, which is coarse in the tails, and equal width, which is at the mercy of one
    # outlier: the best density of centroids lies between. Empty bins go.
    place = (counts.cumsum(0) - counts / 2) / counts.sum() + (points - points[0]) / (points[-1] - points[0])
    bins = (place * (size / 2)).long().clamp_(max=size - 1)
    weight = torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, bins, counts)
    total = torch.zeros_like(weight).index_add_(0, bins, counts * points)
    filled = weight > 0
    start = (total / weight)[filled]
    start = _exact(start, weight[filled], k) if len(start) > k else _spread(points, k)
    return _lloyd(points, counts, start)


def _spread(points: Tensor, k: int) -> Tensor:
    """``k`` of the ascending points, evenly spread over them."""
    return points[torch.linspace(0, len(points) - 1, k, device=points.device).long()]


def _exact(points: Tensor, counts: Tensor, k: int) -> Tensor:
    """The best centroids (k,) of ascending points (m,), m > k, by dynamic programming over their cuts."""
    points = points - (centre := (points * counts).sum() / counts.sum())
    sums = torch.stack([counts, counts * points, counts * points.square()]).cumsum(1)
    before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
    weight, first, second = sums[:, None] - before[:, :, None]  # of the points i..j: (m, m)
    cost = torch.where(weight > 0, second - first.square() / weight, torch.inf)
    cost = cost.clamp_(min=0).masked_fill_(torch.ones_like(cost, dtype=torch.bool).tril(-1), torch.inf)
    best, cuts = cost[0], []
    for _ in range(1, k):
        # The last run starts at i: what lies before it is best[i - 1].
        best, cut = (torch.nn.functional.pad(best[:-1], (1, 0), value=torch.inf)[:, None] + cost).min(0)
        cuts.append(cut)
    end, runs = len(points), []
    for cut in reversed(cuts):
        start = int(cut[end - 1])
        runs.append((start, end))
        end = start
    means = [(points[a:b] * counts[a:b]).sum() / counts[a:b].sum() for a, b in [(0, end), *reversed(runs)]]
    return torch.stack(means) + centre


def _lloyd(points: Tensor, counts: Tensor, centroids: Tensor) -> Tensor:
    """Lloyd's algorithm on ascending points; each round costs k log n by prefix sums. An empty cluster stays."""
    sums = torch.nn.functional.pad(torch.stack([counts, counts * points]).cumsum(1), (1, 0))
    for _ in range(ROUNDS):
        edges = torch.searchsorted(points, (centroids[1:] + centroids[:-1]) / 2)
        edges = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), len(points))])
        weight, total = sums[:, edges].diff(dim=1)
        moved = torch.where(weight > 0, total / weight.clamp(min=1e-300), centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _space(vectors: Tensor, k: int) -> Tensor:
    """Centroids (k, d) by k-means++ and Lloyd's algorithm; an empty cluster moves to the worst served vector."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(k, generator=generator, dtype=torch.float64).to(vectors.device)
    chosen = [vectors[int(draws[0] * len(vectors))]]
    distance = (vectors - chosen[0]).square().sum(1)
    for draw in draws[1:]:
        total = distance.cumsum(0)
        chosen.append(vectors[torch.searchsorted(total, draw * total[-1]).clamp_(max=len(vectors) - 1)])
        distance = torch.minimum(distance, (vectors - chosen[-1]).square().sum(1))
    centroids = torch.stack(chosen)
    for _ in range(ROUNDS):
        owner = nearest(vectors, centroids)
        weight = torch.bincount(owner, minlength=k).to(vectors.dtype)
        moved = torch.zeros_like(centroids).index_add_(0, owner, vectors) / weight.clamp(min=1)[:, None]
        if len(empty := (weight == 0).nonzero()[:, 0]):
            worst = (vectors - centroids[owner]).square().sum(1).topk(min(len(empty), len(vectors))).indices
            moved[empty] = centroids[empty]
            moved[empty[: len(worst)]] = vectors[worst]
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids
