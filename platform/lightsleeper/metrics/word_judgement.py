"""One stream judged: what suppression keeps of a spotter's proposals, matched with the words that were spoken.

All of it is without a threshold: events above one are those with a higher score, and the pairs of such events stay the
pairs they are (`word_events`, `word_matching`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightsleeper.metrics.exact import rate, share
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import draws, interval, wilson
from lightsleeper.metrics.term_weighted import Term, at_best_thresholds, term_weighted_value
from lightsleeper.metrics.word_events import Proposals, above
from lightsleeper.metrics.word_matching import Pairs, Truths, by_iou, by_score, overlapping


@dataclass(frozen=True)
class JudgedStream:
    """Events and words of one stream."""

    number: int
    content: str
    seconds: float
    events: Proposals
    """In the order of time."""
    truths: Truths
    pairs: Pairs
    """All that overlap."""
    matched: Pairs
    """One to one, by the published rule."""
    strict: Pairs
    """One to one, with enough IoU."""

    def there(self, pairs: Pairs, threshold: float) -> Pairs:
        """The pairs whose event is there at a threshold."""
        return pairs.at(self.events.score[pairs.event] > threshold)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which events (n,) are a word that was spoken."""
        return np.isin(np.arange(len(self.events.word)), self.matched.event)


def judge(
    number: int, content: str, seconds: float, steps: Proposals, truths: Truths, strict_iou: float
) -> JudgedStream:
    """A stream with what a model proposes for its steps, and the words in it, by begin."""
    events = above(steps, 0.0)
    pairs = overlapping(events, truths)
    matched = by_score(pairs, events.score)
    return JudgedStream(
        number, content, seconds, events, truths, pairs, matched, by_score(pairs, events.score, strict_iou)
    )


