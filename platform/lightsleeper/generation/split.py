"""How a prompt is cut: contiguous pieces in the order of the ranks, each of at least one token."""

from collections.abc import Sequence
from itertools import accumulate

from lightsleeper.errors import UserError

Split = tuple[int, ...]


def effective_ranks(tokens: int, ranks: int) -> int:
    """Ranks that a prompt of ``tokens`` can occupy: an empty piece has no queries and no message."""
    return min(tokens, ranks)


def even(tokens: int, ranks: int) -> Split:
    """Pieces that differ by at most one token, the longer ones first; `effective_ranks` of them."""
    ranks = effective_ranks(tokens, ranks)
    return tuple(tokens // ranks + (rank < tokens % ranks) for rank in range(ranks))


def checked(split: Sequence[int], tokens: int, ranks: int) -> Split:
    """``split`` as it is, once it fits. Raises UserError: another sum, an empty piece, more pieces than ranks."""
    if not split or min(split) < 1:
        raise UserError(f"split {_text(split)}: every rank needs at least one token.")
    if sum(split) != tokens:
        raise UserError(f"split {_text(split)} holds {sum(split)} tokens, the prompt {tokens}.")
    if len(split) > ranks:
        raise UserError(f"split {_text(split)} is for {len(split)} ranks, there are {ranks}.")
    return tuple(split)


def ends(split: Sequence[int]) -> Split:
    """P_i, the tokens up to and with rank i's own."""
    return tuple(accumulate(split))


def by_ratios(ratios: Sequence[float], tokens: int) -> Split:
    """Largest remainder: pieces next to ``ratios * tokens`` that sum to ``tokens``, none empty.

    Raises ValueError when there are more ratios than tokens.
    """
    if len(ratios) > tokens:
        raise ValueError(f"{tokens} tokens cannot fill {len(ratios)} pieces")
    wanted = [ratio * tokens / sum(ratios) for ratio in ratios]
    # A ratio that came from an integer gives it back, though its product may be a hair below.
    pieces = [max(1, int(share + 1e-9)) for share in wanted]
    while sum(pieces) > tokens:  # some were raised to one token: the one furthest above its share gives
        pieces[_furthest(pieces, wanted, [index for index, piece in enumerate(pieces) if piece > 1])] -= 1
    while sum(pieces) < tokens:
        pieces[_furthest(wanted, pieces, range(len(pieces)))] += 1
    return tuple(pieces)


def _furthest(these: Sequence[float], those: Sequence[float], among: Sequence[int]) -> int:
    """Of the indices ``among``, where ``these`` is above ``those`` by most; the first of equals."""
    return max(among, key=lambda index: these[index] - those[index])


def _text(split: Sequence[int]) -> str:
    return ",".join(str(piece) for piece in split) or "(none)"
