"""Folding branches and batch norms into plain layers, at export or at an epoch of the training.

What folds, and how it is proved, is in ``foldable.py``; here is when, and how a training goes on afterwards.
"""

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import nn
from torch.optim import Optimizer

from lightsleeper_callbacks.base import Compression, Phase, prepare_in_order
from lightsleeper_callbacks.finalize import NotExactError
from lightsleeper_callbacks.foldable import IDENTITY, Folded, folds, put
from lightsleeper_callbacks.structure import FOLDS, Structure, describe

CATALOG = ("FoldOnExport",)


class FoldOnExport(Compression):
    """Folds re-parameterisable modules and batch norms into plain layers.

    At export the trained branches fold in the deliverable. At an epoch, training goes on with the plain network:
    pruning and clustering, which folding would undo, are prepared on it then. Parameters that did not change keep their
    optimizer state, and learning rates go on where they were; batch statistics are gone from there on.

    Args:
        at: export, or the number of epochs to train with branches before the network is folded.
        exclude: names or patterns of modules to leave as they are.

    Raises ValueError for an epoch below 1.

    Example::

        Trainer(max_epochs=12, callbacks=[FoldOnExport(at=6), PDPMasking(sparsity=0.8, start=0.5)])
    """

    phase = Phase.FOLD

    def __init__(self, at: Literal["export"] | int = "export", exclude: list[str] | None = None) -> None:
        super().__init__()
        if at != "export" and (not isinstance(at, int) or isinstance(at, bool) or at < 1):
            raise ValueError(f"at must be 'export' or a number of epochs, 1 or more; got {at!r}")
        self.at = at
        self.exclude = list(exclude or ())
        # In training, the optimizer would have to be rebuilt on every process, around parameters that are wrapped.
        self.distributed = self.sharded = at == "export"  # type: ignore[misc]
        self._max_epochs: int | None = None
        self._keys = _Keys()
        self._structure: Structure = {}

    def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
        self._max_epochs = max_epochs
        if self.at != "export" and max_epochs is not None and max_epochs >= 0:
            if self.at >= max_epochs:
                raise ValueError(f"at: {self.at} leaves no epoch to train after the fold (max_epochs is {max_epochs})")
            share = self.at / max_epochs
            for peer in self.peers:
                start = getattr(peer, "start", None)
                if peer.phase is Phase.PRUNE and isinstance(start, float) and start < share - 1e-9:  # a ramp would jump
                    raise ValueError(
                        f"'{peer.name or type(peer).__name__}' starts at {start:g} of the training, before the network "
                        f"is folded (epoch {self.at} of {max_epochs}): set its start to "
                        f"{math.ceil(1000 * share) / 1000} or more"
                    )
        names = [path for path, _ in module.named_modules()]
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"exclude: no module is called '{pattern}'")
        try:
            found = folds(module, self.exclude)
        except NotExactError as error:
            raise ValueError(str(error)) from error
        if not found:
            raise ValueError(
                f"there is nothing to fold: no RepConv1d or RepConv2d, no module with a method {', '.join(FOLDS)}, and "
                "no layer with a batch norm behind it (outside nn.Sequential, set example_input_array)"
            )

    def conflict(self, other: Compression) -> str | None:
        if isinstance(other, FoldOnExport):
            return "one folds everything there is"
        if self.at == "export" and other.phase > self.phase:
            return (
                "folding at export would undo what it did to the branches (a sum of pruned or clustered weights is "
                "neither); set at: N, an epoch, so that it works on the folded network"
            )
        return None

    def preview(self, module: nn.Module) -> nn.Module:
        put(module, folds(module, self.exclude))
        return module

    def prepare(self, module: nn.Module) -> None:
        if self.at == "export":
            return
        found = folds(module, self.exclude)
        self._structure = {path: part.description for path, part in found.items()}
        self._keys = _Keys.of(module, found)
        module.register_load_state_dict_pre_hook(_Arrival(self))

    def pending(self, module: nn.Module) -> bool:
        return self._keys.branched(module.state_dict())

    def settled(self, progress: float) -> bool:
        module = self._prepared() if self._prepared is not None else None
        return module is None or not self.pending(module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self.at != "export":
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                    raise ValueError(
                        f"FoldOnExport(at={self.at}) cannot work beside {type(callback).__name__}, which averages the "
                        "weights of a network that stays the same; fold at export"
                    )
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.at != "export" and trainer.current_epoch >= self.at and self.pending(pl_module):
            found = folds(pl_module, self.exclude)
            if found.keys() != self._structure.keys():
                differ = sorted(found.keys() ^ self._structure.keys())
                raise RuntimeError(f"what folds is no longer what it was when training began: {', '.join(differ)}")
            put(pl_module, found)
            self.go_on(pl_module)
            rebuild_optimizers(trainer)

    def go_on(self, module: nn.Module) -> None:
        """Prepare the later phases, once ``module`` has been folded."""
        if self.has_prepared(module):
            prepare_in_order(self.peers, module, self._max_epochs)

    def finalize(self, module: nn.Module) -> nn.Module:
        return module

    def simplify(self, module: nn.Module) -> tuple[nn.Module, Structure]:
        if self._structure and self.at != "export" and not self.pending(module):
            # Folded during training. What has been compressed since stays as it is.
            return module, {path: _now(module, path, was) for path, was in self._structure.items()}
        self._structure = put(module, folds(module, self.exclude))
        return module, self._structure

    def report(self, module: nn.Module) -> dict[str, float]:
        count = sum(description != IDENTITY for description in self._structure.values())
        return {"compress/folded_layers": 0.0 if self.pending(module) else float(count)}


@dataclass(frozen=True)
class _Keys:
    """State-dict keys by which a folded module and an unfolded one are told apart."""

    gone: frozenset[str] = frozenset()
    new: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: nn.Module, folded: Mapping[str, Folded]) -> "_Keys":
        before = {f"{path}.{key}" for path in folded for key in module.get_submodule(path).state_dict()}
        after = {f"{path}.{key}" for path, part in folded.items() for key in part.layer.state_dict()}
        return cls(frozenset(before - after), frozenset(after - before))

    def branched(self, state: Mapping[str, Any], prefix: str = "") -> bool:
        return any(prefix + key in state for key in self.gone)

    def folded(self, state: Mapping[str, Any], prefix: str = "") -> bool:
        """Whether everything that folding makes is there, by itself or parametrised."""

        def there(key: str) -> bool:
            owner, _, leaf = f"{prefix}{key}".rpartition(".")
            return f"{owner}.{leaf}" in state or f"{owner}.parametrizations.{leaf}.original" in state

        return bool(self.gone) and not self.branched(state, prefix) and all(there(key) for key in self.new)


