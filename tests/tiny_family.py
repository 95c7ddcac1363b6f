"""A family, its data and a callback that train in a second, with every source of randomness a resume can trip over.

Recipes of the tests name these classes by dotted path; `tiny_recipe` writes such a recipe.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightsleeper.deploy.finalize import load_model
from lightsleeper.errors import UserError
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import ExportGraph, Family
from lightsleeper_callbacks.base import Compression, Phase
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset


class Graph(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features).squeeze(-1)


class TinyFamily(Family):
    headline = ("test/accuracy",)

    def __init__(self, width: int = 8, encoder: str | None = None, scheduler: str = "epoch", optimizer: str = "adam"):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 1)
        )
        self.register_buffer("offset", torch.zeros(()))
        if encoder is not None and not (Path(encoder) / "export" / "model.json").is_file():
            raise UserError(f"no finished encoder in {encoder}")
        self._hits: list[float] = []

    def architecture(self) -> dict[str, Any]:
        return {"width": self.hparams["width"]}

    def _loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        features, target = batch
        logit = self.net(features).squeeze(-1) + self.offset
        return nn.functional.binary_cross_entropy_with_logits(logit, target), logit

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        maybe_stop("step", self.trainer.global_step)
        features, target = batch
        scale = random.random() * 0.1 + float(np.random.rand()) * 0.1
        loss, _ = self._loss((features + scale * torch.randn_like(features), target))
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, logit = self._loss(batch)
        self.log("val/loss", loss)
        self.log("val/accuracy", ((logit > 0) == (batch[1] > 0.5)).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        maybe_stop("test", batch_idx)
        loss, logit = self._loss(batch)
        self.log("test/loss", loss)
        self._hits += ((logit > 0) == (batch[1] > 0.5)).float().tolist()

    def on_test_epoch_end(self) -> None:
        value = sum(self._hits) / len(self._hits)
        self.measured = {"test/accuracy": Measurement(value, value - 0.1, value + 0.1, len(self._hits), "made up")}
        self.curves = {"roc": {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        if self.hparams["scheduler"] == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}
        if self.hparams["scheduler"] == "step":
            step = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": step, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)}

    def calibrate(self, batches: Any) -> dict[str, Any]:
        maybe_stop("finalize", 0)
        logits = torch.cat([self.net(features).squeeze(-1) for features, _ in batches])
        self.offset.copy_(-logits.median())
        return {"value": float(logits.mean()), "target": "mean"}

    def export_spec(self) -> list[ExportGraph]:
        def sample(seed: int) -> dict[str, Tensor]:
            maybe_stop("export", seed)  # not in export_spec, which the check stage asks for too
            return {"features": torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))}

        return [ExportGraph("model", Graph(self.net).eval(), sample, ["score"])]

    def context(self) -> dict[str, float | None]:
        return {"past_ms": 100.0, "future_ms": 0.0, "state_bytes": None}


class BuiltOn(TinyFamily):
    """Rebuilds the model of an earlier step, or reads another ``file`` of its run."""

    built: ClassVar[list[list[str]]] = []
    """Names of the files in the step's `export/`, for every one that was built."""

    def __init__(self, encoder: str, file: str | None = None) -> None:
        super().__init__()
        if file is not None:
            (Path(encoder) / file).read_bytes()
        self.inner = load_model(encoder)
        self.built.append(sorted(path.name for path in (Path(encoder) / "export").iterdir()))


class TinyData(L.LightningDataModule):
    def __init__(self, rows: int = 48, batch_size: int = 8, workers: int = 0, fail: str | None = None) -> None:
        super().__init__()
        self.rows, self.batch_size, self.workers, self.fail = rows, batch_size, workers, fail

    def setup(self, stage: str) -> None:
        if self.fail == "bug":
            raise ZeroDivisionError("division by zero")
        if self.fail == "user":
            raise UserError("clip 3 of the manifest is no audio file.")
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(self.rows, 4, generator=generator)
        self.set = TensorDataset(features, (features.sum(1) > 0).float())

    def summary(self) -> dict[str, Any]:
        return {"hash": "abc", "protocol": "P0", "counts": {"train": self.rows}, "overlap": {}}

    def train_dataloader(self) -> DataLoader[Any]:
        # shuffle draws from the global generator: the hardest case for a resume
        return DataLoader(self.set, self.batch_size, shuffle=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, 16)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.set, 16)


class Counting(L.Callback):
    """A callback with state."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        pl_module.log("counted", float(self.steps))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


class Mask(nn.Module):
    """Parametrisation that zeroes where ``mask`` is zero."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class TinyPrune(Compression):
    """Zeroes half of the first layer by the middle of the training."""

    phase = Phase.PRUNE

    def prepare(self, module: Any) -> None:
        parametrize.register_parametrization(module.net[0], "weight", Mask(module.net[0].weight))

    def step(self, module: Any, progress: float) -> None:
        layer = module.net[0].parametrizations.weight
        count = int(min(progress, 0.5) * layer.original.numel())
        layer[0].mask.fill_(1).view(-1)[layer.original.abs().flatten().argsort()[:count]] = 0

    def settled(self, progress: float) -> bool:
        return progress >= 0.5

    def finalize(self, module: Any) -> Any:
        parametrize.remove_parametrizations(module.net[0], "weight")
        return module

    def report(self, module: Any) -> dict[str, float]:
        return {"compress/sparsity": float((module.net[0].weight == 0).float().mean())}


def maybe_stop(place: str, number: int) -> None:
    """Obey TINY_STOP=place:number:what, once: what is kill, int, term, wait or disk."""
    wanted = os.environ.get("TINY_STOP", "").split(":")
    if wanted[:2] != [place, str(number)]:
        return
    if wanted[2] == "wait":
        Path(os.environ["TINY_READY"]).touch()
        time.sleep(60)
    elif wanted[2] == "disk":
        raise OSError(28, "No space left on device")
    else:
        signals = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}
        os.kill(os.getpid(), signals[wanted[2]])


RECIPE = """
# A recipe for tests.
seed_everything: 3
model: {class_path: tiny_family.TinyFamily, init_args: {width: 8}}
data: {class_path: tiny_family.TinyData}
callbacks:
  count: {class_path: tiny_family.Counting}
trainer: {max_epochs: 4, log_every_n_steps: 1, accelerator: cpu}
run: {monitor: val/loss, mode: min, parity_inputs: 4, threads: 1}
tracking: {mode: disabled}
"""


def tiny_recipe(folder: Path, name: str = "tiny", extra: str = "") -> Path:
    """Write the recipe, with ``extra`` top-level lines, and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE + extra)
    return path
