"""Context-level load balancing: the split with the least time to first token, by hierarchical grid search.

The paper searches a coarse grid of split points and zooms in; its procedure beyond that is not published, this one is
ours after the outline of it: strides of a power of two times the granularity, halved when no neighbour is better. With
many ranks, where the paper's grid explodes, a move is a stride of tokens from any rank to any other: single boundaries
alone get stuck, because they pass tokens between neighbours only.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate, permutations, product

from lightsleeper.generation.split import Split, effective_ranks, even

GRANULARITY = 64  # tokens; kernels work in blocks of 64 to 512
ALL_AT_ONCE = 4  # ranks up to which every boundary is moved together with every other: 3^(p-1) candidates


def search(
    seconds: Callable[[Split], float],
    tokens: int,
    ranks: int,
    granularity: int = GRANULARITY,
    start: Split | None = None,
) -> tuple[Split, dict[Split, float]]:
    """The best split that was found, and the time of every one that was tried.

    Args:
        seconds: Time to first token of a split; called once for each.
        granularity: Boundaries are multiples of it, as far as the tokens allow.
        start: Where to begin; None: the even split. The even split itself is always tried, so the result is never
            worse than it.
    """
    ranks = effective_ranks(tokens, ranks)
    tried: dict[Split, float] = {}

    def time_of(split: Split) -> float:
        if split not in tried:
            tried[split] = seconds(split)
        return tried[split]

    time_of(even(tokens, ranks))
    granularity = max(1, min(granularity, tokens // (2 * ranks)))
    best = min((_rounded(start or even(tokens, ranks), granularity), even(tokens, ranks)), key=time_of)
    stride = granularity
    while stride * 2 <= tokens / (2 * ranks):
        stride *= 2
    while stride >= granularity:
        neighbour = min(_neighbours(best, stride), key=time_of, default=best)
        if time_of(neighbour) < time_of(best):
            best = neighbour
        else:
            stride //= 2
    return best, tried


def _neighbours(split: Split, stride: int) -> Iterator[Split]:
    """Splits whose boundaries differ by at most one stride: all of them for few ranks, else a run of boundaries."""
    if len(split) > ALL_AT_ONCE:
        for giver, taker in permutations(range(len(split)), 2):
            given = list(split)
            given[giver] -= stride
            given[taker] += stride
            if given[giver] >= 1:
                yield tuple(given)
        return
    *boundaries, tokens = accumulate(split)
    for move in product((-stride, 0, stride), repeat=len(boundaries)):
        moved = [0, *(boundary + by for boundary, by in zip(boundaries, move, strict=True)), tokens]
        pieces = tuple(b - a for a, b in zip(moved, moved[1:], strict=False))
        if min(pieces) >= 1 and pieces != split:
            yield pieces


def _rounded(split: Split, granularity: int) -> Split:
    *boundaries, tokens = accumulate(split)
    moved = [0, *(round(boundary / granularity) * granularity for boundary in boundaries), tokens]
    pieces = tuple(b - a for a, b in zip(moved, moved[1:], strict=False))
    return pieces if min(pieces) >= 1 else split
