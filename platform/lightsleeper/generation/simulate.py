"""What a split would take on ranks and links that are not at hand, from measured times of one layer.

With q_i the time until rank i's own keys and values of a layer are there, f_i that of the rest of the layer, and x_i
that of its prefix on the link (latency, bytes over bandwidth; a link carries one layer after the other):

    own keys there     kv_i(l) = E_i(l-1) + q_i           E_i(-1): the embedding
    prefix there        s_i(l) = max(kv_i(l), arrival of layer l from rank i-1)
    layer done          E_i(l) = s_i(l) + f_i
    first token                  E_{p-1}(L-1) + head

The recursion follows from the method; the paper's own latency analysis is not public in this form. It knows nothing of
contention: measure the times with all ranks of a machine at work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lightsleeper.generation.layout import Layout
from lightsleeper.generation.split import Split, ends, even


class LayerTimes(Protocol):
    """Seconds of one layer's parts for ``own`` tokens behind ``before`` others."""

    layers: int

    def embedding(self, own: int) -> float: ...

    def keys(self, own: int) -> float:
        """Norm, projections and positions: q."""
        ...

    def rest(self, own: int, before: int) -> float:
        """Attention, output projection and MLP: f."""
        ...

    def head(self) -> float: ...


@dataclass(frozen=True)
class Link:
    """Between neighbours."""

    latency_s: float = 0.0
    """Of a message; keys and values are one each."""
    bytes_per_s: float = float("inf")

    def seconds(self, size: float, messages: int = 2) -> float:
        return messages * self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True)
class Simulated:
    """One prefill as simulated, in seconds from its start."""

    ttft: float
    waited: tuple[float, ...]
    """By each rank for its prefix."""
    busy: tuple[float, ...]
    """By each link with messages."""
    present: tuple[tuple[float, ...], ...]
    """s_i(l), by rank and layer."""


def layer_bytes(layout: Layout, rows: int = 1) -> Callable[[int, int], int]:
    """Bytes of layer l's prefix of P tokens, as a function of (l, P)."""
    shapes = [shape for shape in layout if shape is not None]
    return lambda layer, tokens: rows * shapes[layer].bytes(tokens)


def simulate(
    times: LayerTimes, split: Sequence[int], links: Link | Sequence[Link], size: Callable[[int, int], int]
) -> Simulated:
    """The chain of ``split``; ``links`` one for all, or one for each pair of neighbours."""
    links = [links] * (len(split) - 1) if isinstance(links, Link) else list(links)
    arrivals = [0.0] * times.layers
    waited, busy, everything = [], [], []
    done = 0.0
    for rank, (own, end) in enumerate(zip(split, ends(split), strict=True)):
        q, f = times.keys(own), times.rest(own, end - own)
        done, lost, present = times.embedding(own), 0.0, []
        for layer in range(times.layers):
            ready = done + q
            start = max(ready, arrivals[layer])
            lost += start - ready
            present.append(start)
            done = start + f
        if rank < len(split) - 1:
            arrivals, carried = _carried(present, links[rank], end, size)
            busy.append(carried)
        waited.append(lost)
        everything.append(tuple(present))
    return Simulated(done + times.head(), tuple(waited), tuple(busy), tuple(everything))


def _carried(present: Sequence[float], link: Link, tokens: int, size: Callable[[int, int], int]) -> tuple[list, float]:
    """When each layer's prefix of ``tokens`` arrives, and how long the link was busy."""
    free, busy, arrivals = 0.0, 0.0, []
    for layer, left in enumerate(present):
        seconds = link.seconds(size(layer, tokens))
        free = max(free, left) + seconds
        busy += seconds
        arrivals.append(free)
    return arrivals, busy


def lower_bound(times: LayerTimes, split: Sequence[int]) -> float:
    """What no network makes faster: each rank's own work, the last layer's rest only on the last rank."""
    bounds = []
    for rank, (own, end) in enumerate(zip(split, ends(split), strict=True)):
        q, f = times.keys(own), times.rest(own, end - own)
        last = rank == len(split) - 1
        bounds.append(times.layers * (q + f) + times.head() if last else (times.layers - 1) * (q + f) + q)
    return max(bounds)


def simulate_gather(
    times: LayerTimes, tokens: int, ranks: int, link: Link, size: Callable[[int, int], int], dense: bool
) -> float:
    """Sequence parallelism with an even split: seconds to the first token.

    In each layer everyone waits for the slowest, then for p - 1 steps of a ring of the longest piece. ``dense`` takes
    ``times.rest`` of masked attention over all tokens, where ``times`` has it (``rest_dense``).
    """
    split = even(tokens, ranks)
    done = max(times.embedding(own) for own in split)
    finished = [done] * len(split)
    rest = getattr(times, "rest_dense", None) if dense else None
    for layer in range(times.layers):
        ready = max(at + times.keys(own) for at, own in zip(finished, split, strict=True))
        there = ready + (ranks - 1) * link.seconds(size(layer, split[0]), messages=1)
        finished = [
            there + (rest(own, tokens - own) if rest else times.rest(own, end - own))
            for own, end in zip(split, ends(split), strict=True)
        ]
    return finished[-1] + times.head()


def best_split(
    times: LayerTimes, tokens: int, ranks: int, link: Link, size: Callable[[int, int], int], granularity: int = 64
) -> tuple[Split, float]:
    """The split that the search finds in the simulator, and its time."""
    from lightsleeper.generation.search import search

    split, tried = search(lambda split: simulate(times, split, link, size).ttft, tokens, ranks, granularity)
    return split, tried[split]
