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

MARGIN = 2  # frames kept on both sides: training clips keep a tenth of a second, and CTC hears a phone late
_NEVER = np.float32(-1e9)


@dataclass(frozen=True)
class Sought:
    """Keywords as CTC states: phone, blank, phone, ... phone."""

    states: NDArray[np.int64]
    """(R, S) classes, 0 is the blank."""
    skip: NDArray[np.float32]
    """(R, S) 0 where a phone may follow the one before without a blank between, else a large penalty."""
    last: NDArray[np.int64]
    """(R,) the state of the last phone."""

    @classmethod
    def of(cls, phones: NDArray[np.integer]) -> "Sought":
        """Of phones (R, P), 0-padded, at least one a row."""
        counts = (phones > 0).sum(1)
        phones = phones[:, : int(counts.max())]
        states = np.zeros((len(phones), 2 * phones.shape[1] - 1), np.int64)
        states[:, ::2] = phones
        skip = np.full(states.shape, _NEVER, np.float32)
        skip[:, 2::2] = np.where(phones[:, 1:] != phones[:, :-1], np.float32(0), _NEVER)
        return cls(states, skip, 2 * counts - 2)


def best_segments(
    log_probs: NDArray[np.floating], sought: Sought, earliest: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fit (R,), at most 0, a phone, and stretches (R, 2) in frames with their margin, of log-probabilities (N, C).

    ``earliest`` (R,): frames that the first phone may not precede; None: 0. A keyword with more phones than there are
    frames fits with about -1e9 and gets all frames.
    """
    earliest = np.zeros(len(sought.states), np.int64) if earliest is None else earliest
    frames, (rows, states) = len(log_probs), sought.states.shape
    cost = (log_probs - log_probs.max(1, keepdims=True)).astype(np.float32)[:, sought.states]  # (N, R, S)
    score = np.full((rows, states + 2), _NEVER, np.float32)  # two more on the left, for steps from nowhere
    origin = np.zeros((rows, states + 2), np.int64)
    best, first, end = np.full(rows, _NEVER, np.float32), np.zeros(rows, np.int64), np.full(rows, frames)
    last = (np.arange(rows), sought.last + 2)
    for time in range(frames):
        score[:, 1] = np.where(time >= earliest, np.float32(0), _NEVER)  # a path may begin here
        origin[:, 1] = time
        chosen, since = score[:, 2:], origin[:, 2:]  # by staying, advancing or skipping
        for reached, begun in ((score[:, 1:-1], origin[:, 1:-1]), (score[:, :-2] + sought.skip, origin[:, :-2])):
            better = reached > chosen
            chosen, since = np.where(better, reached, chosen), np.where(better, begun, since)
        score[:, 2:], origin[:, 2:] = chosen + cost[time], since
        ended = score[last]
        better = ended > best
        if better.any():
            best[better], first[better], end[better] = ended[better], origin[last][better], time + 1
    counts = sought.last // 2 + 1
    stretches = np.stack([np.maximum(first - MARGIN, 0), np.minimum(end + MARGIN, frames)], axis=1)
    return (best / counts).astype(np.float32), stretches
