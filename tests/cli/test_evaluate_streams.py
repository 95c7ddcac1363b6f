"""`lightning evaluate` of wake words. Matchers: test_evaluate."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from lightsleeper.deploy.finalize import load_model
from models.wake_streams import stream
from tiny_detector import LOUD, RATE, RUN, detector_runs, jumps, write_graph


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def recordings(tmp_path):
    """Three takes of the phrase, one of them too soft to fire, and two other recordings, one of which fires twice."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = []
    for name, text, at in (
        ("a", "wake up", (1.0,)),
        ("b", "Wake up", (2.0,)),
        ("d", "stop", ()),
        ("e", "go", (1.0, 3.0)),
    ):
        jumps(folder / f"{name}.wav", at)
        rows.append((f"{name}.wav", text))
    soundfile.write(folder / "c.wav", np.zeros(RATE), RATE)
    rows.append(("c.wav", "wake up"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *rows])
    return folder


@pytest.fixture
def louder(tmp_path):
    return str(write_graph(tmp_path / "louder.onnx", LOUD))


def test_recordings_give_rejects_false_alarms_and_what_they_bear_out(cli, louder, recordings, tmp_path):
    out = tmp_path / "out.json"
    done = cli("evaluate", louder, "--data", str(recordings), "--phrase", "wake up", "--json", str(out))
    assert done.code == 0, done.err
    content = json.loads(out.read_text())
    found = content["sets"]["test"]["shipped"]
    assert (found["frr"]["value"], found["frr"]["n"]) == (pytest.approx(1 / 3), 3)
    assert found["frr"]["method"] == "Clopper-Pearson"
    assert found["fa_per_hour"]["n"] == 2
    assert found["negative_hours"]["value"] == pytest.approx(9 / 3600, abs=1e-5)
    detected = {row["file"]: row["detected"] for row in content["recordings"]["test"]}
    assert detected == {str(recordings / name): name != "c.wav" for name in ("a.wav", "b.wav", "c.wav")}
    assert content["conditions"]["counts"] == {"positive": 3, "negative": 2}
    assert content["curves"]["test"]["kind"] == "frr_fah"
    assert "missed: c.wav" in done.out
    assert "threshold 0.4, onnxruntime" in done.out


def test_listen_hears_an_event_in_what_evaluate_counts_as_detected(cli, louder, recordings):
    done = cli("listen", louder, str(recordings), "--json")
    ends = [line for line in map(json.loads, done.out.splitlines()) if "events" in line]
    assert {line["file"][-5]: line["events"] for line in ends} == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 2}


def test_folders_without_the_phrase_count_false_alarms_alone(cli, louder, tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    jumps(folder / "a.wav", ())
    done = cli("evaluate", louder, "--negatives", str(folder), "--json", str(tmp_path / "out.json"))
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())["sets"]["test"]["shipped"]
    assert found["frr"] == {"value": None, "low": None, "high": None, "n": 0, "method": None}
    assert found["fa_per_hour"]["value"] == 0
    assert "0.00 hours without the phrase are too few for 0.5 an hour" in done.out


def test_the_threshold_given_decides(cli, louder, recordings, tmp_path):
    done = cli(
        "evaluate", louder, "--data", str(recordings), "--phrase", "wake up", "--threshold", "0.99", "--json",
        str(tmp_path / "out.json"),
    )  # fmt: skip
    assert done.code == 0
    assert json.loads((tmp_path / "out.json").read_text())["sets"]["test"]["shipped"]["frr"]["value"] == 1


def test_a_run_is_judged_on_the_test_streams_of_its_own_recipe(cli, tmp_path):
    done = cli("evaluate", RUN, "--runs-dir", str(detector_runs()), "--json", str(tmp_path / "out.json"))
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out.json").read_text())
    model = load_model(detector_runs() / "wake" / RUN)
    metric = model.metric
    with torch.no_grad():
        for chunk in stream(2, 22) + stream(3, 20):
            model._follow(chunk, metric)
    wanted = metric.results("", float(model.threshold))
    found = content["sets"]["test"]["shipped"]
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key]["value"] == pytest.approx(value.value), key
    assert content["recordings"]["test"] == []
    val = cli(
        "evaluate", RUN, "--runs-dir", str(detector_runs()), "--split", "val", "--json", str(tmp_path / "val.json")
    )
    assert val.code == 0, val.err
    assert set(json.loads((tmp_path / "val.json").read_text())["sets"]) == {"val"}


def test_the_phrase_is_that_of_the_run(cli, recordings, tmp_path):
    folder = tmp_path / "runs" / "wake" / RUN
    (folder / "export").mkdir(parents=True)
    write_graph(folder / "export" / "model.onnx", LOUD)
    (folder / "recipe.yaml").write_text("data: {class_path: WakeWords, init_args: {phrase: wake up}}\n")
    done = cli("evaluate", str(folder / "export" / "model.onnx"), "--data", str(recordings))
    assert done.code == 0, done.err
    assert "wake word 'wake up', recordings" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "FOLDER"], "its phrase is not known: give --phrase"),
        ([], "its own data are not known: give --data"),
        (["--data", "FOLDER", "--phrase", "wake us"], "says 'wake us'. Did you mean 'wake up'"),
        (["--data", "FOLDER", "--phrase", "wake up", "--split", "val"], "a folder is test data as a whole"),
        (["--data", "FOLDER", "--phrase", "wake up", "--threshold", "nan"], "--threshold: expected a number"),
        (["--data", "none.yaml"], "none.yaml"),
        (["--data", "FOLDER", "none.yaml", "--phrase", "wake up"], "expected folders only, or a recipe"),
        (["--data", "none.yaml", "--negatives", "FOLDER"], "--negatives go with folders of recordings"),
        (["--data", "RECIPE", "--phrase", "wake up"], "--phrase is of recordings in a folder"),
        (["--data", "RECIPE"], "expected WakeWords"),
        (["--negatives", "none"], "none does not exist"),
    ],
)
def test_mistakes_are_one_line(cli, louder, recordings, tmp_path, words, message):
    recipe = tmp_path / "digits.yaml"
    init = json.dumps({"path": str(recordings), "evaluate_only": True})
    recipe.write_text(f"data: {{class_path: AudioFolder, init_args: {init}}}\n")
    names = {"FOLDER": str(recordings), "RECIPE": str(recipe)}
    failed = cli("evaluate", louder, *(names.get(word, word) for word in words))
    assert failed.code == 2, failed.out
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1


def test_a_model_without_threshold_asks_for_one(cli, recordings, tmp_path):
    path = write_graph(tmp_path / "m.onnx", {key: value for key, value in LOUD.items() if key != "threshold"})
    failed = cli("evaluate", str(path), "--data", str(recordings), "--phrase", "wake up")
    assert failed.code == 2
    assert "has no calibrated threshold: give one with --threshold" in failed.err
