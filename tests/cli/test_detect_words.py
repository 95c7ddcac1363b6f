import json

import pytest
import soundfile
from models.word_streams import scene
from tiny_detector import LOUD, write_graph
from tiny_spotter import RUN, exported, recording, spotter_runs, write_spotter


@pytest.fixture
def spotter(tmp_path):
    return str(write_spotter(tmp_path / "model.onnx"))


@pytest.fixture
def wav(tmp_path):
    return str(recording(tmp_path / "a.wav", (0.48, 0.8), (1.2, -0.9)))


def test_the_words_of_a_file_are_lines_with_their_times(cli, spotter, wav):
    done = cli("detect", spotter, wav)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{wav}: 2 words in 2.0 s (threshold 0.400), 47 % of the encoder's MACs skipped",
        "  0.28-0.58  high  0.800",
        "  1.00-1.30  low  0.900",
    ]


def test_json_holds_words_times_and_what_was_skipped(cli, spotter, wav):
    (found,) = json.loads(cli("detect", spotter, wav, "--json").out)
    assert found["file"] == wav
    assert found["seconds"] == 2.0
    assert found["skipped"] == pytest.approx(7 / 9 * 0.6)
    assert found["words"] == [
        {"word": "high", "begin_s": 0.28, "end_s": 0.58, "score": pytest.approx(0.8, abs=1e-3)},
        {"word": "low", "begin_s": 1.0, "end_s": 1.3, "score": pytest.approx(0.9, abs=1e-3)},
    ]


def test_recordings_may_have_another_rate(cli, spotter, tmp_path):
    path = recording(tmp_path / "b.wav", (0.48, 0.8), rate=8_000)
    (found,) = json.loads(cli("detect", spotter, str(path), "--json").out)
    assert [word["word"] for word in found["words"]] == ["high"]


def test_keywords_show_only_themselves(cli, spotter, wav):
    (found,) = json.loads(cli("detect", spotter, wav, "--keyword", "low", "--json").out)
    assert [word["word"] for word in found["words"]] == ["low"]


def test_a_word_that_the_model_does_not_know_is_named_with_the_nearest(cli, spotter, wav):
    done = cli("detect", spotter, wav, "--keyword", "hihg")
    assert done.code == 2
    assert "--keyword hihg: not one of the model's 2 words (high, low). Did you mean 'high'?" in done.err


def test_the_threshold_may_be_given(cli, spotter, wav):
    assert "1 word in" in cli("detect", spotter, wav, "--threshold", "0.85").out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_is_drawn(cli, spotter, wav, tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    other = recording(tmp_path / "b.wav", (0.9, 0.8))
    done = cli("detect", spotter, wav, str(other), "--plot", str(path))
    assert done.code == 0
    assert f"drawn: {path}" in done.out
    assert path.stat().st_size > 5000
    if ending == "svg":
        text = path.read_text()
        assert text.count("modules that ran") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pronounce", "HH AY1"], "--pronounce is for typed phrases"),
        (["--no-trim"], "--no-trim is for typed phrases"),
        (["--plot", "a.gif"], "expected a file name that ends in .png"),
        (["--threshold", "nan"], "expected a number"),
    ],
)
def test_what_a_spotter_has_no_use_for_is_refused(cli, spotter, wav, words, message):
    done = cli("detect", spotter, wav, *words)
    assert (done.code, message in done.err) == (2, True)


def test_a_file_without_threshold_asks_for_one(cli, tmp_path, wav):
    path = str(write_spotter(tmp_path / "bare.onnx", threshold="nan"))
    done = cli("detect", path, wav)
    assert done.code == 2
    assert "no calibrated threshold: give one with --threshold" in done.err
    assert "2 words" in cli("detect", path, wav, "--threshold", "0.5").out


def test_a_wake_word_is_still_told_to_listen(cli, tmp_path, wav):
    done = cli("detect", str(write_graph(tmp_path / "louder.onnx", LOUD)), wav, "--keyword", "hey")
    assert done.code == 2
    assert "`lightning listen" in done.err


@pytest.mark.slow
def test_a_run_and_its_file_find_the_same_words(cli, tmp_path):
    path = tmp_path / "tones.wav"
    soundfile.write(path, scene(6.0, 3)[0].numpy(), 16_000)
    (run,) = json.loads(cli("detect", RUN, "--runs-dir", str(spotter_runs()), str(path), "--json").out)
    (file,) = json.loads(cli("detect", str(exported()), str(path), "--json").out)
    assert run["words"]
    assert run["skipped"] == pytest.approx(file["skipped"])
    for ours, theirs in zip(run["words"], file["words"], strict=True):
        assert ours["word"] == theirs["word"]
        assert ours["begin_s"] == pytest.approx(theirs["begin_s"], abs=1e-3)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
