"""Messages from rank to rank: asynchronous, counted, and owned until they have arrived.

A tensor that is being sent is kept here until its message is complete, so that its memory is not given to another one;
that nobody writes into it is the caller's part. gloo moves host memory only: tensors of another device go through a
copy on the host. NCCL ignores tags: both sides have to post the messages of a link in the same order, which layers do.
"""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightsleeper.errors import UserError

TIMEOUT_S = 600.0


class RankLostError(UserError):
    """The other end of a link has gone, or did not answer in time."""


@dataclass
class Traffic:
    """What one link carried."""

    messages: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class SlowLink:
    """A link made slower than it is: each message leaves after the one before, the latency and its bytes' time.

    The rank goes on computing meanwhile, as it would beside a real link.
    """

    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    jitter_s: float = 0.0
    """Up to so much more a message, drawn from ``seed``: a link that others use too."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.latency_s, self.jitter_s) < 0 or not self.bytes_per_s > 0:
            raise UserError("a slow link needs latency and jitter of at least 0 s and a bandwidth above 0 bytes/s.")

    def seconds(self, size: int, random: Random) -> float:
        """How long a message of ``size`` bytes occupies the link."""
        return self.latency_s + size / self.bytes_per_s + random.uniform(0, self.jitter_s)


@dataclass
class Receipt:
    """A message that is on its way into ``buffer``."""

    buffer: Tensor
    source: int
    tag: int
    _work: Any
    _landing: Tensor
    _timeout: timedelta

    def wait(self) -> Tensor:
        """The buffer, filled. On CUDA the current stream waits, not the host. Raises RankLostError."""
        _finish(self._work, self._timeout, f"message {self.tag} from rank {self.source}")
        if self._landing is not self.buffer:
            self.buffer.copy_(self._landing)
        return self.buffer


@dataclass
class Transport:
    """One rank's links in a process group that is up.

    ``group`` None is the default group; ranks are those of the whole world. ``sent`` counts by receiving rank.
    """

    group: Any = None
    timeout_s: float = TIMEOUT_S
    link: SlowLink | None = None
    """Makes this rank's outgoing links slower; None leaves them."""
    sent: dict[int, Traffic] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._timeout = timedelta(seconds=self.timeout_s)
        self._host = dist.get_backend(self.group) == "gloo"
        self._owned: list[tuple[Any, Tensor]] = []
        self._slow: dict[int, _SlowSender] = {}

    def receive(self, buffer: Tensor, source: int, tag: int) -> Receipt:
        """Post a receive into the contiguous ``buffer``; returns at once."""
        landing = torch.empty_like(buffer, device="cpu") if self._staged(buffer) else buffer
        work = self._post(dist.irecv, landing, source, tag)
        return Receipt(buffer, source, tag, work, landing, self._timeout)

    def send(self, tensor: Tensor, target: int, tag: int) -> None:
        """Start to send ``tensor``, which must not be written to until `drain`; returns at once."""
        tensor = tensor.cpu() if self._staged(tensor) else tensor.contiguous()
        traffic = self.sent.setdefault(target, Traffic())
        traffic.messages += 1
        traffic.bytes += tensor.numel() * tensor.element_size()
        if self.link is None:
            self._owned.append((self._post(dist.isend, tensor, target, tag), tensor))
            return
        if target not in self._slow:
            self._slow[target] = _SlowSender(self.link, lambda *message: self._post(dist.isend, *message))
        self._slow[target].put(tensor, target, tag)

    def drain(self) -> None:
        """Wait until everything sent has left; frees its memory. Raises RankLostError."""
        for slow in self._slow.values():
            self._owned += slow.drain()
        owned, self._owned = self._owned, []
        for work, _ in owned:
            _finish(work, self._timeout, "a message sent")

    def forget_counts(self) -> None:
        self.sent = {}

    def _staged(self, tensor: Tensor) -> bool:
        return self._host and tensor.device.type != "cpu"

    def _post(self, call: Callable[..., Any], tensor: Tensor, other: int, tag: int) -> Any:
        try:
            return call(tensor, other, group=self.group, tag=tag)
        except RuntimeError as error:
            raise RankLostError(f"rank {other} cannot be reached: {_first_line(error)}") from error


class _SlowSender:
    """Sends the messages of one link in their order from a thread of its own, each when its time has come."""

    def __init__(self, link: SlowLink, send: Callable[..., Any]) -> None:
        self._link, self._send, self._random = link, send, Random(link.seed)
        self._waiting: queue.Queue[tuple[Tensor, int, int]] = queue.Queue()
        self._sent: list[tuple[Any, Tensor]] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, tensor: Tensor, target: int, tag: int) -> None:
        self._waiting.put((tensor, target, tag))

    def drain(self) -> list[tuple[Any, Tensor]]:
        """Everything that was put, sent; raises what sending raised."""
        self._waiting.join()
        if self._error is not None:
            raise self._error
        sent, self._sent = self._sent, []
        return sent

    def _run(self) -> None:
        while True:
            tensor, target, tag = self._waiting.get()
            try:
                time.sleep(self._link.seconds(tensor.numel() * tensor.element_size(), self._random))
                self._sent.append((self._send(tensor, target, tag), tensor))
            except BaseException as error:  # told by drain, in the rank's own thread
                self._error = error
            finally:
                self._waiting.task_done()


def _finish(work: Any, timeout: timedelta, what: str) -> None:
    try:
        work.wait(timeout)
    except RuntimeError as error:
        raise RankLostError(f"{what} did not arrive: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
