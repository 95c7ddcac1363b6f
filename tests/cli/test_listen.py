import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
import torch
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.metrics.events import EventDecoder
from tiny_detector import HOP, LOUD, META, RATE, RUN, detector_runs, jumps, write_graph
from tiny_matcher import TinyMatcher


@pytest.fixture
def louder(tmp_path):
    """A detector that fires where audio becomes loud, as exported file."""
    return str(write_graph(tmp_path / "louder.onnx", LOUD))


def events(out: str) -> list[dict]:
    return [line for line in map(json.loads, out.splitlines()) if "score" in line]


def test_events_are_lines_with_start_end_and_score(cli, louder, tmp_path):
    first, second = jumps(tmp_path / "a.wav", (1.0, 2.5)), jumps(tmp_path / "b.wav", ())
    done = cli("listen", louder, str(first), str(second))
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{first}: 0.72-1.02 s, score 0.900",
        f"{first}: 2.22-2.52 s, score 0.900",
        f"{second}: no event",
    ]
    assert "threshold 0.4 (0.5 false alarms an hour on validation streams)" in done.err
    assert "2 events in 1 of 2 files; 8.0 s heard" in done.err


def test_json_is_a_line_for_each_event_and_each_end(cli, louder, tmp_path):
    path = jumps(tmp_path / "a.wav", (1.0,))
    done = cli("listen", louder, str(path), "--json")
    event, end = map(json.loads, done.out.splitlines())
    assert event == {
        "file": str(path), "start_s": 0.72, "end_s": 1.02, "time_s": 1.02, "score": pytest.approx(0.9, abs=1e-3)
    }  # fmt: skip
    assert end == {"file": str(path), "seconds": 4.0, "events": 1}
    assert done.err == ""


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_recordings_may_have_another_rate(cli, louder, tmp_path, rate):
    done = cli("listen", louder, str(jumps(tmp_path / "a.wav", (1.0,), rate=rate)), "--json")
    (event,) = events(done.out)
    assert event["end_s"] == pytest.approx(1.02, abs=0.021)
    assert ("(8000 Hz): the model hears 16000 Hz, and nothing is there above 4000 Hz" in done.err) == (rate == 8_000)


def test_a_folder_is_all_recordings_below_it(cli, louder, tmp_path):
    (tmp_path / "more" / "deep").mkdir(parents=True)
    jumps(tmp_path / "more" / "b.wav", (1.0,))
    jumps(tmp_path / "more" / "deep" / "a.flac", (2.0,))
    done = cli("listen", louder, str(tmp_path / "more"), "--json")
    assert [event["file"] for event in events(done.out)] == [
        str(tmp_path / "more" / "b.wav"),
        str(tmp_path / "more" / "deep" / "a.flac"),
    ]


