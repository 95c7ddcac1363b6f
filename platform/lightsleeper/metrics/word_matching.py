"""Which found word answers for which spoken one.

Published rule (papers/dynamic_conformer 6, 8): an event is right where it overlaps in time with a true event of its
word. One answers for one: events choose in the order of their scores, so that a second event for the same word is a
false alarm, and so that at a higher threshold the same events choose the same words: one pass holds for all thresholds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightsleeper.metrics.word_events import Proposals

_HAIR = 1e-9  # an IoU of one half is one half


class Truths(NamedTuple):
    """Words that were spoken (m,), by begin."""

    word: NDArray[np.int64]
    begin: NDArray[np.float64]
    end: NDArray[np.float64]


class Pairs(NamedTuple):
    """Event and true word of the same class that overlap in time."""

    event: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]

    def at(self, index: NDArray) -> "Pairs":
        return Pairs(self.event[index], self.truth[index], self.iou[index])


def overlapping(events: Proposals, truths: Truths) -> Pairs:
    """All pairs of one stream; cost grows with the pairs that share a moment."""
    first = np.searchsorted(np.maximum.accumulate(truths.end), events.begin, "right")
    count = np.maximum(np.searchsorted(truths.begin, events.end, "left") - first, 0)
    event = np.repeat(np.arange(len(events.word)), count)
    truth = np.arange(len(event)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    same = events.word[event] == truths.word[truth]
    event, truth = event[same], truth[same]
    begins, ends = (events.begin[event], truths.begin[truth]), (events.end[event], truths.end[truth])
    common = np.minimum(*ends) - np.maximum(*begins)
    iou = common / np.maximum(np.maximum(*ends) - np.minimum(*begins), 1e-12)
    return Pairs(event, truth, iou).at(common > 0)


def by_score(pairs: Pairs, score: NDArray, least_iou: float = 0.0) -> Pairs:
    """One to one: the event with the highest score chooses first, and takes the word with the largest IoU left."""
    order = np.lexsort((pairs.truth, -pairs.iou, pairs.event, -score[pairs.event]))
    return _greedy(pairs, order[pairs.iou[order] >= least_iou - _HAIR])


def by_iou(pairs: Pairs) -> Pairs:
    """One to one: the pair with the largest IoU first (SpeechYOLO)."""
    return _greedy(pairs, np.lexsort((pairs.truth, pairs.event, -pairs.iou)))


def _greedy(pairs: Pairs, order: NDArray[np.int64]) -> Pairs:
    events, truths = set[int](), set[int]()
    kept = []
    for index, event, truth in zip(
        order.tolist(), pairs.event[order].tolist(), pairs.truth[order].tolist(), strict=True
    ):
        if event not in events and truth not in truths:
            events.add(event)
            truths.add(truth)
            kept.append(index)
    return pairs.at(np.array(kept, np.int64))
