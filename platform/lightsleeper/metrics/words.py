"""Words found and located in streams: recall and false alarms by event, how well they are placed, MTWV.

By the published rule a found word is right where it overlaps with the spoken one at all (`word_matching`), which is
generous: ``f1_strict`` asks for half of their union. Counts are exact at every threshold, not on a grid: suppression
and matching go from the highest score down, so one pass over the streams holds for all thresholds.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.word_events import WordEvent, proposals
from lightsleeper.metrics.word_judgement import JudgedStream, counted, f1, false_alarms, judge, ranked, term_weighted
from lightsleeper.metrics.word_matching import Truths

__all__ = ["CONTENTS", "MTWV_KEYWORDS", "WordDetection", "WordEvent"]

CONTENTS = ("speech", "negatives", "babble", "noise", "silence")
"""What a stream may hold. Negatives are speech without a word of the vocabulary."""
MTWV_KEYWORDS = (
    "any", "easily", "known", "only", "show", "battle", "fifty", "land", "perfect", "thank", "birds", "filled", "lie",
    "perhaps", "them", "cannot", "great", "never", "presence", "years",
)  # fmt: skip
"""Of SpeechYOLO's code; the papers report MTWV over 20 keywords."""
CURVE_POINTS = 200
PUBLISHED_THRESHOLD = 0.95


