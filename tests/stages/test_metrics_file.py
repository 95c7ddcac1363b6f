"""Training curves of a run on their way from `metrics.csv` to the record."""

import json
import math
from pathlib import Path

import pytest
from lightsleeper.errors import UserError
from lightsleeper.stages.metrics_file import ALL_POINTS, POINTS, MetricsFile, training_curves
from lightsleeper.tracking.record import read
from tiny_runs import FAST, prepare, start, write


def logged(path: Path, rows: int, names: list[str]) -> Path:
    file = MetricsFile(path / "metrics.csv")
    for step in range(rows):
        file.log_metrics(dict.fromkeys(names, step / 3), step)
    return file.path


def test_validation_metrics_and_the_training_loss_are_kept_and_nothing_else(tmp_path: Path):
    path = logged(tmp_path, 3, ["val/auc", "val_acc", "train/loss", "train/loss_epoch", "train/loss_dsp", "lr-AdamW"])
    curves = training_curves(path)
    assert sorted(curves) == ["train/loss", "train/loss_epoch", "val/auc", "val_acc"]
    assert curves["val/auc"] == {"step": [0, 1, 2], "value": [0.0, 0.3333333, 0.6666667]}


def test_a_long_curve_keeps_its_ends_and_at_most_a_hundred_points(tmp_path: Path):
    curve = training_curves(logged(tmp_path, 1001, ["train/loss"]))["train/loss"]
    assert len(curve["step"]) == len(curve["value"]) == POINTS
    assert (curve["step"][0], curve["step"][-1]) == (0, 1000)
    assert sorted(set(curve["step"])) == curve["step"]


def test_many_curves_share_one_budget(tmp_path: Path):
    curves = training_curves(logged(tmp_path, 60, [f"val/m{index}" for index in range(300)]))
    assert sum(len(curve["step"]) for curve in curves.values()) <= ALL_POINTS


@pytest.mark.parametrize("text", [None, "", "step,epoch\n", "step,epoch,val/auc\n0,0,"])
def test_without_finished_rows_there_are_no_curves(tmp_path: Path, text: str | None):
    path = tmp_path / "metrics.csv"
    if text is not None:
        path.write_text(text)
    assert training_curves(path) == {}


def test_a_value_that_is_no_number_stays_a_gap_in_the_record(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"val/auc": math.nan}, 0)
    assert math.isnan(training_curves(file.path)["val/auc"]["value"][0])


def test_the_record_of_a_run_holds_its_training_curves_beside_the_curves_of_its_tests(monkeypatch, tmp_path: Path):
    prepare(monkeypatch, tmp_path)
    record = read(start(write(), FAST))
    assert sorted(record.curves) == ["roc", "training"]
    assert len(record.curves["training"]["val/accuracy"]["step"]) == 4
    assert record.curves["training"] == json.loads(json.dumps(record.curves["training"]))


def test_a_run_that_fails_in_its_fit_keeps_the_curves_up_to_there(monkeypatch, tmp_path: Path):
    prepare(monkeypatch, tmp_path)
    monkeypatch.setenv("TINY_STOP", "step:14:disk")
    with pytest.raises(UserError, match="disk"):
        start(write(), FAST)
    record = read(next(Path("runs/tiny").glob("2*")))
    assert record.status == "failed"
    assert record.curves["training"]["val/accuracy"]["step"]
