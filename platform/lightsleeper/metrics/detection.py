"""False rejects of a keyword at a number of false alarms per hour, exact at every threshold.

Thresholds are not a grid: counts are exact wherever they change (`metrics.false_alarms`).

A keyword counts as detected where its best smoothed score between begin and end + tolerance reaches the threshold. An
event just before it, which would keep a device from firing again, is charged as a false alarm and not as a reject as
well, or the rate would not be monotone; ``frr_fired`` counts what a device would have done. Frames from a keyword's
begin until a refractory time past the tolerance are no negative audio, neither in false alarms nor in hours.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightsleeper.metrics.events import Event, EventDecoder, Scores, refractory_frames, smoothed
from lightsleeper.metrics.exact import hours_needed, rate, rate_bound, share
from lightsleeper.metrics.false_alarms import FalseAlarms
from lightsleeper.metrics.localisation import Truth, localisation, match
from lightsleeper.metrics.measurement import Measurement

CURVE_POINTS = 200
CURVE_FA_PER_HOUR = 100.0  # where the curve ends: nobody ships a detector that fires more often
_FOREVER = torch.iinfo(torch.int64).max


@dataclass
class _Stream:
    scores: Scores
    """Smoothed."""
    raw: NDArray[np.float32]
    scored: NDArray[np.bool_]
    """False where a stretch was never fed."""
    starts_s: NDArray[np.float32]
    truths: list[Truth]


class FRRAtFalseAlarms(Metric):
    """False reject rate of a detector over streams, at ``fa_per_hour`` false alarms per hour or any threshold.

    Feed the scores of each stream chunk by chunk, in any order, and say once per stream where its keywords lie. Those
    behind the last score of a stream do not count; those of a stream without any score are rejects. Under
    torch.distributed each process may see other streams; chunks that two of them saw count once.

    Args:
        fa_per_hour: the target.
        frame_s: seconds between two scores.
        smoothing_frames: as in `EventDecoder`.
        refractory_s: as in `EventDecoder`.
        tolerance_s: how long after its end a keyword may still be detected.

    Example::

        metric = FRRAtFalseAlarms(fa_per_hour=0.5, frame_s=0.02)
        metric.add_stream(0, events=[(3.2, 3.9)])
        metric.update(scores, stream=0, first_frame=0)
        metric.results("test/")["test/frr_at_0.5_fa_per_hour"]
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    starts: list[Tensor]
    chunks: list[Tensor]  # (n, 3): stream, first frame, frames
    truths: list[Tensor]  # (n, 3): stream, begin and end in microseconds

    def __init__(
        self,
        fa_per_hour: float = 0.5,
        frame_s: float = 0.02,
        smoothing_frames: int = 1,
        refractory_s: float = 1.0,
        tolerance_s: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        EventDecoder(0.0, frame_s, smoothing_frames, refractory_s)  # refuses what it refuses
        if fa_per_hour < 0 or tolerance_s < 0:
            raise ValueError(f"fa_per_hour {fa_per_hour} and tolerance_s {tolerance_s} must not be negative")
        self.fa_per_hour, self.frame_s, self.smoothing_frames = fa_per_hour, frame_s, smoothing_frames
        self.refractory_s, self.tolerance_s = refractory_s, tolerance_s
        self._columns = {"scores": torch.float32, "starts": torch.float32, "chunks": torch.int64, "truths": torch.int64}
        for name in self._columns:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._cached: list[_Stream] | None = None

    def add_stream(self, stream: int, events: Sequence[Truth] = ()) -> None:
        """The keywords of a stream, (begin, end) in seconds; an end of inf is the end of the stream."""
        rows = [[stream, round(b * 1e6), _FOREVER if math.isinf(e) else round(e * 1e6)] for b, e in events]
        self.truths.append(torch.tensor(rows, dtype=torch.int64, device=self.device).view(-1, 3))
        self._computed, self._cached = None, None

    def update(self, scores: Tensor, stream: int, first_frame: int, starts_s: Tensor | None = None) -> None:
        """Scores (T,) of the frames from ``first_frame`` on; ``starts_s`` (T,): seconds back to the keyword's start."""
        scores = scores.detach().flatten().float()
        starts = torch.full_like(scores, math.nan) if starts_s is None else starts_s.detach().flatten().float()
        if len(starts) != len(scores):
            raise ValueError(f"{len(scores)} scores, {len(starts)} starts")
        self.scores.append(scores)
        self.starts.append(starts)
        self.chunks.append(torch.tensor([[stream, first_frame, len(scores)]], device=scores.device))
        self._cached = None

    def reset(self) -> None:
        super().reset()
        self._cached = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for name, kind in self._columns.items():
            if not self._is_synced and not getattr(self, name):
                # a process without a row must send the type and the width that the others send
                shape = (0,) if kind == torch.float32 else (0, 3)
                getattr(self, name).append(torch.zeros(shape, dtype=kind, device=self.device))
        self._cached = None
        super().sync(*args, **kwargs)

    def unsync(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super().unsync(*args, **kwargs)

    def compute(self) -> Tensor:
        """FRR at the target; nan without keywords or without negative audio."""
        alarms, peaks = self._alarms(), self._peaks()
        if not len(peaks) or not alarms.hours:
            return torch.tensor(math.nan)
        return torch.tensor(float((peaks < self._threshold(alarms, peaks, self.fa_per_hour)).mean()))

    def threshold(self, fa_per_hour: float | None = None) -> float:
        """A threshold at the target (None: the metric's own) with the lowest FRR; midway to the next score above.

        Take it from validation data. nan without negative audio.
        """
        with self._gathered():
            alarms = self._alarms()
            if not alarms.hours:
                return math.nan
            return self._threshold(alarms, self._peaks(), self.fa_per_hour if fa_per_hour is None else fa_per_hour)

    def selection(self) -> float:
        """What checkpoints compete by, lower is better: the FRR at the target, or, where not one keyword is detected
        there, 1 plus the false alarms per hour in excess at the threshold that detects the first."""
        with self._gathered():
            alarms, peaks = self._alarms(), self._peaks()
        if not len(peaks) or not alarms.hours:
            return math.nan
        frr = float((peaks < self._threshold(alarms, peaks, self.fa_per_hour)).mean())
        return two_stage(frr, alarms.count(float(peaks.max())) / alarms.hours if frr == 1 else 0.0, self.fa_per_hour)

    def results(
        self, prefix: str = "test/", threshold: float | None = None, also: Sequence[float] = (1.0, 0.1)
    ) -> dict[str, Measurement]:
        """All numbers of a test.

        At ``threshold`` (from validation; None: left out): ``frr``, ``frr_fired``, ``fa_per_hour``,
        ``fa_per_hour_bound`` (one-sided, 95 %), and the times of detected keywords (`localisation`).
        ``frr_at_X_fa_per_hour`` for the target and ``also``, each with a threshold chosen on these same data: points
        of the curve, a little optimistic. ``negative_hours`` and ``negative_hours_needed`` for the target with as many
        false alarms as were seen, at 95 %.
        """
        results: dict[str, Measurement] = {}
        with self._gathered():
            alarms, peaks = self._alarms(), self._peaks()
            if threshold is not None:
                seen = alarms.count(threshold)
                found = [event for _, event in self.detections(threshold)]
                truths = [truth for stream in self._streams() for truth in stream.truths]
                results["frr"] = share(int((peaks < threshold).sum()), len(peaks))
                results["frr_fired"] = share(sum(event is None for event in found), len(found))
                results["fa_per_hour"] = rate(seen, alarms.hours)
                results["fa_per_hour_bound"] = Measurement(rate_bound(seen, alarms.hours), n=seen)
                both = [(event, truth) for event, truth in zip(found, truths, strict=True) if event is not None]
                results |= localisation([event for event, _ in both], [truth for _, truth in both])
                needed = hours_needed(self.fa_per_hour, seen) if self.fa_per_hour else math.inf
                results["negative_hours_needed"] = Measurement(needed, n=seen)
            for target in dict.fromkeys((self.fa_per_hour, *also)) if alarms.hours else ():
                misses = int((peaks < self._threshold(alarms, peaks, target)).sum())
                results[f"frr_at_{target:g}_fa_per_hour"] = share(misses, len(peaks))
            results["negative_hours"] = Measurement(alarms.hours)
        return {prefix + name: value for name, value in results.items()}

    def curve(self) -> dict[str, Any]:
        """FRR over false alarms per hour at the thresholds where FRR changes, at most ``CURVE_POINTS``: a DET curve."""
        with self._gathered():
            alarms, peaks = self._alarms(), np.sort(self._peaks())
        thresholds = np.unique(peaks[peaks > -np.inf])
        if not len(thresholds) or not alarms.hours:
            return {"kind": "frr_fah", "x": [], "y": [], "threshold": []}
        least = alarms.highest_over(int(CURVE_FA_PER_HOUR * alarms.hours))
        kept = thresholds[thresholds > least]
        thresholds = kept if len(kept) else thresholds[-1:]
        if len(thresholds) > CURVE_POINTS:
            thresholds = thresholds[np.unique(np.linspace(0, len(thresholds) - 1, CURVE_POINTS).round().astype(int))]
        frr = np.searchsorted(peaks, thresholds) / len(peaks)
        fah = alarms.counts(thresholds) / alarms.hours
        return {"kind": "frr_fah", "x": fah.tolist(), "y": frr.tolist(), "threshold": thresholds.tolist()}

    def detections(self, threshold: float) -> list[tuple[Truth, Event | None]]:
        """Each keyword, by stream and time, with the event that a device would have fired for it."""
        decoder = EventDecoder(threshold, self.frame_s, self.smoothing_frames, self.refractory_s)
        found: list[tuple[Truth, Event | None]] = []
        with self._gathered():
            for stream in self._streams():
                events = decoder.events(stream.raw, stream.starts_s) if stream.truths else []
                found += zip(stream.truths, match(events, stream.truths, self.tolerance_s), strict=True)
        return found

    def outcomes(self, threshold: float) -> Tensor:
        """Whether each keyword is detected (n,), by stream and time: two detectors' outcomes go to `exact.mcnemar`."""
        with self._gathered():
            return torch.from_numpy(self._peaks() >= threshold)

    def _gathered(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._is_synced else self.sync_context(dist_sync_fn=self.dist_sync_fn)

    def _threshold(self, alarms: FalseAlarms, peaks: Scores, fa_per_hour: float) -> float:
        over = alarms.highest_over(math.floor(fa_per_hour * alarms.hours + 1e-9))
        above = [values[values > over] for values in (alarms.scores, peaks)]
        following = min((float(values.min()) for values in above if len(values)), default=math.nan)
        if math.isnan(following):
            return float(np.nextafter(np.float32(over), np.float32(np.inf)))
        # Midway: what runs on a device differs by rounding. A midpoint that rounds down to `over` would fire there.
        middle = following if math.isinf(over) else (over + following) / 2
        return middle if middle > over else following

    def _streams(self) -> list[_Stream]:
        """All streams by number; a stretch that was never scored ends one track and begins another."""
        if self._cached is None:
            self._cached = self._assemble()
        return self._cached

    def _assemble(self) -> list[_Stream]:
        values: dict[str, NDArray] = {}
        for name in self._columns:
            state = getattr(self, name)
            values[name] = dim_zero_cat(state).cpu().numpy() if len(state) else np.zeros((0, 3))
        truths: dict[int, set[Truth]] = {}
        for number, begin, end in values["truths"].tolist():
            truths.setdefault(number, set()).add((begin / 1e6, math.inf if end == _FOREVER else end / 1e6))
        places: dict[int, dict[int, slice]] = {}
        at = 0
        for number, first, count in values["chunks"].tolist():
            places.setdefault(number, {}).setdefault(first, slice(at, at + count))
            at += count
        streams = []
        for number in sorted(places.keys() | truths.keys()):
            raw, starts, scored, end = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)], 0
            for first, place in sorted(places.get(number, {}).items()):
                if first < end:
                    raise ValueError(f"stream {number}: frame {first} was scored twice")
                missing = np.full(first - end, math.nan, np.float32)
                raw += [missing, values["scores"][place]]
                starts += [missing, values["starts"][place]]
                scored += [np.zeros(first - end, np.bool_), np.ones(place.stop - place.start, np.bool_)]
                end = first + place.stop - place.start
            scores = np.concatenate(raw)
            level = smoothed(scores, self.smoothing_frames)
            # A stream that was cut short (limit_val_batches) rejects nothing that it was not played.
            heard_s = end * self.frame_s if end else math.inf
            here = sorted(truth for truth in truths.get(number, ()) if truth[0] < heard_s)
            streams.append(_Stream(level, scores, np.concatenate(scored), np.concatenate(starts), here))
        return streams

    def _frames(self, begin_s: float, end_s: float, length: int) -> slice:
        """Frames known within [begin, end]."""
        last = length if math.isinf(end_s) else math.floor(end_s / self.frame_s + 1e-6)
        return slice(max(0, math.ceil(begin_s / self.frame_s - 1e-6) - 1), max(0, last))

    def _peaks(self) -> Scores:
        """The best score of each keyword (n,), -inf where none was scored."""
        best = [
            stream.scores[self._frames(begin, end + self.tolerance_s, len(stream.scores))].max(initial=-np.inf)
            for stream in self._streams()
            for begin, end in stream.truths
        ]
        return np.array(best, np.float64)

    def _alarms(self) -> FalseAlarms:
        negative = []
        for stream in self._streams():
            keep = stream.scored.copy()
            for begin, end in stream.truths:
                keep[self._frames(begin, end + self.tolerance_s + self.refractory_s, len(keep))] = False
            negative.append(keep)
        tracks = [stream.scores for stream in self._streams()]
        return FalseAlarms(tracks, negative, refractory_frames(self.refractory_s, self.frame_s), self.frame_s)


def two_stage(frr: float, fa_per_hour: float, target: float) -> float:
    """One number for two stages, lower is better: the FRR where false alarms keep to the target, else 1 + excess."""
    return frr if fa_per_hour <= target else 1 + fa_per_hour - target
