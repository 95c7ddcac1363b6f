"""The contract of every compression callback: prepare, step, finalize, report.

A method is pure functions of tensors in its own file; its callback only decides when they run. Several callbacks
compose by phase, never by their place in a list: folding after clustering would turn 8 weight values into hundreds.
"""

import weakref
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn


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

    A subclass sets ``phase`` and overrides ``prepare`` and ``finalize``, and ``step``, ``settled`` and ``report`` where
    it has a schedule. What must survive a checkpoint goes through ``state_dict`` / ``load_state_dict``.

    Example:
        class Halve(Compression):
            phase = Phase.PRUNE

            def prepare(self, module):
                parametrize.register_parametrization(module.layer, "weight", KeepHalf())

            def finalize(self, module):
                parametrize.remove_parametrizations(module.layer, "weight")
                return module, None
    """

    phase: ClassVar[Phase]
    name: str = ""
    """Its name in the recipe: keeps the states of two callbacks of one class apart in a checkpoint."""

    def __init__(self) -> None:
        if not isinstance(getattr(type(self), "phase", None), Phase):
            raise TypeError(f"{type(self).__name__} declares no phase; expected one of {', '.join(Phase.__members__)}")
        self._prepared: weakref.ref[nn.Module] | None = None

    def prepare(self, module: nn.Module) -> None:
        """Wrap or initialise ``module`` in place, once, before its optimizer is built and its weights are restored."""
        raise NotImplementedError

    def step(self, module: nn.Module, progress: float) -> None:
        """Act before a training batch; a pure function of ``progress``, the share of optimizer steps done, [0, 1)."""

    def settled(self, progress: float) -> bool:
        """Whether the schedule has reached its target: checkpoints compete only from there on."""
        return True

    def finalize(self, module: nn.Module) -> tuple[nn.Module, dict[str, Any] | None]:
        """Bake the result into plain weights; ``module`` is a copy that may be changed.

        Returns the module and, where its structure changed, the JSON-able architecture that rebuilds it.
        """
        raise NotImplementedError

    def report(self, module: nn.Module) -> dict[str, float]:
        """Facts as metrics, such as ``{"compress/sparsity": 0.8}``, of a prepared or a finalized module."""
        return {}

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}:{self.name}" if self.name else type(self).__qualname__

    def prepare_once(self, module: nn.Module) -> None:
        """``prepare``, unless this callback has prepared this very module before."""
        if self._prepared is None or self._prepared() is not module:
            self.prepare(module)
            self._prepared = weakref.ref(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Called for fit, validate and test alike. Only fit prepares: what is tested afterwards is the finalized model.
        if stage == "fit":
            self.prepare_once(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.step(pl_module, progress(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self.report(pl_module).items():
            pl_module.log(name, value, sync_dist=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}  # a weak reference cannot be copied or sent to another process


def progress(trainer: Trainer) -> float:
    """Share of all optimizer steps done, 0 before the first; 0 while the end is unknown (max_epochs: -1)."""
    total = trainer.estimated_stepping_batches
    return 0.0 if total == float("inf") or total <= 0 else min(trainer.global_step / total, 1.0)


def by_phase(callbacks: Iterable[Callback]) -> list[Callback]:
    """Compression callbacks first and in the order of their phases, the others behind them as they came."""
    return sorted(callbacks, key=lambda callback: getattr(callback, "phase", len(Phase)))