def test_a_run_fires_where_its_model_does_offline(cli, tmp_path):
    audio = np.random.default_rng(3).standard_normal(5 * RATE).astype(np.float32) * 0.2
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    done = cli(
        "listen", RUN, "--runs-dir", str(detector_runs()), str(tmp_path / "a.wav"), "--json", "--threshold", "0.5"
    )
    model = load_model(detector_runs() / "wake" / RUN)
    silence = np.zeros(RATE // 2, np.float32)
    with torch.no_grad():
        heard = torch.from_numpy(np.concatenate([silence, np.clip(audio, -1, 1), silence]))[None]
        outputs = model.chain(heard)
        score, start = model.read(outputs)
    decoder = EventDecoder(0.5, model.frame_s, model.smoothing_frames, 1.0)
    expected = decoder.events(score[0].numpy(), start[0].numpy())
    found = events(done.out)
    assert [event["time_s"] for event in found] == pytest.approx([event.time_s - 0.5 for event in expected], abs=1e-4)
    assert [event["score"] for event in found] == pytest.approx([event.score for event in expected], abs=1e-5)


def test_threshold_and_wait_overrule_the_models_own(cli, louder, tmp_path):
    path = str(jumps(tmp_path / "a.wav", (1.0,)))
    assert events(cli("listen", louder, path, "--json", "--threshold", "0.95").out) == []
    (event,) = events(cli("listen", louder, path, "--json", "--wait", "0.5").out)
    assert (event["end_s"], event["time_s"]) == (1.02, 1.52)


def test_a_model_without_threshold_asks_for_one(cli, tmp_path):
    path = write_graph(tmp_path / "m.onnx", {key: value for key, value in META.items() if key != "threshold"})
    wav = str(jumps(tmp_path / "a.wav", (1.0,)))
    failed = cli("listen", str(path), wav)
    assert failed.code == 2
    assert failed.err == f"error: {path} has no calibrated threshold: give one with --threshold.\n"
    assert cli("listen", str(path), wav, "--threshold", "0.5").code == 0


@pytest.mark.parametrize("view", ["spectrogram", "waveform"])
def test_a_picture_is_drawn(cli, louder, tmp_path, view):
    picture = tmp_path / "out.png"
    done = cli("listen", louder, str(jumps(tmp_path / "a.wav", (1.0,))), "--plot", str(picture), "--view", view)
    assert done.code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.err.splitlines()[-1] == f"drawn: {picture}"


def piped(louder, data: bytes, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lightsleeper", "listen", louder, "-", *words]
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False)


def test_a_pipe_of_samples_is_listened_to(louder, tmp_path):
    audio, rate = soundfile.read(jumps(tmp_path / "a.wav", (1.0,), rate=8_000), dtype="int16")
    done = piped(louder, audio.tobytes(), "--rate", "8000", "--json")
    assert done.returncode == 0, done.stderr
    event, end = map(json.loads, done.stdout.splitlines())
    assert event["end_s"] == pytest.approx(1.02, abs=0.021)
    assert end == {"file": "-", "seconds": pytest.approx(4.0, abs=0.01), "events": 1}
    failed = piped(louder, (tmp_path / "a.wav").read_bytes())
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith(b"error: '-': raw 16-bit samples were expected")


class Device:
    """A microphone on which it becomes loud after a second; Ctrl-C comes after two."""

    PortAudioError = OSError

    def __init__(self) -> None:
        self.heard = 0

    def query_devices(self, device, kind):
        return {"name": "desk", "default_samplerate": 16_000.0}

    def check_input_settings(self, *args, **options):
        pass

    def InputStream(self, **options):  # noqa: N802
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, frames):
        if self.heard >= 2 * RATE:
            raise KeyboardInterrupt
        place = np.arange(self.heard, self.heard + frames)
        self.heard += frames
        return np.where(place < RATE, 0.0, 0.8).astype(np.float32)[:, None], self.heard == frames


def test_ctrl_c_is_how_the_microphone_ends(cli, louder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Device())
    picture = tmp_path / "out.png"
    done = cli("listen", louder, "--microphone", "--plot", str(picture))
    assert done.code == 0
    assert done.out == "microphone: 0.72-1.02 s, score 0.800\n"
    assert "listening to desk at 16000 Hz; Ctrl-C ends" in done.err
    assert "note: 1 times this machine was late" in done.err
    assert picture.is_file()


def test_so_many_seconds_of_the_microphone(cli, louder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Device())
    done = cli("listen", louder, "--microphone", "0.5", "--json")
    assert json.loads(done.out) == {"file": "microphone", "seconds": 0.5, "events": 0}


