"""Who speaks: average precision as AVA-ActiveSpeaker defines it, F1, and both by what makes a frame hard.

One class is judged, SPEAKING_AUDIBLE; SPEAKING_NOT_AUDIBLE is a negative. Average precision is the area under the
precision that no higher recall exceeds (VOC 2010), over the frames of all videos.

Ties: the official script sorts with an unstable sort, so its result depends on the order of the rows. Here rows of one
score enter together, as no threshold can part them. With that precision envelope it is the same as counting the
negatives among them first: never above what the official script may say, and the same for every order of rows.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.ranking import RowMetric
from lightsleeper.metrics.resampling import draws, interval

NOT_SPEAKING, SPEAKING, NOT_AUDIBLE = 0, 1, 2
LABELS = ("NOT_SPEAKING", "SPEAKING_AUDIBLE", "SPEAKING_NOT_AUDIBLE")
"""AVA's names, in the order of the numbers above."""
FACE_PX = (64, 128)
"""Borders of small, middle and large faces, pixels of width (TalkNet's)."""
MANY_FACES = 3
"""Frames with so many faces, or more, are one kind."""
SITUATIONS = ("speaking", "listening", "off-screen", "chewing", "smiling", "laughing", "mouthing")
"""What a track shows, where that is known."""

Judge = Callable[[Tensor | None], Tensor]


def average_precision(scores: Tensor, positive: Tensor, weights: Tensor | None = None) -> Tensor:
    """AP of rows (n,), a scalar; with ``weights`` (R, n), how often each row counts: (R,). nan without a positive.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([1, 0, 1, 1, 0]))
    tensor(0.8333, dtype=torch.float64)
    """
    return _ranked(scores, positive)(weights)


def _ranked(scores: Tensor, positive: Tensor) -> Judge:
    """AP of these rows under any weights: they are sorted once."""
    order = scores.argsort(descending=True)
    ranked, hit = scores[order], positive[order].double()
    last = torch.ones_like(ranked, dtype=torch.bool)  # of each group of equal scores
    last[:-1] = ranked[1:] != ranked[:-1]
    ends = last.nonzero()[:, 0]

    def judge(weights: Tensor | None) -> Tensor:
        if not len(order):
            return torch.full(weights.shape[:-1] if weights is not None else (), math.nan, dtype=torch.double)
        each = torch.ones_like(hit) if weights is None else weights.double()[..., order]
        found, seen = (each * hit).cumsum(-1)[..., ends], each.cumsum(-1)[..., ends]
        precision = (found / seen.clamp_min(1e-300)).flip(-1).cummax(-1).values.flip(-1)
        gained = found.diff(dim=-1, prepend=torch.zeros_like(found[..., :1]))
        return (gained * precision).sum(-1) / found[..., -1]

    return judge


def f1_score(scores: Tensor, positive: Tensor, threshold: float, weights: Tensor | None = None) -> Tensor:
    """F1 of "above the threshold" for rows (n,), a scalar; with ``weights`` (R, n): (R,). nan without a positive."""
    said, hit = (scores > threshold).double(), positive.double()
    each = torch.ones_like(hit) if weights is None else weights.double()
    found, wanted = each @ (said * hit), each @ hit
    return torch.where(wanted > 0, 2 * found / (each @ said + wanted), math.nan)


