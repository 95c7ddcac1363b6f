"""Several processes on this machine that hold one model, watched by the one that started them.

Weights on the CPU lie in shared memory once. The ranks wait for calls; one that dies, fails or hangs ends all of them
with one RankLostError, and none outlives its parent.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import PreTrainedModel

from lightsleeper.errors import UserError
from lightsleeper.generation.runahead import Runahead
from lightsleeper.generation.sharing import SharedModel, share
from lightsleeper.generation.transport import TIMEOUT_S, RankLostError, SlowLink, Transport

GRACE_S = 1.0  # between the first rank's failure and the report: the one that caused it may show a moment later
START_S = 120.0


@dataclass
class Rank:
    """What a call finds in each process."""

    model: PreTrainedModel
    transport: Transport
    chain: Runahead
    notes: dict[str, Any] = field(default_factory=dict)
    """What calls leave for later ones."""

    @property
    def index(self) -> int:
        return self.transport.rank


@dataclass(frozen=True)
class _Settings:
    size: int
    store: str
    backend: str
    device: str
    threads: int
    timeout_s: float
    link: SlowLink | None
    skip_masked: bool


class Ranks:
    """``size`` processes with ``model``, for use in a `with` statement.

    Args:
        threads: Of torch, in each process.
        backend: gloo, or nccl with one GPU a rank.
        device: cpu or cuda.
        timeout_s: The longest that a call may take.
        link: Makes every link slower than it is.

    Example:
        with Ranks(model, 2) as ranks:
            caches = ranks.call(prefill, input_ids, split)   # prefill(rank, input_ids, split), in every process
    """

    def __init__(
        self,
        model: PreTrainedModel,
        size: int,
        threads: int = 1,
        backend: str = "gloo",
        device: str = "cpu",
        timeout_s: float = TIMEOUT_S,
        link: SlowLink | None = None,
        skip_masked: bool = True,
    ) -> None:
        if backend == "nccl" and (device != "cuda" or torch.cuda.device_count() < size):
            raise UserError(f"nccl needs a GPU a rank: {size} ranks, {torch.cuda.device_count()} GPUs.")
        self.size, self._timeout_s = size, timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="lightsleeper-ranks-")
        store = str(Path(self._folder.name) / "store")
        settings = _Settings(size, store, backend, device, threads, timeout_s, link, skip_masked)
        shared = share(model)
        context = _context(model)
        self._processes, self._pipes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, settings, shared, there), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)

    def __enter__(self) -> "Ranks":
        try:
            self._collect("the start", max(self._timeout_s, START_S))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [process.pid or 0 for process in self._processes]

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> list[Any]:
        """``function(rank, *arguments)`` in every process at once; its results by rank.

        Both have to be picklable. Raises RankLostError when a rank dies or takes longer than ``timeout_s``, and what
        the function raised as UserError; either way the ranks are gone afterwards.
        """
        try:
            for rank, pipe in enumerate(self._pipes):
                try:
                    pipe.send((function, arguments))
                except (BrokenPipeError, OSError):
                    raise RankLostError(self._obituary(rank, function.__name__)) from None
            return self._collect(function.__name__, timeout_s or self._timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all ranks."""
        for process in self._processes:
            if process.is_alive():
                process.kill()  # a rank that waits for a lost neighbour does not hear anything milder
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._folder.cleanup()

    def _collect(self, what: str, timeout_s: float) -> list[Any]:
        results: dict[int, Any] = {}
        failures: dict[int, BaseException] = {}
        deadline = time.monotonic() + timeout_s
        while pending := [rank for rank in range(self.size) if rank not in results and rank not in failures]:
            if time.monotonic() > deadline:
                break
            wait([self._pipes[rank] for rank in pending], timeout=0.2)
            for rank in pending:
                if not self._pipes[rank].poll():
                    continue
                try:
                    good, value = self._pipes[rank].recv()
                except (EOFError, ConnectionResetError):
                    raise RankLostError(self._obituary(rank, what)) from None
                (results if good else failures)[rank] = value
                if not good:  # what its neighbours have to say comes within a moment, or the news of a death
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        if failures:
            raise _cause(failures)
        if pending:
            missing = " and ".join(str(rank) for rank in pending)
            raise RankLostError(f"rank {missing} did not answer within {timeout_s:.0f} s in {what}.")
        return [results[rank] for rank in range(self.size)]

    def _obituary(self, rank: int, what: str) -> str:
        self._processes[rank].join(GRACE_S)
        code = self._processes[rank].exitcode
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with code {code}"
        return f"rank {rank} ended {how} in {what}; the other ranks were stopped."


def _context(model: PreTrainedModel) -> Any:
    """Processes that fork from one that has imported torch and the model's code, and has not used them."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__, type(model).__module__])
    return context


def _cause(failures: dict[int, BaseException]) -> BaseException:
    """A rank's own error before the loss that it was for its neighbours."""
    own = [error for error in failures.values() if not isinstance(error, RankLostError)]
    return (own or list(failures.values()))[0]


def _serve(rank: int, settings: _Settings, shared: SharedModel, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its ranks
    _die_with_parent()
    torch.set_num_threads(settings.threads)
    try:
        here = _join(rank, settings, shared.open())
        pipe.send((True, None))
    except BaseException as error:
        pipe.send((False, _portable(error, rank)))
        return
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(here, *arguments))
        except BaseException as error:
            answer = (False, _portable(error, rank))
        pipe.send(answer)


def _join(rank: int, settings: _Settings, model: PreTrainedModel) -> Rank:
    if settings.backend == "gloo" and sys.platform in ("linux", "darwin"):
        # Ranks of one machine: the host's name may lead to an interface that is down.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    if settings.device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        settings.backend,
        f"file://{settings.store}",
        rank=rank,
        world_size=settings.size,
        timeout=timedelta(seconds=settings.timeout_s),
    )
    transport = Transport(timeout_s=settings.timeout_s, link=settings.link)
    model = model.to(settings.device).eval()  # type: ignore[arg-type]
    return Rank(model, transport, Runahead(model, transport, settings.skip_masked))


def _die_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _portable(error: BaseException, rank: int) -> BaseException:
    """An error as the parent shows it: its own class where that is one for users, and which rank had it."""
    if isinstance(error, RankLostError):
        return RankLostError(f"rank {rank}: {error}")
    if isinstance(error, UserError):
        return error
    return RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")
