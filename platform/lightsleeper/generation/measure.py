"""Time to first token of several methods on the same ranks: what runs in each process, and how the times are told.

A prefill starts when all ranks have left a barrier and ends with the id of the first token on the last rank of the
method; the prompt is there beforehand on all ranks. Clocks are the machine's monotonic one, which its processes share.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightsleeper.generation.baselines import AllGather, one_process
from lightsleeper.generation.cache import Trace
from lightsleeper.generation.ranks import Rank, Ranks
from lightsleeper.generation.runahead import Prefilled, continued
from lightsleeper.generation.simulate import Link
from lightsleeper.generation.split import Split
from lightsleeper.generation.work import Method

CHUNK = 512


@dataclass(frozen=True)
class Plan:
    """One way to prefill."""

    method: Method
    ranks: int = 1
    split: Split | None = None
    """Of a chain."""
    chunk: int = CHUNK


@dataclass
class Once:
    """One prefill on one rank."""

    trace: Trace
    token: list[int] | None
    """First token of each row, on the last rank."""
    sent: dict[int, int]
    """Bytes by receiving rank; -1: to all others."""


@dataclass
class Timing:
    """Repeated prefills by one plan."""

    plan: Plan
    ttft: list[float] = field(default_factory=list)
    runs: list[list[Once | None]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.ttft)

    @property
    def middle(self) -> list[Once]:
        """The run with the median time, its ranks in order."""
        index = self.ttft.index(statistics.median_low(self.ttft))
        return [once for once in self.runs[index] if once is not None]

    @property
    def token(self) -> list[int]:
        return next(once.token for once in self.middle if once.token is not None)

    def wait_shares(self) -> list[float]:
        """Of each rank's time until it was done, that in which it waited for others; medians over the runs."""
        ranks = [[once for once in run if once is not None] for run in self.runs]
        return [
            statistics.median(once.trace.waited / (once.trace.end - once.trace.begin) for once in of_rank)
            for of_rank in zip(*ranks, strict=True)
        ]

    def links(self) -> dict[str, int]:
        """Bytes that each link carried in one prefill."""
        return {
            f"{rank}->{'all' if target < 0 else target}": size
            for rank, once in enumerate(self.middle)
            for target, size in once.sent.items()
        }


def time_plans(ranks: Ranks, plans: Mapping[str, Plan], ids: Tensor, repeats: int, warm_up: int) -> dict[str, Timing]:
    """All plans in turns, so that what else the machine does meets all alike; ``warm_up`` rounds are not counted."""
    timings = {name: Timing(plan) for name, plan in plans.items()}
    for turn in range(warm_up + repeats):
        for name, plan in plans.items():
            run = ranks.call(prefill_once, plan, ids)
            if turn >= warm_up:
                timings[name].runs.append(run)
                timings[name].ttft.append(ttft(run))
    return timings


def ttft(run: Sequence[Once | None]) -> float:
    """Seconds from the first rank's start to the first token."""
    done = [once for once in run if once is not None]
    return next(once.trace.end for once in done if once.token is not None) - min(once.trace.begin for once in done)


def prefill_once(rank: Rank, plan: Plan, ids: Tensor, keep: bool = False) -> Once | None:
    """Runs in each process: one prefill; ``keep`` leaves its result in ``rank.notes``."""
    ids = ids.to(rank.model.device)
    group = _group(rank, plan.ranks)
    rank.transport.forget_counts()
    dist.barrier()
    if rank.index >= plan.ranks:
        return None
    begin = time.monotonic()
    done, everyone = _prefill(rank, plan, ids, group)
    if done is None:
        return None
    token = None if done.logits is None else done.first_token[:, 0].tolist()  # waits for the device
    done.trace.begin = begin
    if token is not None:
        done.trace.end = time.monotonic()
    sent = {target: traffic.bytes for target, traffic in rank.transport.sent.items()}
    if everyone:
        sent[-1] = everyone
    if keep:
        rank.notes["prefilled"] = done
    return Once(done.trace, token, sent)