def ranked(streams: Sequence[JudgedStream]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Every distinct score (n,) of an event, falling, with the events that have it or more, and the right ones."""
    score = np.concatenate([np.zeros(0), *(stream.events.score for stream in streams)])
    right = np.concatenate([np.zeros(0, np.bool_), *(stream.right for stream in streams)])
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)[: len(order)])
    return score[order][last], last + 1, right[order].cumsum()[last]


def counted(streams: Sequence[JudgedStream], threshold: float, intervals: bool) -> dict[str, Measurement]:
    """Shares and rates, with exact intervals where asked: they cost more than all the rest."""
    found, right = _found(streams, threshold)
    spoken = sum(len(stream.truths.word) for stream in streams)
    of = share if intervals else _share
    missed = of(spoken - right, spoken)
    per_hour = false_alarms(streams, threshold, intervals)
    low, high = (None if bound is None else bound / 3600 for bound in (per_hour.low, per_hour.high))
    return {
        "precision": of(right, found),
        "recall": _complement(missed),
        "frr": missed,
        "fa_per_second": replace(per_hour, value=per_hour.value / 3600, low=low, high=high),
        "fa_per_hour": per_hour,
        "accuracy": of(sum(_centred(stream, threshold) for stream in streams), spoken),
    }


def false_alarms(streams: Sequence[JudgedStream], threshold: float, intervals: bool) -> Measurement:
    """Wrong events an hour."""
    found, right = _found(streams, threshold)
    hours = sum(stream.seconds for stream in streams) / 3600
    if intervals:
        return rate(found - right, hours)
    return Measurement((found - right) / hours if hours else math.nan, n=found - right)


def _found(streams: Sequence[JudgedStream], threshold: float) -> tuple[int, int]:
    """Events, and those that are right."""
    found = sum(int((stream.events.score > threshold).sum()) for stream in streams)
    return found, sum(len(stream.there(stream.matched, threshold).event) for stream in streams)


def _share(hits: int, trials: int) -> Measurement:
    return Measurement(hits / trials if trials else math.nan, n=trials)


def _complement(part: Measurement) -> Measurement:
    low, high = (None if bound is None else 1 - bound for bound in (part.high, part.low))
    return replace(part, value=1 - part.value, low=low, high=high)


def _centred(stream: JudgedStream, threshold: float) -> int:
    """Words whose event, by IoU, has its centre in them."""
    event, truth, _ = by_iou(stream.there(stream.pairs, threshold))
    centre = (stream.events.begin[event] + stream.events.end[event]) / 2
    return int(((stream.truths.begin[truth] <= centre) & (centre <= stream.truths.end[truth])).sum())


def f1(streams: Sequence[JudgedStream], threshold: float, resamples: int) -> dict[str, Measurement]:
    """``f1``, ``f1_strict`` and ``mean_iou`` of the right events, with a bootstrap over streams; nan without a word."""
    rows = []
    for stream in streams:
        right, strict = (stream.there(pairs, threshold) for pairs in (stream.matched, stream.strict))
        found = int((stream.events.score > threshold).sum())
        rows.append([len(stream.truths.word), found, len(right.event), len(strict.event), float(right.iou.sum())])
    table = torch.tensor(rows, dtype=torch.double).view(-1, 5)
    spoken, _, right, *_ = table.sum(0).long().tolist()
    sizes = {"f1": spoken, "f1_strict": spoken, "mean_iou": right}

    def values(weights: Tensor) -> list[Tensor]:
        spoken, found, right, strict, iou = (weights @ table).unbind(1)
        return [2 * right / (spoken + found), 2 * strict / (spoken + found), iou / right]

    if not spoken:
        return {name: Measurement(math.nan, n=0) for name in sizes}
    return _bootstrapped(sizes, values, len(streams), resamples)


def term_weighted(
    streams: Sequence[JudgedStream], classes: int, keywords: Sequence[int] | None, resamples: int
) -> Measurement:
    """MTWV over ``keywords``, None: all that are spoken; ``n`` counts those that are.

    Drawn streams keep the thresholds of all: chosen anew on each draw they would only be more optimistic, and the
    value would lie at the edge of its interval or outside.
    """
    seconds = np.array([stream.seconds for stream in streams])
    counts = at_best_thresholds(list(_terms(streams, classes, keywords)), seconds)
    spoken = int((counts[0].sum(0) > 0).sum())

    def values(weights: Tensor) -> list[Tensor]:
        return [term_weighted_value(counts, seconds, weights)]

    return _bootstrapped({"mtwv": spoken}, values, len(streams), resamples if spoken else 0)["mtwv"]


def _bootstrapped(
    sizes: Mapping[str, int], values: Callable[[Tensor], list[Tensor]], streams: int, resamples: int
) -> dict[str, Measurement]:
    """Named values of weightings of the streams (R, streams), and their intervals when streams are drawn."""
    once = [float(value) for value in values(torch.ones(1, streams, dtype=torch.double))]
    results = {name: Measurement(value, n=n) for (name, n), value in zip(sizes.items(), once, strict=True)}
    if not resamples or streams < 2:
        return results
    drawn = zip(*(values(weights) for weights in draws(streams, resamples)), strict=True)
    for (name, result), parts in zip(list(results.items()), drawn, strict=True):
        if result.value in (0.0, 1.0) and name.startswith("f1"):  # drawn again, it never varies
            results[name] = wilson(result.value, sizes[name])
        elif not math.isnan(result.value):
            low, high = interval(torch.cat(list(parts)))
            results[name] = replace(result, low=low, high=high, method=f"bootstrap over streams, {resamples}")
    return results


def _terms(streams: Sequence[JudgedStream], classes: int, keywords: Sequence[int] | None) -> Iterator[Term]:
    """Each keyword with its events in all streams, best first."""
    if not streams:
        return
    spoken = np.stack([np.bincount(stream.truths.word, minlength=classes) for stream in streams])
    number = np.repeat(np.arange(len(streams)), [len(stream.events.word) for stream in streams])
    right = np.concatenate([stream.right for stream in streams])
    score, word = (np.concatenate([stream.events[column] for stream in streams]) for column in (0, 1))
    order = np.lexsort((-score, word))
    edges = np.searchsorted(word[order], np.arange(classes + 1))
    for keyword in np.flatnonzero(spoken.any(0)).tolist() if keywords is None else keywords:
        own = order[edges[keyword] : edges[keyword + 1]]
        yield Term(score[own], right[own], number[own], spoken[:, keyword])