def test_ctrl_c_in_a_file_stops_the_program(cli, louder, tmp_path, monkeypatch):
    from lightsleeper.data import sounds

    def blocks(self, sample_rate):
        yield np.zeros(HOP, np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(sounds.Recording, "blocks", blocks)
    stopped = cli("listen", louder, str(jumps(tmp_path / "a.wav", ())))
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.splitlines()[-1] == "interrupted."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to listen to: name audio files or folders, - for a pipe, or give --microphone"),
        (["none.wav"], "none.wav: does not exist"),
        (["EMPTY"], "is empty"),
        (["TEXT"], "damaged or no audio file"),
        (["FOLDER"], "holds no recording"),
        (["WAV", "--threshold", "nan"], "--threshold: expected a number"),
        (["WAV", "--wait", "2"], "--wait: wait_s 2.0 must be at least 0 and below refractory_s 1.0"),
        (["WAV", "--plot", "out.xyz"], "ends in .png, .svg, .pdf"),
        ([*["WAV"] * 13, "--plot", "out.png"], "13 here; at most 12"),
        (["WAV", "--rate", "8000"], "--rate is of samples from a pipe"),
        (["WAV", "--device", "desk"], "--device names a microphone"),
        (["-", "-"], "there is one pipe"),
        (["--microphone", "-1"], "expected a number of seconds, got -1"),
        (["--microphone", "inf"], "expected a number of seconds, got inf"),
        (["--microphone"], "pip install -e '.[microphone]'"),
        (["WAV", "--keyword", "light"], "is a wake-word detector, its phrase is fixed"),
    ],
)
def test_mistakes_are_one_line(cli, louder, tmp_path, monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "folder").mkdir()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    names = {"EMPTY": "empty.wav", "TEXT": "text.wav", "FOLDER": "folder", "WAV": "a.wav"}
    jumps(tmp_path / "a.wav", (1.0,))
    failed = cli("listen", louder, *(str(tmp_path / names[word]) if word in names else word for word in words))
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert failed.out == ""


def test_a_model_that_is_no_wake_word_is_pointed_to_detect(cli, louder, tmp_path):
    wav = str(jumps(tmp_path / "a.wav", ()))
    folder, file = str(save_model(TinyMatcher(), tmp_path / "export", {})), str(tmp_path / "m.onnx")
    model = onnx.load(louder)
    model.graph.output.pop()  # the next state
    onnx.save(model, file)
    for source, reason in ((folder, "it has a TinyMatcher"), (file, "it has no streaming state")):
        failed = cli("listen", source, wav)
        assert failed.code == 2
        assert failed.err.startswith(f"error: {source} is no wake-word detector ({reason}); `lightning detect {source}")
        assert len(failed.err.splitlines()) == 1


def test_a_file_without_its_front_end_is_refused(cli, tmp_path):
    model = onnx.load(write_graph(tmp_path / "m.onnx", LOUD))
    model.graph.input[0].name = model.graph.node[0].input[0] = "features"
    onnx.save(model, tmp_path / "m.onnx")
    failed = cli("listen", str(tmp_path / "m.onnx"), str(jumps(tmp_path / "a.wav", ())))
    assert failed.code == 2
    assert "takes features, not audio: its front end is made from model.json" in failed.err


def test_a_detector_is_not_matched_against_typed_phrases(cli, louder, tmp_path):
    wav = str(jumps(tmp_path / "a.wav", ()))
    for source in (louder, str(detector_runs() / "wake" / RUN)):
        failed = cli("detect", source, wav, "--keyword", "light")
        assert failed.code == 2
        assert failed.err == (
            f"error: {source} is a wake-word detector, its phrase is fixed: `lightning listen {source} FILE`.\n"
        )


def test_an_exported_file_needs_no_torch(spawn, louder, tmp_path):
    done = spawn("listen", louder, str(jumps(tmp_path / "a.wav", (1.0,))), options=("-X", "importtime"))
    assert done.stdout.endswith("a.wav: 0.72-1.02 s, score 0.900\n")
    loaded = set(re.findall(r"^import time:.*\|\s*(\w+)$", done.stderr, re.MULTILINE))
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({"torch", "lightning", "transformers", "matplotlib"})


def test_events_are_told_at_once_and_not_at_the_end(louder):
    """A pipe that stays open: the line of the event is there before more audio comes."""
    command = [sys.executable, "-m", "lightsleeper", "listen", louder, "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        process.stdin.write(np.concatenate([np.zeros(RATE), np.full(HOP, 20_000)]).astype("<i2").tobytes())
        process.stdin.flush()
        assert process.stdout.readline() == b"-: 0.72-1.02 s, score 0.610\n"
    finally:
        process.stdin.close()
        assert process.wait(60) == 0
