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
    """Keywords as CTC states: phone, blank, phone, ... phone."""

    states: NDArray[np.int64]
    """(R, S) classes, 0 is the blank."""
    skip: NDArray[np.int64]
    """(R, S) 0 where a phone may follow the one before without a blank between, else `_NEVER`."""
    last: NDArray[np.int64]
    """(R,) the state of the last phone."""

    @classmethod
    def of(cls, phones: NDArray[np.integer]) -> "Sought":
        """Of phones (R, P), 0-padded, at least one a row."""
        counts = (phones > 0).sum(1)
        phones = phones[:, : int(counts.max())]
        states = np.zeros((len(phones), 2 * phones.shape[1] - 1), np.int64)
        states[:, ::2] = phones
        skip = np.full(states.shape, _NEVER)
        skip[:, 2::2] = np.where(phones[:, 1:] != phones[:, :-1], 0, _NEVER)
        return cls(states, skip, 2 * counts - 2)


def best_segments(
    log_probs: NDArray[np.floating], sought: Sought, earliest: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fit (R,), at most 0, a phone, and stretches (R, 2) in frames with their margin, of log-probabilities (N, C).

    ``earliest`` (R,): frames that the first phone may not precede; None: 0. Of paths that are as good the one that
    begins first counts. A keyword with more phones than there are frames fits with -1e9 and gets all frames.
    """
    earliest = np.zeros(len(sought.states), np.int64) if earliest is None else earliest
    frames, (rows, states) = len(log_probs), sought.states.shape
    cost = np.maximum(log_probs - log_probs.max(1, keepdims=True), _LOWEST) / _STEP
    cost = np.rint(cost).astype(np.int64) << _PLACES
    cost = cost[:, sought.states]  # (N, R, S)
    # The best before each frame; two states more, for steps from nowhere.
    paths = np.full((frames + 1, rows, states + 2), _NEVER)
    time = np.arange(frames)[:, None]
    paths[:-1, :, 1] = np.where(time >= earliest, frames - time, _NEVER)  # a path may begin here
    skipped = np.empty((rows, states), np.int64)
    for before, after, costs in zip(paths[:-1], paths[1:], cost, strict=True):
        reached = after[:, 2:]  # by staying, advancing or skipping
        np.maximum(before[:, 2:], before[:, 1:-1], out=reached)
        np.add(before[:, :-2], sought.skip, out=skipped)
        np.maximum(reached, skipped, out=reached)
        reached += costs
    ended = paths[1:, np.arange(rows), sought.last + 2]  # (N, R)
    end = (ended >> _PLACES).argmax(0)
    best = ended[end, np.arange(rows)]
    found = best > _NEVER // 2
    first, end = np.where(found, frames - (best & ((1 << _PLACES) - 1)), 0), np.where(found, end + 1, frames)
    fit = np.where(found, (best >> _PLACES) * _STEP / (sought.last // 2 + 1), -1e9)
    stretches = np.stack([np.maximum(first - MARGIN, 0), np.minimum(end + MARGIN, frames)], axis=1)
    return fit.astype(np.float32), stretches
