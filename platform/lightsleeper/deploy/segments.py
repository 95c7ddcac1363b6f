"""Where in a window a keyword would lie: the stretch of frames that a phone encoder hears its phones in best.

Matchers are trained on clips that hold the keyword and nothing else, and partitions give every frame to some token, so
silence and other words around it have to go first. How to stream is not published (Nishu et al., ICASSP 2024, gives no
streaming protocol): this is ours. A path through the keyword's CTC states may begin and end at any frame; each frame
costs what its label is less likely than the frame's best one, as in `nn.ctc.keyword_score`, so frames outside the path
cost nothing. NumPy only, all keywords at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LOWEST = -1000.0  # nats a frame
_STEP = 2.0**-16  # nats: scores are whole numbers of it
_PLACES = 20  # bits below a score that say where its path began, so that one maximum chooses both
MARGIN = 2  # frames kept on both sides: training clips keep a tenth of a second, and CTC hears a phone late
_NEVER = -(1 << 56)  # as such a number: about -1e6 nats


@dataclass(frozen=True)
class Sought:
    """Keywords as CTC states one after the other: where a path may begin, then phone, blank, phone, ... phone."""

    states: NDArray[np.int64]
    """(S,) classes, 0 is the blank, also where paths begin."""
    skip: NDArray[np.int64]
    """(S - 2,) of states from the third: 0 where a phone may follow the one before without a blank between, else
    `_NEVER`."""
    begin: NDArray[np.int64]
    """(R,) where each keyword's paths begin."""
    last: NDArray[np.int64]
    """(R,) each keyword's last phone."""

    @property
    def phones(self) -> NDArray[np.int64]:
        """(R,) how many each keyword has."""
        return (self.last - self.begin + 1) // 2

    @classmethod
    def of(cls, phones: NDArray[np.integer]) -> "Sought":
        """Of phones (R, P), 0-padded, at least one a row."""
        counts = (phones > 0).sum(1)
        last = np.cumsum(2 * counts) - 1
        begin = last - 2 * counts + 1
        states = np.zeros(last[-1] + 1, np.int64)
        skip = np.full(len(states), _NEVER)
        for row, count, first in zip(phones, counts, begin, strict=True):
            own = slice(first + 1, first + 2 * count, 2)
            states[own] = row[:count]
            skip[own][1:] = np.where(row[1:count] != row[: count - 1], 0, _NEVER)
        return cls(states, skip[2:], begin, last)


def best_segments(
    log_probs: NDArray[np.floating], sought: Sought, earliest: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fit (R,), at most 0, a phone, and stretches (R, 2) in frames with their margin, of log-probabilities (N, C).

    ``earliest`` (R,): frames that the first phone may not precede; None: 0. Of paths that are as good the one that
    begins first counts. A keyword with more phones than there are frames fits with -1e9 and gets all frames.
    """
    rows = np.arange(len(sought.begin))
    earliest = np.zeros(len(rows), np.int64) if earliest is None else earliest
    frames = len(log_probs)
    cost = np.maximum(log_probs - log_probs.max(1, keepdims=True), _LOWEST) / _STEP
    cost = (np.rint(cost).astype(np.int64) << _PLACES)[:, sought.states]  # (N, S)
    time = np.arange(frames + 1)[:, None]
    begins = np.where(time >= earliest, frames - time, _NEVER)  # (N+1, R)
    paths = np.full((frames + 1, len(sought.states)), _NEVER)  # the best before each frame
    paths[0, sought.begin] = begins[0]
    skipped = np.empty(len(sought.skip), np.int64)
    for before, after, costs, starts in zip(paths[:-1], paths[1:], cost, begins[1:], strict=True):
        # By staying, advancing or skipping; what comes over a keyword's edge ends where its paths begin.
        np.maximum(before[1:], before[:-1], out=after[1:])
        np.add(before[:-2], sought.skip, out=skipped)
        np.maximum(after[2:], skipped, out=after[2:])
        after += costs
        after[sought.begin] = starts
    ended = paths[1:, sought.last]  # (N, R)
    end = (ended >> _PLACES).argmax(0)
    best = ended[end, rows]
    found = best > _NEVER // 2
    first, end = np.where(found, frames - (best & ((1 << _PLACES) - 1)), 0), np.where(found, end + 1, frames)
    fit = np.where(found, (best >> _PLACES) * _STEP / sought.phones, -1e9)
    stretches = np.stack([np.maximum(first - MARGIN, 0), np.minimum(end + MARGIN, frames)], axis=1)
    return fit.astype(np.float32), stretches
