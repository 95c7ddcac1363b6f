"""`lightning listen` and `lightning evaluate` on recordings of people, which are found in LIGHTSLEEPER_REAL_DATA."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from lightsleeper.data.wake_streams import RecordedStreams
from lightsleeper.deploy.detector import OnnxStream
from lightsleeper.deploy.stream_evaluation import follow, metric_of
from lightsleeper.tracking.record import read
from tiny_detector import LOUD, write_graph

pytestmark = pytest.mark.real_data


def some(real_data: Path, folder: Path, each: int) -> Path:
    """A folder with a manifest of ``each`` recordings of "jarvis" and of "smart mirror", where they lie."""
    folder.mkdir()
    with (real_data / "wake_words" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        for text in ("jarvis", "smart mirror"):
            chosen = [row for row in rows if row["text"] == text][:each]
            writer.writerows([real_data / "wake_words" / row["path"], text] for row in chosen)
    return folder


def test_listen_fires_in_the_recordings_that_evaluate_counts_as_detected(cli, real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    folder, out = some(real_data, tmp_path / "people", 40), tmp_path / "out.json"
    louder, metric = str(write_graph(tmp_path / "louder.onnx", LOUD)), metric_of(LOUD)
    follow(OnnxStream(louder), RecordedStreams("jarvis", [folder]).chunks(), metric)
    peaks = np.sort(metric._peaks())
    threshold = str((peaks[19] + peaks[20]) / 2)  # it knows no word, but divides the recordings
    words = ["--data", str(folder), "--phrase", "jarvis", "--json", str(out), "--threshold", threshold]
    done = cli("evaluate", louder, *words)
    assert done.code == 0, done.err
    content = json.loads(out.read_text())
    detected = {row["file"]: row["detected"] for row in content["recordings"]["test"]}
    found = content["sets"]["test"]["shipped"]
    assert found["frr"]["n"] == len(detected) == 40
    assert sum(detected.values()) == 20
    assert found["negative_hours"]["value"] == pytest.approx(40 * 3.5 / 3600, rel=0.3)
    heard = cli("listen", louder, *detected, "--threshold", threshold, "--json")
    ends = [line for line in map(json.loads, heard.out.splitlines()) if "events" in line]
    assert {line["file"]: line["events"] > 0 for line in ends} == detected


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_detector_of_people_is_trained_listened_to_and_evaluated(cli, real_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = some(real_data, tmp_path / "people", 300)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "wakeword_heimdal.yaml"
    data = {"path": folder, "phrase": "jarvis", "synthesis": "false", "clip_seconds": 1.6}
    done = cli(
        "run", str(recipe), *(f"--data.{name}={value}" for name, value in data.items()),
        f"--data.negatives=[{real_data / 'coffee_orders'}]", "--data.keep_clips=0",
        "--trainer.max_epochs=8", "--trainer.check_val_every_n_epoch=2", "--model.fa_per_hour=10",
        "--run.parity_inputs=4", "--run.stages=[fit,finalize,test,export]",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "try it:      lightning listen" in done.out
    (record,) = (read(path) for path in tmp_path.glob("runs/*/*/record.json"))
    assert record.metrics["test/frr"]["value"] < 0.5
    assert cli("evaluate", "last", "--json", "own.json").code == 0
    own = json.loads(Path("own.json").read_text())["sets"]["test"]["shipped"]
    assert {f"test/{name}": value["value"] for name, value in own.items()} == pytest.approx(
        {name: value["value"] for name, value in record.metrics.items()}, nan_ok=True
    )
    exported = next(tmp_path.glob("runs/*/*/export/model.onnx"))
    heard = cli("listen", str(exported), str(real_data / "wake_words" / "jarvis"), "--json")
    ends = [line for line in map(json.loads, heard.out.splitlines()) if "events" in line]
    assert sum(line["events"] > 0 for line in ends) > 0.5 * len(ends)