def _prefill(rank: Rank, plan: Plan, ids: Tensor, group: Any) -> tuple[Prefilled | None, int]:
    """This rank's part, and what it sent by a collective."""
    if plan.method == "chain":
        assert plan.split is not None
        return rank.chain.prefill(ids, plan.split), 0
    if plan.method in ("gather", "gather-skip"):
        gather = AllGather(rank.model, rank.chain.layout, dense=plan.method == "gather")
        return gather.prefill(ids, plan.ranks, group)
    return one_process(rank.model, ids, plan.chunk if plan.method == "chunked" else None), 0


def _group(rank: Rank, count: int) -> Any:
    """The process group of the first ``count`` ranks, made once; every rank has to ask for it."""
    groups = rank.notes.setdefault("groups", {})
    if count not in groups:
        groups[count] = dist.group.WORLD if count == rank.transport.size else dist.new_group(list(range(count)))
    return groups[count]


def decode(rank: Rank, plan: Plan, ids: Tensor, new_tokens: int) -> tuple[list[int], float | None] | None:
    """Runs in each process: prefill, then ``new_tokens`` greedy ones on the last rank; None on others.

    They, and how many a second came after the first.
    """
    prefill_once(rank, plan, ids, keep=True)
    done = rank.notes.pop("prefilled", None)
    if done is None or done.logits is None:
        return None
    ids = ids.to(rank.model.device)
    begin = time.monotonic()
    text = continued(rank.model, ids, done, new_tokens, do_sample=False)
    made = text[0, ids.shape[1] :].tolist()
    return made, (len(made) - 1) / (time.monotonic() - begin) if len(made) > 1 else None


def together(rank: Rank, ids: Tensor, alone: bool) -> float | None:
    """Runs in each process: seconds of a whole prefill by every rank at once, or by rank 0 ``alone``."""
    dist.barrier()
    if alone and rank.index:
        return None
    return _seconds(one_process(rank.model, ids.to(rank.model.device)))


def ceiling(ranks: Ranks, ids: Tensor, repeats: int) -> float:
    """How many times one process's work this machine does in all its ranks at once: their number on a perfect one."""
    found = []
    for _ in range(repeats):
        alone = ranks.call(together, ids, True)[0]
        found.append(ranks.size * alone / max(ranks.call(together, ids, False)))
    return statistics.median(found)


def _seconds(done: Prefilled) -> float:
    done.first_token.tolist()
    return time.monotonic() - done.trace.begin


def measure_link(ranks: Ranks, sizes: Sequence[int] = (1 << 10, 1 << 20, 1 << 24), repeats: int = 5) -> Link:
    """Latency and bandwidth from rank 0 to rank 1, by messages there and back of ``sizes`` bytes.

    Latency from the smallest, bandwidth from the largest beyond it.
    """
    seconds = {size: ranks.call(_there_and_back, size, repeats)[0] for size in sizes}
    small, large = min(sizes), max(sizes)
    return Link(seconds[small], (large - small) / max(seconds[large] - seconds[small], 1e-9))


def _there_and_back(rank: Rank, size: int, repeats: int) -> float | None:
    """Seconds one way, the median of ``repeats`` after one untimed."""
    if rank.index > 1:
        return None
    buffer, other, taken = torch.zeros(size, dtype=torch.uint8, device=rank.model.device), 1 - rank.index, []
    for _ in range(repeats + 1):
        begin = time.monotonic()
        for sends in (rank.index == 0, rank.index == 1):
            if sends:
                rank.transport.send(buffer, other, 0)
                rank.transport.drain()
            else:
                rank.transport.receive(buffer, other, 0).wait()
        if buffer.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append((time.monotonic() - begin) / 2)
    return statistics.median(taken[1:])
