from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightsleeper.stages import deliver
from lightsleeper_callbacks.base import Compression, Phase
from tiny_runs import prepare, start, write
from torch import nn


class Started(Compression):
    phase = Phase.INITIALIZE
    loaded: dict[str, Any] | None = None

    def prepare(self, module: nn.Module) -> None:
        raise AssertionError("its weights are in the checkpoint")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict


def test_what_an_initialisation_found_out_comes_back_for_the_record(tmp_path: Path):
    callback, model = Started(), BoringModel()
    (tmp_path / "checkpoints").mkdir()
    state = {"Started:begin": {"facts": {"compress/kept_share": 0.5}}}
    checkpoint = {"state_dict": model.state_dict(), "callbacks": state, "pytorch-lightning_version": "2.6.4"}
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    parts: Any = SimpleNamespace(model=model, callbacks={"begin": callback})
    deliver.restore(parts, tmp_path)
    assert callback.loaded == state["Started:begin"]


def test_what_ships_is_tested_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepare(monkeypatch, tmp_path)
    seen: list[Any] = []
    trainer = deliver.L.Trainer

    def spy(**settings: Any) -> Any:
        seen.append(trainer(**settings))
        return seen[-1]

    monkeypatch.setattr(deliver, "L", SimpleNamespace(Trainer=spy))
    start(write(), "--trainer.precision=bf16-mixed", "--trainer.max_epochs=1", "--run.stages=[fit,finalize,test]")
    assert [made.precision for made in seen] == ["32-true"]
