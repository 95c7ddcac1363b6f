import json

import pytest
from lightsleeper.deploy.finalize import load_model
from models.word_streams import Tones
from tiny_spotter import RUN, exported, recording, spotter_runs, write_spotter

FOLDER = f"spot/{RUN}"


@pytest.fixture
def runs():
    return spotter_runs()


def evaluated(cli, tmp_path, *words: str) -> dict:
    done = cli("evaluate", *words, "--json", str(tmp_path / "found.json"))
    assert done.code == 0, done.err
    return json.loads((tmp_path / "found.json").read_text())


def test_a_run_has_the_numbers_of_its_own_test(cli, tmp_path, runs):
    found = evaluated(cli, tmp_path, RUN, "--runs-dir", str(runs))["sets"]["test"]["shipped"]
    model = load_model(runs / FOLDER / "export")
    for chunk in Tones().test_dataloader()[0]:
        model.observe(chunk)
    expected = model.results("", intervals=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value.value, abs=1e-4, nan_ok=True), name
    assert found["skipped_noise"]["value"] > 0


@pytest.mark.slow
def test_the_exported_file_answers_as_the_run_does(cli, tmp_path, runs):
    run = evaluated(cli, tmp_path, RUN, "--runs-dir", str(runs))
    file = evaluated(cli, tmp_path, str(exported()))
    assert file["conditions"]["runtime"].startswith("onnxruntime")
    for name, value in run["sets"]["test"]["shipped"].items():
        assert file["sets"]["test"]["shipped"][name]["value"] == pytest.approx(value["value"], abs=0.01, rel=0.05), name


def test_threshold_and_split_may_be_chosen(cli, tmp_path, runs):
    words = (RUN, "--runs-dir", str(runs), "--split", "val", "--threshold", "0.999999")
    found = evaluated(cli, tmp_path, *words)
    assert found["sets"]["val"]["shipped"]["recall"]["value"] == 0
    assert found["conditions"]["threshold"] == 0.999999


def test_numbers_are_printed_with_their_conditions(cli, runs):
    done = cli("evaluate", RUN, "--runs-dir", str(runs))
    for name in ("f1_strict", "mean_iou", "mtwv", "fa_per_hour_silence", "skipped_speech"):
        assert name in done.out
    assert "threshold 0." in done.out


def test_data_with_other_words_are_refused(cli, tmp_path, runs):
    path = write_spotter(tmp_path / "model.onnx")
    done = cli("evaluate", str(path), "--data", str(runs / FOLDER / "recipe.yaml"))
    assert done.code == 2
    assert "the model knows 2 words (high, low), these data 3 (fall, hold, rise)" in done.err


def test_what_does_not_fit_is_refused(cli, tmp_path, runs):
    recording(tmp_path / "a.wav")
    for words, message in (
        (["--data", str(tmp_path)], "needs the data of a recipe"),
        (["--phrase", "hey"], "--phrase is for wake words"),
        (["--threshold", "nan"], "expected a number"),
        (["--data", str(runs / FOLDER / "recipe.yaml")], None),
    ):
        done = cli("evaluate", RUN, "--runs-dir", str(runs), *words)
        assert (done.code == 0) if message is None else message in done.err
