"""AUC and EER, exact, with bootstrap intervals over episodes; fractions, never percent.

A decision accepts scores at or above a threshold. FRR is the share of positives below it, FAR the share of negatives at
or above it. AUC is the Mann-Whitney statistic with ties counted one half, EER the crossing of both curves, linear
between adjacent thresholds (papers/kws_benchmarks 1.4). Pairs of an episode share an anchor and are not independent:
the bootstrap draws whole episodes (section 9 there).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightsleeper.metrics.measurement import Measurement

_CHUNK = 1 << 22  # weights held at once while resampling: 16 MB in float32


def operating_points(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Thresholds (T,) ascending, ending in +inf, with FRR and FAR at each: every distinct way to cut the scores.

    scores and labels (n,), 1 = positive. ``weights`` (n, R) counts each pair R times over and gives rates (T, R).
    Rates are nan where a class is missing.
    """
    order = scores.argsort()
    scores, positive = scores[order], labels[order] == 1
    last = torch.ones_like(positive)  # the last of each group of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    ends = last.nonzero()[:, 0]
    thresholds = torch.cat([scores[ends], scores.new_full((1,), torch.inf)])
    if weights is None:
        rejected, passed = positive.double().cumsum(0)[ends], (~positive).double().cumsum(0)[ends]
    else:
        # Column sums of one class are those of all pairs minus the other's; two cumulative sums either way.
        weights = weights[order]
        rejected = (weights * positive[:, None]).cumsum(0)[ends]
        passed = weights.cumsum(0)[ends] - rejected
    start = rejected.new_zeros(1, *rejected.shape[1:])
    frr = torch.cat([start, rejected / rejected[-1:]]) if len(ends) else start / 0
    far = 1 - torch.cat([start, passed / passed[-1:]]) if len(ends) else start / 0
    return thresholds, frr, far


def area(frr: Tensor, far: Tensor) -> Tensor:
    """AUC of operating points (T,) or (T, R): the trapezoid rule counts a tie one half."""
    return (frr.diff(dim=0) * (1 - (far[1:] + far[:-1]) / 2)).sum(0) + 0 * (frr[-1] + far[-1])


def equal_error(frr: Tensor, far: Tensor) -> Tensor:
    """EER of operating points (T,) or (T, R); at least two thresholds."""
    after = (frr < far).sum(0, keepdim=True).clamp(1, len(frr) - 1)  # the first point past the crossing
    before = after - 1
    frr_0, frr_1 = frr.gather(0, before), frr.gather(0, after)
    gap_0, gap_1 = far.gather(0, before) - frr_0, far.gather(0, after) - frr_1
    share = gap_0 / (gap_0 - gap_1)
    return (frr_0 + share * (frr_1 - frr_0))[0]


def equal_error_threshold(scores: Tensor, labels: Tensor) -> float:
    """A finite threshold where FRR and FAR come nearest, half-way into the gap between scores; nan for one class."""
    scores, labels = scores.detach().cpu().double(), labels.cpu()
    if _undefined(scores, labels):
        return math.nan
    thresholds, frr, far = operating_points(scores, labels)
    finite = thresholds.isfinite()
    if not finite.any():
        return math.nan
    thresholds, gap = thresholds[finite], (frr - far).abs()[finite]
    best = int(gap.argmin())
    # Any threshold above the score before decides alike: the middle is the safest one on new data.
    return float(thresholds[max(best - 1, 0) : best + 1].mean())


def bootstrap(
    scores: Tensor,
    labels: Tensor,
    episodes: Tensor,
    statistics: list[Callable[[Tensor, Tensor], Tensor]],
    resamples: int,
    seed: int,
) -> Tensor:
    """Each statistic of (frr, far) under ``resamples`` draws of episodes with replacement: (statistics, resamples).

    The same seed and episodes draw the same resamples, so differences between two systems can be paired.
    """
    names, row = episodes.unique(return_inverse=True)
    drawn = _draws(len(names), resamples, seed)  # (episodes, resamples)
    step = max(_CHUNK // max(len(scores), 1), 1)
    parts = []
    for start in range(0, resamples, step):
        _, frr, far = operating_points(scores, labels, drawn[:, start : start + step][row])
        parts.append(torch.stack([statistic(frr, far) for statistic in statistics]))
    return torch.cat(parts, dim=1)


def measure(
    scores: Tensor,
    labels: Tensor,
    episodes: Tensor | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Measurement]:
    """``auc`` and ``eer`` with percentile intervals; nan without interval where a class is missing or a score is nan.

    episodes (n,) names the unit of resampling of each pair; None: every pair by itself. ``resamples=0``: no intervals.
    """
    scores, labels = scores.detach().cpu().double(), labels.cpu()
    unit = "pairs" if episodes is None else "episodes"
    episodes = torch.arange(len(scores)) if episodes is None else episodes.cpu()
    count = len(episodes.unique())
    if _undefined(scores, labels):
        return {name: Measurement(math.nan, n=count) for name in ("auc", "eer")}
    _, frr, far = operating_points(scores, labels)
    values = {"auc": float(area(frr, far)), "eer": float(equal_error(frr, far))}
    if not resamples:
        return {name: Measurement(value, n=count) for name, value in values.items()}
    draws = bootstrap(scores, labels, episodes, [area, equal_error], resamples, seed).double()
    tail = (1 - confidence) / 2
    low, high = draws.nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.double), dim=1).tolist()
    method = f"bootstrap over {unit}, {resamples}"
    return {
        name: Measurement(value, low[i], high[i], count, method)
        if math.isfinite(low[i])
        else Measurement(value, n=count)  # every resample lost a class
        for i, (name, value) in enumerate(values.items())
    }