class ActiveSpeakerAP(RowMetric):
    """Collects the scores of tracks of one test set.

    Args:
        threshold: Score above which a face is said to speak, for F1.

    >>> metric = ActiveSpeakerAP()
    >>> metric.update(scores, batch)  # one track: (T,)
    >>> metric.results("test/")["test/map"]
    Measurement(value=0.91, low=0.88, high=0.94, n=120, method='bootstrap over tracks, 1000')
    """

    columns = ("scores", "labels", "tracks", "face_px", "speakers", "situations")

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def update(self, scores: Tensor, batch: Mapping[str, Any]) -> None:
        """Scores (T,) of a track, higher for speaking, and its batch: ``label3`` (T,) in the numbers of `LABELS`,
        ``entity`` and ``video``; where known ``face_px`` and ``speakers`` (T,), and ``situation``."""
        label = batch["label3"].reshape(-1)
        unknown = torch.zeros_like(label)
        name = batch.get("situation", "")
        track = f"{batch.get('video', '')}/{batch['entity']}".encode()
        digest = hashlib.sha256(track).digest()[:8]  # a number that is the same on every process
        self.append(
            scores=scores.reshape(-1),
            labels=label,
            tracks=torch.full_like(label, int.from_bytes(digest) >> 1),
            face_px=batch.get("face_px", unknown).reshape(-1).round(),
            speakers=batch.get("speakers", unknown).reshape(-1),
            situations=torch.full_like(label, SITUATIONS.index(name) if name in SITUATIONS else -1),
        )

    def compute(self) -> Tensor:
        return average_precision(self.rows("scores").cpu(), self.rows("labels").cpu() == SPEAKING)

    def results(self, prefix: str = "test/", intervals: bool = True, resamples: int = 1000) -> dict[str, Measurement]:
        """``map`` and ``f1``; ``map_small``, ``map_middle``, ``map_large`` by the width of the face in pixels;
        ``map_faces1`` .. ``map_faces3`` by the faces in the frame (3: three or more); ``auc_<situation>``: whether
        speech scores above the silent frames of that situation. AP depends on the share of positives, so it would
        not compare situations. What has no positive or no negative is left out, ``map`` and ``f1`` never.

        n counts tracks, which is what the bootstrap draws: frames of one track are not independent.
        """
        with self.gathered():
            scores, label, track, px, faces, situation = (self.rows(column).cpu() for column in self.columns)
        units, unit = track.unique(return_inverse=True)
        positive = label == SPEAKING
        everything = torch.ones_like(positive)
        judged = {"map": (everything, _ranked(scores, positive)), "f1": (everything, self._f1(scores, positive))}
        for name, rows in _parts(px, faces).items():
            if positive[rows].any() and not positive[rows].all():
                judged[f"map_{name}"] = rows, _ranked(scores[rows], positive[rows])
        for number, name in enumerate(SITUATIONS):
            rows = positive | (situation == number)
            if positive.any() and not positive[rows].all():
                judged[f"auc_{name}"] = rows, _area(scores[rows], positive[rows])
        found = {
            name: Measurement(float(judge(None)), n=len(unit[rows].unique())) for name, (rows, judge) in judged.items()
        }
        if intervals and len(units) > 1:
            values: dict[str, list[Tensor]] = {name: [] for name in judged}
            for drawn in _chunks(len(units), resamples, len(scores)):
                for name, (rows, judge) in judged.items():
                    values[name].append(judge(drawn[:, unit[rows]]))
            found = {name: _measured(found[name], torch.cat(values[name]), resamples) for name in found}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def _f1(self, scores: Tensor, positive: Tensor) -> Judge:
        return lambda weights: f1_score(scores, positive, self.threshold, weights)


def _parts(px: Tensor, faces: Tensor) -> dict[str, Tensor]:
    """Rows by size of the face and by number of faces; unknown ones (0) are in none."""
    small, large = FACE_PX
    sizes = {"small": (px > 0) & (px < small), "middle": (px >= small) & (px <= large), "large": px > large}
    counts = {f"faces{n}": faces == n if n < MANY_FACES else faces >= n for n in range(1, MANY_FACES + 1)}
    return {**sizes, **counts}


def _area(scores: Tensor, positive: Tensor) -> Judge:
    """Probability that a positive row scores above a negative one, ties one half."""
    _, group = scores.unique(return_inverse=True)
    order = group.argsort()
    ends = torch.bincount(group).cumsum(0) - 1  # of each group of equal scores, in the order of scores
    hit = positive[order].double()

    def judge(weights: Tensor | None) -> Tensor:
        each = torch.ones_like(hit) if weights is None else weights.double()[..., order]
        up, down = (each * hit).cumsum(-1)[..., ends], (each * (1 - hit)).cumsum(-1)[..., ends]
        start = torch.zeros_like(up[..., :1])
        below = torch.cat([start, down[..., :-1]], -1) + down.diff(dim=-1, prepend=start) / 2
        return (up.diff(dim=-1, prepend=start) * below).sum(-1) / (up[..., -1] * down[..., -1])

    return judge


_HELD = 1 << 22  # weights at once: 32 MB in float64


def _chunks(units: int, resamples: int, rows: int) -> Any:
    """`draws`, in pieces that stay small when they are spread over the rows."""
    step = max(_HELD // max(rows, 1), 1)
    for drawn in draws(units, resamples):
        yield from drawn.split(step)


def _measured(value: Measurement, values: Tensor, resamples: int) -> Measurement:
    if value.n == 1 or values.isnan().all():  # one track cannot vary, or every draw lost one of the classes
        return value
    low, high = interval(values)
    return Measurement(value.value, low, high, value.n, f"bootstrap over tracks, {resamples}")
