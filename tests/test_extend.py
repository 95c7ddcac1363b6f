"""docs/extend.md is a worked example: its files, written as they stand there, train, compress, export and show."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightsleeper.cli import main
from lightsleeper.dashboard.quantities import quantity
from lightsleeper.deploy.finalize import load_model
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.tracking.record import read
from tiny_runs import last, prepare

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extend.md"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    prepare(monkeypatch, tmp_path)
    files: dict[str, str] = {}
    for name, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        files[name] = files.get(name, "") + "\n\n" * (name in files) + text
    assert set(files) == {"burst.py", "burst.yaml"}
    for name, text in files.items():
        Path(name).write_text(text)
    yield
    sys.modules.pop("burst", None)


@pytest.mark.usefixtures("written")
def test_the_example_of_the_guide_runs_through_every_stage():
    assert main(["run", "burst.yaml", "--run.threads=1"]) == 0
    folder = last("burst")
    record = read(folder)
    assert set(record.stages.values()) == {"finished"}
    assert record.headline == ["test/auroc", "test/frr_quiet"]
    assert record.metrics["test/auroc"]["value"] > 0.9
    missed = record.metrics["test/frr_quiet"]
    assert missed["low"] < missed["value"] < missed["high"]
    assert missed["n"] == 50
    assert record.compression["shifts"]["compress/bits_per_weight"] < 5
    assert record.artifacts[0]["parity"]["max_abs_diff"] < 1e-4
    assert record.artifacts[0]["latency"][0]["p50_ms"] > 0

    model = load_model(folder)
    weights = torch.cat([layer.weight.flatten() for layer in (model.spectrum, model.logit)])
    assert torch.equal(weights.abs().log2(), weights.abs().log2().round())
    audio = torch.randn(1, 1600)
    score = OnnxGraph(folder / "export" / "model.onnx").run({"audio": audio.numpy()})["score"]
    np.testing.assert_allclose(score, model(audio).detach().numpy(), atol=1e-4)


@pytest.mark.usefixtures("written")
def test_its_metric_is_an_axis_and_its_callback_a_knob():
    assert main(["run", "burst.yaml", "--callbacks.shifts=null", "--trainer.max_epochs=1", "--run.threads=1"]) == 0
    assert read(last("burst")).compression == {}
    assert (quantity("test/frr_quiet").label, quantity("test/frr_quiet").better) == ("FRR (quiet)", "lower")
    assert main(["dashboard", "--format", "csv", "--out", "figures"]) == 0
    tables = [row for file in Path("figures").rglob("*.csv") for row in csv.reader(file.open())]
    assert any("FRR (quiet)" in cell or "test/frr_quiet" in cell for row in tables for cell in row)