class RowMetric(Metric):
    """Keeps rows of every update and gathers them over processes, also from one that saw no row.

    Subclasses name their columns; ``scores`` is kept in float64 (float32 on MPS), the others as int64.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    columns: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for column in self.columns:
            self.add_state(column, [], dist_reduce_fx="cat")

    def append(self, **rows: Tensor) -> None:
        """One tensor (B,) per column. Raises ValueError where their lengths differ."""
        sizes = {column: tuple(rows[column].shape) for column in self.columns}
        if len(set(sizes.values())) != 1 or len(sizes["scores"]) != 1:
            raise ValueError(f"expected one value per pair in every column, got {sizes}")
        for column in self.columns:
            getattr(self, column).append(rows[column].detach().to(self._type(column, rows[column].device)))

    def rows(self, column: str) -> Tensor:
        """All values of a column on this process, or of all processes inside ``gathered()``."""
        state = getattr(self, column)
        return dim_zero_cat(state) if len(state) else torch.zeros(0, dtype=self._type(column, self.device))

    def gathered(self) -> AbstractContextManager[Any]:
        """Inside, ``rows`` are those of all processes (as they are already while torchmetrics runs ``compute``)."""
        return nullcontext() if self._is_synced else self.sync_context(dist_sync_fn=self.dist_sync_fn)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for column in self.columns:
            if not self._is_synced and not getattr(self, column):
                # torchmetrics would send float32 here, and a gather of mixed types fails.
                getattr(self, column).append(torch.zeros(0, dtype=self._type(column, self.device), device=self.device))
        super().sync(*args, **kwargs)

    @staticmethod
    def _type(column: str, device: torch.device) -> torch.dtype:
        if column != "scores":
            return torch.int64
        return torch.float32 if device.type == "mps" else torch.float64


class _Ranking(RowMetric):
    columns = ("scores", "labels", "episodes")
    name: str

    def update(self, scores: Tensor, labels: Tensor, episodes: Tensor | None = None) -> None:
        """scores, labels (1 = positive) and episode ids (B,); no episodes: every pair stands by itself."""
        if episodes is None:
            episodes = torch.full_like(labels, -1)
        self.append(scores=scores, labels=labels, episodes=episodes)

    def compute(self) -> Tensor:
        return torch.tensor(measure(self.rows("scores"), self.rows("labels"), resamples=0)[self.name].value)

    def interval(self, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Measurement:
        """The value with its bootstrap interval, over the pairs of all processes."""
        with self.gathered():
            episodes = self.rows("episodes")
            units = None if (episodes < 0).all() else episodes
            return measure(self.rows("scores"), self.rows("labels"), units, confidence, resamples, seed)[self.name]


class AUC(_Ranking):
    """Probability that a random positive scores above a random negative, ties one half.

    >>> metric = AUC()
    >>> metric.update(torch.tensor([0.9, 0.4, 0.4]), torch.tensor([1, 1, 0]))
    >>> metric.compute()
    tensor(0.7500)
    """

    name = "auc"


class EER(_Ranking):
    """Error rate at the threshold where false rejections and false acceptances are equally frequent."""

    name = "eer"
    higher_is_better = False


def _draws(episodes: int, resamples: int, seed: int) -> Tensor:
    """How often each episode is drawn in each resample: (episodes, resamples) float32."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(episodes, (resamples, episodes), generator=generator)
    flat = drawn * resamples + torch.arange(resamples)[:, None]
    return torch.bincount(flat.flatten(), minlength=episodes * resamples).view(episodes, resamples).float()


def _undefined(scores: Tensor, labels: Tensor) -> bool:
    positives = int((labels == 1).sum())
    return positives in (0, len(labels)) or bool(scores.isnan().any())
