"""How much of a network was skipped, by what streams held: shares of multiply-accumulates, and their distribution."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import draws, interval
from lightsleeper.metrics.words import CONTENTS

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
    rows: list[Tensor]  # (n, 4): stream, hop, MACs, content

    def __init__(self, module_macs: tuple[int, ...], fixed_macs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.module_macs, self.fixed_macs = module_macs, fixed_macs
        self.add_state("rows", [], dist_reduce_fx="cat")

    @property
    def whole(self) -> int:
        """With every gate open."""
        return self.fixed_macs + sum(self.module_macs)

    def update(self, stream: int, content: str, first_hop: int, gates: Tensor) -> None:
        """Decisions (n, modules), 0 or 1, of the hops of a stream from number ``first_hop`` on."""
        macs = gates.double() @ torch.tensor(self.module_macs, dtype=torch.double, device=gates.device)
        hops = torch.arange(first_hop, first_hop + len(macs), dtype=torch.double, device=macs.device)
        number, kind = torch.full_like(hops, stream), torch.full_like(hops, CONTENTS.index(content))
        self.rows.append(torch.stack([number, hops, macs + self.fixed_macs, kind], 1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        if not self._is_synced and not self.rows:  # a process without a row must send the width that the others send
            self.rows.append(torch.zeros(0, 4, dtype=torch.double, device=self.device))
        super().sync(*args, **kwargs)

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

    def _rows(self) -> Tensor:
        """Of each hop one: two processes may have heard the same stream."""
        with nullcontext() if self._is_synced else self.sync_context(dist_sync_fn=self.dist_sync_fn):
            rows = dim_zero_cat(self.rows) if len(self.rows) else torch.zeros(0, 4, dtype=torch.double)
        return rows.unique(dim=0).cpu()

    @staticmethod
    def _by_content(rows: Tensor) -> dict[str, Tensor]:
        parts = {name: rows[rows[:, 3] == kind] for kind, name in enumerate(CONTENTS)}
        return {name: part for name, part in parts.items() if len(part)}

    def _share(self, rows: Tensor, intervals: bool) -> Measurement:
        _, numbers, counts = rows[:, 0].unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(counts), dtype=torch.double).index_add(0, numbers, rows[:, 2])
        value = float(1 - sums.sum() / (counts.sum() * self.whole))
        if not intervals or len(counts) < 2:
            return Measurement(value, n=len(counts))
        values = [
            1 - (drawn @ sums) / (drawn @ counts.double() * self.whole) for drawn in draws(len(counts), RESAMPLES)
        ]
        low, high = interval(torch.cat(values))
        return Measurement(value, low, high, len(counts), f"bootstrap over streams, {RESAMPLES}")


def _summary(macs: Tensor) -> dict[str, float]:
    levels = torch.tensor(list(PERCENTILES.values()), dtype=torch.double)
    return {"mean": float(macs.mean()), **dict(zip(PERCENTILES, macs.quantile(levels).tolist(), strict=True))}
