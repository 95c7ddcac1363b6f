"""How much of a network was skipped, by what the stream held: shares of multiply-accumulates, and their distribution."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import draws, interval

RESAMPLES = 1000
PERCENTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}


class SkippedMACs(Metric):
    """Share of the multiply-accumulates of a call that gates left out.

    Args:
        module_macs: of each module that has a gate, per hop.
        fixed_macs: of what always runs.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]  # (n, 3): stream, hop, MACs

    def __init__(self, module_macs: tuple[int, ...], fixed_macs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.module_macs, self.fixed_macs = module_macs, fixed_macs
        self.contents: dict[int, str] = {}
        self.add_state("rows", [], dist_reduce_fx="cat")

    @property
    def whole(self) -> int:
        """With every gate open."""
        return self.fixed_macs + sum(self.module_macs)

    def update(self, stream: int, content: str, first_hop: int, gates: Tensor) -> None:
        """Decisions (n, modules), 0 or 1, of the hops of a stream from number ``first_hop`` on."""
        self.contents[stream] = content
        macs = gates.double() @ torch.tensor(self.module_macs, dtype=torch.double, device=gates.device)
        hops = torch.arange(first_hop, first_hop + len(macs), dtype=torch.double, device=macs.device)
        self.rows.append(torch.stack([torch.full_like(hops, stream), hops, macs + self.fixed_macs], 1))

    def compute(self) -> Tensor:
        """Share skipped over all streams; nan where none was heard."""
        rows = self._rows()
        return 1 - rows[:, 2].mean() / self.whole

    def results(self, prefix: str, intervals: bool = True) -> dict[str, Measurement]:
        """``skipped`` over all streams and ``skipped_<content>``, with a bootstrap over streams."""
        rows = self._rows()
        if not len(rows):
            return {}
        found = {f"{prefix}skipped": self._share(rows, intervals)}
        for content, part in self._by_content(rows).items():
            found[f"{prefix}skipped_{content}"] = self._share(part, intervals)
        return found

    def distribution(self) -> dict[str, dict[str, float]]:
        """Content -> mean and percentiles of the multiply-accumulates of a hop."""
        return {content: _summary(part[:, 2]) for content, part in self._by_content(self._rows()).items()}

    def reset(self) -> None:
        super().reset()
        self.contents = {}

    def _rows(self) -> Tensor:
        """Of each hop one: two processes may have heard the same stream."""
        with self.sync_context(should_sync=not self._is_synced):
            rows = dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0, 3, dtype=torch.double)
        return rows.unique(dim=0).cpu()

    def _by_content(self, rows: Tensor) -> dict[str, Tensor]:
        found = {}
        for content in dict.fromkeys(self.contents.values()):
            streams = torch.tensor([stream for stream, held in self.contents.items() if held == content])
            found[content] = rows[torch.isin(rows[:, 0], streams.double())]
        return found

    def _share(self, rows: Tensor, intervals: bool) -> Measurement:
        _, numbers, counts = rows[:, 0].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=torch.double).index_add(0, numbers, rows[:, 2])
        value = float(1 - sums.sum() / (counts.sum() * self.whole))
        if not intervals or len(counts) < 2:
            return Measurement(value, n=len(counts))
        values = [1 - (drawn @ sums) / (drawn @ counts.double() * self.whole) for drawn in draws(len(counts), RESAMPLES)]
        low, high = interval(torch.cat(values))
        return Measurement(value, low, high, len(counts), f"bootstrap over streams, {RESAMPLES}")


def _summary(macs: Tensor) -> dict[str, float]:
    levels = torch.tensor(list(PERCENTILES.values()), dtype=torch.double)
    return {"mean": float(macs.mean()), **dict(zip(PERCENTILES, macs.quantile(levels).tolist(), strict=True))}
