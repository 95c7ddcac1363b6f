"""The other side of `lightning bench overhead`: a script as a user would write it without lightsleeper's run.

`python -m lightsleeper.bench.bare_fit CONFIG.json FOLDER` builds model and data from plain arguments, trains them with
a bare Lightning Trainer, Lightning's own loggers and checkpoint callback, and prints one JSON line after the fit.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger

MARK = "bare-fit "


def main(config_file: str, folder: str) -> int:
    """Fit what the resolved, substituted config names; everything written lies in ``folder``."""
    config = json.loads(Path(config_file).read_text())
    L.seed_everything(config["seed_everything"], workers=True, verbose=False)
    if config["run"]["threads"] is not None:
        torch.set_num_threads(config["run"]["threads"])
    model, data = build(config["model"]), build(config["data"])
    callbacks: list[Callback] = [build(spec) for spec in config["callbacks"].values()]
    logs = loggers(config["tracking"], folder)
    for logger in logs:
        _ = logger.experiment  # W&B starts its process here: lightsleeper does that before its fit too
    began = time.perf_counter()
    trainer = L.Trainer(
        **{
            **config["trainer"],
            "logger": logs,
            "callbacks": [*callbacks, *checkpoints(config["run"], folder)],
            "default_root_dir": folder,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
    )
    trainer.fit(model, datamodule=data)
    print(MARK + json.dumps({"fit_s": time.perf_counter() - began, "steps": trainer.global_step}), flush=True)
    return 0


def build(spec: dict[str, Any]) -> Any:
    """The object of one class_path and init_args."""
    from lightsleeper.recipe.catalog import dotted_path

    module, _, name = dotted_path(spec["class_path"]).rpartition(".")
    return getattr(importlib.import_module(module), name)(**spec["init_args"])


def checkpoints(run: dict[str, Any], folder: str) -> list[Callback]:
    """The last epoch, and the best one where the recipe monitors a metric."""
    best = {"monitor": run["monitor"], "mode": run["mode"], "save_top_k": 1} if run["monitor"] else {"save_top_k": 0}
    return [ModelCheckpoint(dirpath=f"{folder}/checkpoints", save_last=True, **best)]


def loggers(tracking: dict[str, Any], folder: str) -> list[CSVLogger | WandbLogger]:
    """A metrics file, and W&B offline unless tracking is disabled."""
    found: list[CSVLogger | WandbLogger] = [CSVLogger(folder)]
    if tracking["mode"] != "disabled":
        found.append(WandbLogger(save_dir=folder, project=tracking["project"], offline=True))
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
