"""Checkpoints from which a run continues bit for bit.

Lightning saves while an epoch is half closed (a plateau scheduler not stepped, a metric not logged), so a run resumed
from its `last.ckpt` differs. Ours is written between two epochs: before anything of the next one has happened. Random
numbers are re-seeded at every epoch start as a pure function of (seed, epoch), so no generator state is needed.
"""

import os
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightsleeper_callbacks.base import Compression, progress

from lightsleeper.errors import UserError

LAST = "last.ckpt"
BEST = "best.ckpt"


def seed_everything(*entropy: int) -> None:
    """Seed Python, NumPy and torch from a few whole numbers.

    Lightning's function of this name also sets PL_GLOBAL_SEED, from which data modules take the seed of the recipe.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames.

    Lightning collects the file in memory and in the system's temporary folder, whose rename is a copy when that
    folder is another disk: neither atomic nor small.
    """

    def __init__(self) -> None:
        self._proven = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if not self._proven:  # once: better after the first epoch than on the day of the resume
                load_checkpoint(temporary)
                self._proven = True
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, without running code from it; raises UserError when it cannot be read so."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # weights stay on disk until used
    except UnpicklingError as error:
        foreign = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
        if not foreign:
            raise UserError(f"checkpoint {path} cannot be read: it is no checkpoint, or damaged.") from error
        raise UserError(
            f"the checkpoint cannot be read back safely: {foreign[0]}. Keep tensors and plain values in"
            " state_dict() and save_hyperparameters()."
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error.strerror}.") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:  # of a damaged file, torch says anything
        raise UserError(f"checkpoint {path} cannot be read: it is no checkpoint, or damaged.") from error


class EpochBoundary(Callback):
    """Seeds each epoch and saves `last.ckpt` between epochs; has to be the first callback.

    Restored from such a checkpoint, the loops start the next epoch as if nothing had happened.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / LAST
        self.seed = seed
        self.complete = False
        """Training ended by itself (epochs, steps, early stopping); in the checkpoint, so that no resume trains on."""
        self._fresh = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A Lightning loop that was restored believes that it stands inside an epoch: it would not make a new data
        # iterator, would skip a plateau scheduler once, and with max_steps take the epoch for done.
        loop: Any = trainer.fit_loop
        loop._restarting = False
        loop._resuming_from_checkpoint = False
        loop.epoch_loop.restarting = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._fresh:  # the first epoch of this process starts from the checkpoint that lies there already
            trainer.save_checkpoint(self.path)
        self._fresh = False
        seed_everything(self.seed, trainer.current_epoch, trainer.global_rank)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.complete = True
        trainer.save_checkpoint(self.path)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # The hook runs when the loop has already counted the next epoch as ready; a checkpoint between epochs has not.
        counts = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        if counts["current"]["ready"] == counts["current"]["started"] + 1:
            for part in ("current", "total"):
                counts[part] = {**counts[part], "ready": counts[part]["ready"] - 1}

    def state_dict(self) -> dict[str, Any]:
        return {"complete": self.complete}


def is_complete(checkpoint: Mapping[str, Any]) -> bool:
    """Whether training had ended by itself when `last.ckpt` was written."""
    return bool(checkpoint.get("callbacks", {}).get(EpochBoundary.__name__, {}).get("complete"))


def schedules_settled(trainer: L.Trainer) -> bool:
    """Whether every schedule, of compression and the model's own, is at its target: epochs before that compete for
    nothing."""
    done = progress(trainer)
    schedules = [callback for callback in trainer.callbacks if isinstance(callback, Compression)]  # type: ignore[attr-defined]
    return all(callback.settled(done) for callback in schedules) and getattr(trainer.lightning_module, "settled", True)


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`: the epoch with the best monitored metric, among those with every compression schedule at its target.

    Raises UserError when the metric was never logged.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=folder,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=False,  # at every validation, of which there may be several in an epoch
            enable_version_counter=False,  # a resumed run writes the epoch again that a killed one had written
        )

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.callback_metrics:  # a model may skip its metrics on the few rows of the sanity check
            self._need_monitor(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._need_monitor(trainer)
        if schedules_settled(trainer):
            super().on_validation_end(trainer, pl_module)

    def _need_monitor(self, trainer: L.Trainer) -> None:
        logged = sorted(name for name in trainer.callback_metrics if not name.startswith("train"))
        if self.monitor not in trainer.callback_metrics:
            raise UserError(f"run.monitor is '{self.monitor}', which the model does not log; logged: {logged or None}.")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best score when the folder has another path: runs get moved and mounted elsewhere.
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = dict(state_dict, dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            moved[key] = here(state_dict.get(key, ""))
        moved["best_k_models"] = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict(moved)