class WordDetection(Metric):
    """F1, rejects, false alarms, places and MTWV of a word spotter over streams.

    Feed what the model proposes for the steps of each stream, chunk by chunk in any order, and say once per stream what
    is spoken in it. Under torch.distributed each process may see other streams; chunks that two of them saw count once.

    Args:
        words: names of the classes. MTWV is of SpeechYOLO's 20 keywords where all of them are among them, else of
            all words that are spoken.
        threshold: steps that score above it propose a word.
        strict_iou: IoU that ``f1_strict`` asks for.

    Example::

        metric = WordDetection(["yes", "no"])
        metric.add_stream(0, events=[(3.2, 3.9, 1)], seconds=60.0, content="speech")
        metric.update(0, 0, score, word, begin_s, end_s)
        metric.results("test/")["test/f1"]
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    boxes: list[Tensor]  # (n, 3): word, begin and end in microseconds
    chunks: list[Tensor]  # (n, 3): stream, first step, steps
    streams: list[Tensor]  # (n, 3): stream, microseconds, content
    truths: list[Tensor]  # (n, 4): stream, word, begin and end in microseconds

    def __init__(
        self, words: Sequence[str], threshold: float = PUBLISHED_THRESHOLD, strict_iou: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < strict_iou <= 1:
            raise ValueError(f"strict_iou {strict_iou} must lie in (0, 1]")
        self.words, self.threshold, self.strict_iou = list(words), threshold, strict_iou
        self.keywords = [self.words.index(name) for name in MTWV_KEYWORDS] if {*MTWV_KEYWORDS} <= {*words} else None
        self._columns = {"scores": 1, "boxes": 3, "chunks": 3, "streams": 3, "truths": 4}
        for name in self._columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._cached: list[JudgedStream] | None = None

    def add_stream(
        self, stream: int, events: Sequence[tuple[float, float, int]], seconds: float, content: str = "speech"
    ) -> None:
        """What is spoken in a stream of so many seconds, (begin, end, class) each, and what it holds.

        Raises ValueError for a content that is none of ``CONTENTS`` and for a class without a name.
        """
        if content not in CONTENTS:
            raise ValueError(f"content '{content}' is none of {', '.join(CONTENTS)}")
        if any(not 0 <= word < len(self.words) for *_, word in events):
            raise ValueError(f"stream {stream}: a word outside of the {len(self.words)} classes")
        rows = [[stream, int(word), round(begin * 1e6), round(end * 1e6)] for begin, end, word in events]
        about = [[stream, round(seconds * 1e6), CONTENTS.index(content)]]
        self.truths.append(torch.tensor(rows, dtype=torch.int64, device=self.device).view(-1, 4))
        self.streams.append(torch.tensor(about, dtype=torch.int64, device=self.device))
        self._computed, self._cached = None, None

    def update(
        self, stream: int, first_step: int, score: ArrayLike, word: ArrayLike, begin_s: ArrayLike, end_s: ArrayLike
    ) -> None:
        """Steps (T,) of a stream from number ``first_step`` on: the best word of each, its score, and where it lies."""
        columns = [torch.as_tensor(column).detach().flatten() for column in (score, word, begin_s, end_s)]
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"columns of the same steps were expected, got {[len(column) for column in columns]}")
        scores, words, *times = columns
        finite = times[0].isfinite() & times[1].isfinite()
        places = [(time.cpu().double() * 1e6).nan_to_num(0, 0, 0).round().long() for time in times]
        boxes = torch.stack([words.long(), *(place.to(words.device) for place in places)], 1)
        self.scores.append(torch.where(finite, scores.float().nan_to_num(0.0), 0.0))
        self.boxes.append(boxes)
        self.chunks.append(torch.tensor([[stream, first_step, len(scores)]], device=scores.device))
        self._cached = None

    def reset(self) -> None:
        super().reset()
        self._cached = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for name, width in self._columns.items():
            if not self._is_synced and not getattr(self, name):
                # a process without a row must send the type and the width that the others send
                shape, kind = ((0,), torch.float32) if width == 1 else ((0, width), torch.int64)
                getattr(self, name).append(torch.zeros(shape, dtype=kind, device=self.device))
        self._cached = None
        super().sync(*args, **kwargs)

    def unsync(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super().unsync(*args, **kwargs)

    def compute(self) -> Tensor:
        """F1; nan where nothing is spoken."""
        return torch.tensor(self.results("", intervals=False)["f1"].value)

    def best_threshold(self) -> float:
        """The threshold with the highest F1, half-way into the gap between two scores. Take it from validation data.

        nan where no word is spoken or none is found.
        """
        with self._gathered():
            score, found, right = ranked(self._streams())
            spoken = self._spoken()
        if not spoken or not right.any():
            return math.nan
        best = int((right / (found + spoken)).argmax())
        below = float(score[best + 1]) if best + 1 < len(score) else 0.0
        middle = (float(score[best]) + below) / 2
        return middle if middle < score[best] else below

    def results(
        self, prefix: str = "test/", intervals: bool = True, threshold: float | None = None, resamples: int = 1000
    ) -> dict[str, Measurement]:
        """All numbers at ``threshold`` (None: the metric's own).

        ``f1``, ``precision``, ``recall``, ``frr`` (1 - recall), ``fa_per_second``, ``fa_per_hour`` over all streams;
        ``fa_per_hour_<content>`` for each content, and ``f1_<content>`` where there are several and that one holds
        words. ``accuracy``: words paired with events one to one, largest IoU first, whose event is centred in the word
        (SpeechYOLO's actual accuracy). ``mean_iou`` of the right events. ``f1_strict``. ``mtwv``: each keyword at its
        best threshold on these very streams, a little optimistic; its false alarms are taken over the time of all
        streams. ``f1_published``: at the published threshold of 0.95, whatever ``threshold`` is.

        Shares and rates have exact intervals, which take events for independent; those of F1, IoU and MTWV are a
        bootstrap over streams.
        """
        at = self.threshold if threshold is None else threshold
        with self._gathered():
            streams = self._streams()
            draws = resamples if intervals else 0
            results = {**f1(streams, at, draws), **counted(streams, at, intervals)}
            results["f1_published"] = f1(streams, PUBLISHED_THRESHOLD, draws)["f1"]
            results["mtwv"] = term_weighted(streams, len(self.words), self.keywords, draws)
            contents = [name for name in CONTENTS if any(stream.content == name for stream in streams)]
            for name in contents:
                part = [stream for stream in streams if stream.content == name]
                results[f"fa_per_hour_{name}"] = false_alarms(part, at, intervals)
                if len(contents) > 1 and any(len(stream.truths.word) for stream in part):
                    results[f"f1_{name}"] = f1(part, at, draws)["f1"]
        return {prefix + name: value for name, value in results.items()}

    def curve(self) -> dict[str, Any]:
        """FRR over false alarms per hour, at most ``CURVE_POINTS`` thresholds where FRR changes."""
        with self._gathered():
            score, found, right = ranked(self._streams())
            spoken = self._spoken()
            hours = sum(stream.seconds for stream in self._streams()) / 3600
        if not spoken or not right.any():
            return {"kind": "frr_fah", "x": [], "y": [], "threshold": []}
        at = np.flatnonzero(np.diff(right, prepend=0))
        at = at[np.unique(np.linspace(0, len(at) - 1, min(len(at), CURVE_POINTS)).round().astype(int))]
        return {
            "kind": "frr_fah",
            "x": ((found[at] - right[at]) / hours).tolist(),
            "y": (1 - right[at] / spoken).tolist(),
            "threshold": np.nextafter(score[at], 0.0).tolist(),  # an event is above it
        }

    def details(self, threshold: float | None = None) -> dict[str, Any]:
        """Streams, words, and false alarms at a threshold, one by one and by column, for comparisons that pair them."""
        at = self.threshold if threshold is None else threshold
        spoken: dict[str, list[Any]] = {name: [] for name in ("stream", "word", "begin_s", "end_s", "score", "iou")}
        spurious: dict[str, list[Any]] = {name: [] for name in ("stream", "word", "begin_s", "end_s", "score")}
        heard: dict[str, list[Any]] = {name: [] for name in ("stream", "content", "seconds")}
        with self._gathered():
            for stream in self._streams():
                _extend(heard, [[stream.number], [stream.content], [stream.seconds]])
                event, truth, iou = stream.there(stream.matched, at)
                score: list[float | None] = [None] * len(stream.truths.word)
                places: list[float | None] = [None] * len(stream.truths.word)
                for k, t, v in zip(event.tolist(), truth.tolist(), iou.tolist(), strict=True):
                    score[t], places[t] = float(stream.events.score[k]), v
                columns = [*(c.tolist() for c in stream.truths), score, places]
                _extend(spoken, [[stream.number] * len(score), *columns])
                wrong = np.setdiff1d(np.flatnonzero(stream.events.score > at), event)
                false = stream.events.at(wrong)
                times = [false.word, false.begin, false.end, false.score]
                _extend(spurious, [[stream.number] * len(wrong), *(c.tolist() for c in times)])
        return {"streams": heard, "words": spoken, "false_alarms": spurious}

    def _gathered(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._is_synced else self.sync_context(dist_sync_fn=self.dist_sync_fn)

    def _spoken(self) -> int:
        return sum(len(stream.truths.word) for stream in self._streams())

    def _streams(self) -> list[JudgedStream]:
        """All streams by number, suppressed and matched."""
        if self._cached is None:
            self._cached = self._assemble()
        return self._cached

    def _assemble(self) -> list[JudgedStream]:
        values: dict[str, NDArray] = {}
        for name, width in self._columns.items():
            state = getattr(self, name)
            empty = np.zeros((0, width) if width > 1 else 0)
            values[name] = dim_zero_cat(state).cpu().numpy() if len(state) else empty
        places: dict[int, dict[int, slice]] = {}
        at = 0
        for number, first, count in values["chunks"].tolist():
            places.setdefault(number, {}).setdefault(first, slice(at, at + count))
            at += count
        about = {int(number): (us / 1e6, CONTENTS[int(content)]) for number, us, content in values["streams"].tolist()}
        if unknown := places.keys() - about.keys():
            raise ValueError(f"stream {min(unknown)}: scored, but never added")
        spoken = np.unique(values["truths"].astype(np.int64), axis=0)  # two processes may have told of the same stream
        streams = []
        for number, (seconds, content) in sorted(about.items()):
            parts, end = [np.zeros(0, np.int64)], 0
            for first, place in sorted(places.get(number, {}).items()):
                if first < end:
                    raise ValueError(f"stream {number}: step {first} was scored twice")
                parts.append(np.arange(place.start, place.stop))
                end = first + place.stop - place.start
            index = np.concatenate(parts)
            word, begin, end_us = values["boxes"][index].T if len(index) else np.zeros((3, 0))
            steps = proposals(values["scores"][index], word, begin / 1e6, end_us / 1e6)
            rows = spoken[spoken[:, 0] == number]
            rows = rows[np.lexsort((rows[:, 1], rows[:, 3], rows[:, 2]))]
            truths = Truths(rows[:, 1], rows[:, 2] / 1e6, rows[:, 3] / 1e6)
            streams.append(judge(number, content, seconds, steps, truths, self.strict_iou))
        return streams


def _extend(columns: dict[str, list[Any]], rows: Sequence[list[Any]]) -> None:
    for column, values in zip(columns.values(), rows, strict=True):
        column.extend(values)
