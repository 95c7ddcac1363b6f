"""From proposals, one word with a stretch of time for each output step, to events: non-maximum suppression in time.

Greedy: the proposal with the highest score is kept, those that overlap it go, and so on. Of the published rule only is
known that the best non-overlapping proposals remain (papers/dynamic_conformer 6); read as any overlap, whatever the
word. Whoever outranks all that it overlaps is kept whatever happens elsewhere, so all of these are found at once in a
matrix, a few rounds settle a block of proposals, and blocks follow each other in time: cost is linear in the length of
a stream and does not depend on the number of classes. Lower scores never displace higher ones: what is kept above a
threshold is what suppression without one keeps, cut at it.

NumPy only: the same code decides in evaluation and on a device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BLOCK = 128  # proposals settled at once: fastest of 32 to 512, measured on an hour of running speech


@dataclass(frozen=True)
class WordEvent:
    """A word that was found; seconds count from the start of the stream."""

    word: int
    """Number of its class."""
    begin_s: float
    end_s: float
    score: float


class Proposals(NamedTuple):
    """Columns (n,) of proposals in any order; seconds or any other unit of time."""

    score: NDArray[np.float64]
    word: NDArray[np.int64]
    begin: NDArray[np.float64]
    end: NDArray[np.float64]

    def at(self, index: NDArray) -> "Proposals":
        return Proposals(*(column[index] for column in self))

    def events(self) -> list[WordEvent]:
        columns = (column.tolist() for column in (self.word, self.begin, self.end, self.score))
        return [WordEvent(*row) for row in zip(*columns, strict=True)]


def proposals(score: ArrayLike, word: ArrayLike, begin: ArrayLike, end: ArrayLike) -> Proposals:
    """Columns of what a model gives for its steps (n,). Raises ValueError where their lengths differ."""
    columns = Proposals(
        np.asarray(score, np.float64).ravel(),
        np.asarray(word, np.int64).ravel(),
        np.asarray(begin, np.float64).ravel(),
        np.asarray(end, np.float64).ravel(),
    )
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"scores, words, begins and ends of the same steps: {[len(column) for column in columns]}")
    return columns


class Suppressor:
    """Suppression of proposals that arrive in the order of time, each settled as soon as nothing later can change it.

    Any division of a stream into calls keeps the same proposals. Between two calls it holds those that are not settled,
    as many as overlap the newest ones.

    Args:
        per_word: only the same word suppresses.

    Example::

        suppressor = Suppressor()
        kept = suppressor.push(found, horizon=0.48)  # no later proposal begins before 0.48
        kept = suppressor.finish()
    """

    def __init__(self, per_word: bool = False) -> None:
        self.per_word = per_word
        self._waiting = proposals([], [], [], [])

    def push(self, found: Proposals, horizon: float) -> Proposals:
        """What the next proposals settle, in the order of time. Later ones must not begin before ``horizon``."""
        known = Proposals(*(np.concatenate(pair) for pair in zip(self._waiting, found, strict=True)))
        kept, waiting = _settle(known, horizon, self.per_word)
        self._waiting = known.at(waiting)
        return known.at(kept[np.argsort(known.begin[kept], kind="stable")])

    def finish(self) -> Proposals:
        """What the end of the stream settles: all the rest. The next push begins a new stream."""
        return self.push(proposals([], [], [], []), np.inf)


def suppress(
    score: ArrayLike, word: ArrayLike, begin: ArrayLike, end: ArrayLike, per_word: bool = False
) -> NDArray[np.int64]:
    """Which of the proposals (n,) are kept, in the order of time; their own order does not matter.

    Equal scores: the earlier one is kept.
    """
    given = proposals(score, word, begin, end)
    order = np.argsort(given.begin, kind="stable")
    kept: list[NDArray[np.int64]] = []
    waiting = np.zeros(0, np.int64)
    for start in range(0, len(order), _BLOCK):
        index = np.concatenate([waiting, order[start : start + _BLOCK]])
        later = order[start + _BLOCK : start + _BLOCK + 1]
        horizon = float(given.begin[later[0]]) if len(later) else np.inf
        settled, left = _settle(given.at(index), horizon, per_word)
        kept.append(index[settled])
        waiting = index[left]
    found = np.concatenate(kept) if kept else waiting
    return found[np.argsort(given.begin[found], kind="stable")]


def decode(
    score: ArrayLike, word: ArrayLike, begin: ArrayLike, end: ArrayLike, threshold: float = 0.0, per_word: bool = False
) -> list[WordEvent]:
    """Events of the steps (T,) of a stream, in the order of time: those above ``threshold`` that suppression keeps."""
    return above(proposals(score, word, begin, end), threshold, per_word).events()


def above(given: Proposals, threshold: float, per_word: bool = False) -> Proposals:
    """What suppression keeps of the proposals above a threshold; one that is no stretch of time is none."""
    valid = given.at(np.flatnonzero(candidates(given, threshold)))
    return valid.at(suppress(*valid, per_word=per_word))


def candidates(given: Proposals, threshold: float) -> NDArray[np.bool_]:
    """Which steps (n,) propose anything at a threshold."""
    stretch = np.isfinite(given.begin) & np.isfinite(given.end) & (given.end > given.begin)
    return (given.score > threshold) & stretch


def _settle(given: Proposals, horizon: float, per_word: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of what is kept for certain, and of what is open as later proposals may begin from ``horizon`` on."""
    order = np.lexsort((given.word, given.end, given.begin, -given.score))  # best first; a total order, hence unique
    _, word, begin, end = given.at(order)
    common = np.minimum(end[:, None], end) - np.maximum(begin[:, None], begin)
    clash = common > 0
    if per_word:
        clash &= word[:, None] == word
    better = np.tri(len(order), k=-1, dtype=np.bool_)
    clash &= better  # of each row, the better ones that it overlaps
    certain = end <= horizon
    open_ = np.ones(len(order), np.bool_)
    kept = np.zeros(len(order), np.bool_)
    while True:
        now = open_ & certain & ~(clash & open_).any(1)
        if not now.any():
            return order[kept], order[open_]
        kept |= now
        open_ &= ~now & ~clash[:, now].any(1)
