import json
import subprocess
import sys

import pytest
from tiny_spotter import levels, recording, write_spotter


@pytest.fixture
def spotter(tmp_path):
    return str(write_spotter(tmp_path / "model.onnx"))


def test_words_are_lines_with_times_and_score(cli, spotter, tmp_path):
    first, second = recording(tmp_path / "a.wav", (0.48, 0.8), (1.2, -0.9)), recording(tmp_path / "b.wav")
    done = cli("listen", spotter, str(first), str(second))
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{first}: 0.28-0.58 s, high, score 0.800",
        f"{first}: 1.00-1.30 s, low, score 0.900",
        f"{second}: no word",
    ]
    assert "threshold 0.4, 2 words" in done.err
    assert "2 words; 4.0 s heard" in done.err


def test_json_is_a_line_for_each_word_and_each_end(cli, spotter, tmp_path):
    path = recording(tmp_path / "a.wav", (0.48, 0.8))
    word, end = map(json.loads, cli("listen", spotter, str(path), "--json").out.splitlines())
    assert word == {
        "file": str(path), "word": "high", "start_s": 0.28, "end_s": 0.58, "time_s": 0.96,
        "score": pytest.approx(0.8, abs=1e-3),
    }  # fmt: skip
    assert end == {"file": str(path), "seconds": 2.0, "events": 1}


def test_samples_may_come_through_a_pipe(spotter):
    samples = (levels((0.48, 0.8)) * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "lightsleeper", "listen", spotter, "-", "--json"]
    done = subprocess.run(command, input=samples, capture_output=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[0])["word"] == "high"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plot", "a.png"], "is drawn by `lightning detect"),
        (["--wait", "0.2"], "--wait is for wake words"),
    ],
)
def test_what_a_spotter_has_no_use_for_is_refused(cli, spotter, tmp_path, words, message):
    done = cli("listen", spotter, str(recording(tmp_path / "a.wav")), *words)
    assert (done.code, message in done.err) == (2, True)


def test_a_word_never_lies_outside_of_its_recording(cli, spotter, tmp_path):
    path = recording(tmp_path / "a.wav", (0.0, 0.9), (1.9, -0.9))
    assert cli("listen", spotter, str(path)).out.splitlines() == [
        f"{path}: 0.00-0.10 s, high, score 0.900",
        f"{path}: 1.72-2.00 s, low, score 0.900",
    ]
