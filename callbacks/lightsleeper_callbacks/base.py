"""The contract of every compression callback: prepare, step, finalize, report.

A method is pure functions of tensors in its own file; its callback only decides when they run. Several callbacks
compose by phase, never by their place in a list: folding after clustering would turn 8 weight values into hundreds.
"""

import copy
import weakref
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import nn

from lightsleeper_callbacks.structure import Structure
from lightsleeper_callbacks.weights import release


class Phase(IntEnum):
    """When a method acts, earliest first."""

    INITIALIZE = 0
    """Weights are taken from another model."""
    FOLD = 1
    """Branches are re-parameterised."""
    PRUNE = 2
    """Weights or channels become zero."""
    CLUSTER = 3
    """Weights share few values."""


class Compression(Callback):
    """Base of all compression callbacks.

    A subclass sets ``phase`` and overrides ``prepare`` and ``finalize``, and of the rest what it needs. What must
    survive a checkpoint is a buffer of the module, or goes through ``state_dict`` / ``load_state_dict``.

    Example::

        class Halve(Compression):
            phase = Phase.PRUNE

            def prepare(self, module):
                parametrize.register_parametrization(module.layer, "weight", KeepHalf())

            def finalize(self, module):
                parametrize.remove_parametrizations(module.layer, "weight")
                return module
    """

    phase: ClassVar[Phase]
    distributed: ClassVar[bool] = True
    """Whether it works where every process holds the whole model (DDP)."""
    sharded: bool = False
    """Whether it works where a process holds a part of each weight and gathers it for its layer (FSDP2). Strategies
    that lay weights out in their own way (FSDP of the first kind, DeepSpeed) are refused for all."""
    name: str = ""
    """Its name in the recipe: keeps the states of two callbacks of one class apart in a checkpoint."""

    def __init__(self) -> None:
        if not isinstance(getattr(type(self), "phase", None), Phase):
            raise TypeError(f"{type(self).__name__} declares no phase; expected one of {', '.join(Phase.__members__)}")
        self._prepared: weakref.ref[nn.Module] | None = None
        self.peers: Sequence[Compression] = (self,)
        """All compression callbacks of the Trainer, itself among them, by phase."""

    # What can be known before training.

    def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
        """Raise ValueError for what cannot end well on ``module``: no such layer, a frozen one, a ramp too long.

        ``module`` is as ``prepare`` will find it and stays as it is. ``max_epochs``: None is unknown.
        """

    def conflict(self, other: "Compression") -> str | None:
        """Why this callback cannot work beside ``other``; None where it can. Asked of both."""
        return None

    def preview(self, module: nn.Module) -> nn.Module:
        """``module``, a copy, with the structure that later phases will find."""
        return module

    # The life of a training.

    def prepare(self, module: nn.Module) -> None:
        """Wrap or initialise ``module`` in place, once, before its optimizer is built and its weights are restored."""
        raise NotImplementedError

    def pending(self, module: nn.Module) -> bool:
        """Whether it will change the structure during training: later phases are prepared only after that."""
        return False

    def step(self, module: nn.Module, progress: float) -> None:
        """Act before a training batch; a pure function of ``progress``, the share of optimizer steps done, [0, 1)."""

    def settled(self, progress: float) -> bool:
        """Whether the schedule has reached its target: checkpoints compete only from there on."""
        return True

    # The deliverable.

    @property
    def wants_statistics(self) -> bool:
        """Whether batch-norm statistics have to be estimated again after ``finalize``."""
        return False

    def finalize(self, module: nn.Module) -> nn.Module:
        """Bake the result into plain weights; ``module`` is a copy that may be changed. What it loses is measured."""
        raise NotImplementedError

    def simplify(self, module: nn.Module) -> tuple[nn.Module, Structure]:
        """Rebuild without what is no longer needed, after all ``finalize``; that the outputs stay equal is proved.

        Returns the module and the layers that now differ from those its constructor makes.
        """
        return module, {}

    def report(self, module: nn.Module) -> dict[str, float]:
        """Facts as metrics, such as ``{"compress/sparsity": 0.8}``, of a prepared or a finalized module."""
        return {}

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}:{self.name}" if self.name else type(self).__qualname__

    def prepare_once(self, module: nn.Module, max_epochs: int | None = None) -> None:
        """``check`` and ``prepare``, unless this callback has prepared this very module before."""
        if not self.has_prepared(module):
            self.check(module, max_epochs)
            self.prepare(module)
            self._prepared = weakref.ref(module)

    def has_prepared(self, module: nn.Module) -> bool:
        """Whether this callback has prepared this very module."""
        return self._prepared is not None and self._prepared() is module

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Called for fit, validate and test alike. Only fit prepares: what is tested afterwards is the finalized model.
        if stage == "fit":
            peers = compressions(trainer.callbacks)  # type: ignore[attr-defined]
            check_together(peers)
            check_averaging(peers, trainer.callbacks)  # type: ignore[attr-defined]
            check_strategy(peers, trainer.strategy)
            prepare_in_order(peers, pl_module, trainer.max_epochs)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        release(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.settled(0.0) and unending(trainer):
            raise ValueError(
                f"{_called(self)} acts at shares of a training whose end is unknown: set max_steps, or "
                "limit_train_batches for data without a length"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        first = next(callback for callback in trainer.callbacks if isinstance(callback, Compression))  # type: ignore[attr-defined]
        if first is self:  # it speaks for all: clustering reads the masks of this step, whatever the list's order
            for peer in self.peers:
                if peer.has_prepared(pl_module):  # not while an earlier phase is pending
                    peer.step(pl_module, progress(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_prepared(pl_module):
            for name, value in self.facts(pl_module).items():
                pl_module.log(name, value, sync_dist=False)

    def facts(self, module: nn.Module) -> dict[str, float]:
        """``report``, with the callback's name in the keys where another callback of its class reports too."""
        found = self.report(module)
        if self.name and sum(type(peer) is type(self) for peer in self.peers) > 1:
            return {key.replace("compress/", f"compress/{self.name}/", 1): value for key, value in found.items()}
        return found

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be copied or sent to another process, and the peers belong to a Trainer.
        return {**self.__dict__, "_prepared": None, "peers": ()}


def compressions(callbacks: Iterable[Callback]) -> list[Compression]:
    """The compression callbacks among ``callbacks``, by phase."""
    return [callback for callback in by_phase(callbacks) if isinstance(callback, Compression)]


def by_phase(callbacks: Iterable[Callback]) -> list[Callback]:
    """Compression callbacks first and in the order of their phases, the others behind them as they came."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "phase", len(Phase)))


def prepare_in_order(callbacks: Iterable[Callback], module: nn.Module, max_epochs: int | None = None) -> None:
    """Prepare ``module`` by phase, up to a callback that will change its structure during training.

    That callback calls this again once it has.
    """
    peers = compressions(callbacks)
    for callback in peers:
        callback.peers = peers
        callback.prepare_once(module, max_epochs)
        if callback.pending(module):
            break


def check_together(callbacks: Iterable[Callback]) -> None:
    """Raise ValueError naming two callbacks that cannot work together, and why."""
    peers = compressions(callbacks)
    for first in peers:
        for second in peers:
            if first is not second and (reason := first.conflict(second)):
                raise ValueError(f"{_called(first)} cannot work beside {_called(second)}: {reason}")


def check_averaging(peers: Iterable[Compression], callbacks: Iterable[Callback]) -> None:
    """Raise ValueError for an average that would take in masks, budgets and centroids, which are buffers."""
    changing = [peer for peer in peers if peer.phase >= Phase.PRUNE]
    for callback in callbacks:
        if changing and isinstance(callback, WeightAveraging) and callback._use_buffers:
            raise ValueError(
                f"{type(callback).__name__} beside {_called(changing[0])} would average its masks or centroids too: "
                "set use_buffers: false"
            )


def check_alone(callbacks: Iterable[Callback], module: nn.Module, max_epochs: int | None = None) -> None:
    """Let each callback ``check`` a copy of ``module`` as it will find it; raises ValueError."""
    peers = compressions(callbacks)
    if not peers:
        return
    module = copy.deepcopy(module)
    for callback in peers:
        callback.peers = peers
        try:
            callback.check(module, max_epochs)
        except ValueError as error:
            raise ValueError(f"{_called(callback)}: {error}") from error
        module = callback.preview(module)


def check_strategy(callbacks: Iterable[Callback], strategy: Strategy) -> None:
    """Raise ValueError naming a callback that cannot work under ``strategy``."""
    if isinstance(strategy, SingleDeviceStrategy):
        return
    whole, sharded = isinstance(strategy, DDPStrategy), isinstance(strategy, ModelParallelStrategy)
    for callback in compressions(callbacks):
        if not (callback.distributed if whole else callback.sharded and sharded):
            kind = "several processes" if whole else "weights in shards" if sharded else "weights laid out like this"
            raise ValueError(f"{_called(callback)} does not work with {kind} ({type(strategy).__name__}).")


def progress(trainer: Trainer) -> float:
    """Share of all optimizer steps done, 0 before the first; 0 while the end is unknown (max_epochs: -1)."""
    return 0.0 if unending(trainer) else min(trainer.global_step / trainer.estimated_stepping_batches, 1.0)


def unending(trainer: Trainer) -> bool:
    """Whether it is not known how many optimizer steps a training will have."""
    return not 0 < trainer.estimated_stepping_batches < float("inf")


def _called(callback: Compression) -> str:
    kind = type(callback).__name__
    return f"'{callback.name}' ({kind})" if callback.name else kind