class _Arrival:
    """Before folded weights are loaded into a module with branches, folds it; then come the later phases.

    A hook of the module, so that this happens wherever weights are loaded. A copy of the module takes it along and
    folds too, but has no callback that would go on.
    """

    def __init__(self, callback: FoldOnExport) -> None:
        self._callback = weakref.ref(callback)
        self.keys, self.exclude = callback._keys, callback.exclude

    def __call__(
        self, module: nn.Module, state: Mapping[str, Any], prefix: str, _: Any, __: bool, *lists: list[str]
    ) -> None:
        callback = self._callback()
        if self.keys.branched(module.state_dict()):
            if self.keys.folded(state, prefix):
                put(module, folds(module, self.exclude))
                if callback is not None:
                    callback.go_on(module)
        elif self.keys.branched(state, prefix):
            lists[-1].append("these weights are from before the network was folded; this network is folded already.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_callback": _nobody}


def _nobody() -> None:
    return None


def rebuild_optimizers(trainer: Trainer) -> None:
    """Let the module configure its optimizers anew and carry over what still holds.

    That is the state of parameters that are still there, the values of each parameter group (the learning rate of this
    moment) and the schedules. Raises RuntimeError where groups or schedules are no longer the same in number: warm-up
    must not start again unnoticed.
    """
    strategy = trainer.strategy
    optimizers, schedules = strategy.optimizers, strategy.lr_scheduler_configs
    strategy.setup_optimizers(trainer)
    before = [len(old.param_groups) for old in optimizers], len(schedules)
    after = [len(new.param_groups) for new in strategy.optimizers], len(strategy.lr_scheduler_configs)
    if before != after:
        raise RuntimeError(
            f"configure_optimizers gives {after[0]} parameter groups and {after[1]} schedules for the folded network; "
            f"before, it gave {before[0]} and {before[1]}: they cannot be carried over"
        )
    for old, new in zip(optimizers, strategy.optimizers, strict=True):
        _carry_over(old, new)
    for was, now in zip(schedules, strategy.lr_scheduler_configs, strict=True):
        now.scheduler.load_state_dict(was.scheduler.state_dict())


def _carry_over(old: Optimizer, new: Optimizer) -> None:
    for was, now in zip(old.param_groups, new.param_groups, strict=True):
        now.update({key: value for key, value in was.items() if key not in ("params", "param_names")})
        for parameter in now["params"]:
            if parameter in old.state:
                new.state[parameter] = old.state[parameter]


def _now(module: nn.Module, path: str, was: dict[str, Any]) -> dict[str, Any]:
    return was if was == IDENTITY or "method" in was else describe(module.get_submodule(path))
