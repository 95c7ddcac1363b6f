import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from lightsleeper.cli.typed_keywords import pronounced
from lightsleeper.data.lexicon import Lexicon
from tiny_matcher import tiny_runs

RUN = "20260101-000000-abcd"
FOLDER = "tiny/" + RUN


@pytest.fixture
def wav(tmp_path):
    """Half a second of silence, a second of noise, half a second of silence, at 8 kHz."""
    noise = np.random.default_rng(0).standard_normal(8000) * 0.2
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.concatenate([np.zeros(4000), noise, np.zeros(4000)]), 8000)
    return path


def _detect(cli, *words):
    return cli("detect", str(tiny_runs() / FOLDER / "export" / "model.onnx"), *words)


def test_score_decision_and_words_per_file_and_keyword(cli, wav):
    done = _detect(cli, "--keyword", "turn on", "--keyword", "light", str(wav), "--json")
    assert done.code == 0
    first, second = json.loads(done.out)
    assert (first["keyword"], second["keyword"]) == ("turn on", "light")
    assert first["file"] == str(wav)
    assert first["detected"] == (first["score"] >= first["threshold"] == -1.0)
    assert first["scores"]["shipped"] == first["score"]
    words = first["words"]
    assert [word["text"] for word in words] == ["turn", "on"]
    assert words[0]["end_s"] == pytest.approx(words[1]["start_s"])
    # The equal cuts of the tiny model lie in the noise, from 0.5 s to 1.5 s of the file.
    assert words[0]["start_s"] == pytest.approx(0.5, abs=0.16)
    assert words[1]["end_s"] == pytest.approx(1.5, abs=0.16)


def test_without_trimming_words_span_the_whole_file(cli, wav):
    done = _detect(cli, "--keyword", "turn on", str(wav), "--json", "--no-trim")
    words = json.loads(done.out)[0]["words"]
    assert words[0]["start_s"] == 0.0
    assert words[1]["end_s"] == pytest.approx(2.0, abs=0.04)


def test_the_run_and_its_file_answer_alike(cli, wav):
    words = ["--keyword", "turn on", str(wav), "--json"]
    file = json.loads(_detect(cli, *words).out)[0]
    run = json.loads(cli("detect", "last", "--runs-dir", str(tiny_runs()), *words).out)[0]
    assert run["score"] == pytest.approx(file["score"], abs=1e-4)
    assert run["words"] == file["words"]


def test_the_threshold_decides(cli, wav):
    low = _detect(cli, "--keyword", "light", "--threshold", "-1000", str(wav)).out
    high = _detect(cli, "--keyword", "light", "--threshold", "1000", str(wav)).out
    assert f'{wav}: "light" detected, score' in low
    assert f'{wav}: "light" no, score' in high
    assert "light 0." in low  # the word's time


def test_a_picture_is_drawn(cli, wav, tmp_path):
    picture = tmp_path / "out.png"
    done = _detect(cli, "--keyword", "turn on", "--keyword", "light", str(wav), "--plot", str(picture))
    assert done.code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert done.out.splitlines()[-1] == f"drawn: {picture}"


def test_pronunciations_override_the_lexicon(cli, wav):
    plain = json.loads(_detect(cli, "--keyword", "light", str(wav), "--json").out)[0]["score"]
    own = json.loads(_detect(cli, "--keyword", "light", "--pronounce", "S IH1 R IY0", str(wav), "--json").out)[0]
    assert own["score"] != plain
    given = pronounced(["hey", "siri", "stop"], ["siri=S IH1 R IY0", "stop=S"], Lexicon.default())
    assert given == {"siri": [("S", "IH1", "R", "IY0")], "stop": [("S",)]}


def test_guessed_pronunciations_are_told(cli, wav):
    done = _detect(cli, "--keyword", "zorblax", str(wav))
    assert done.code == 0
    assert "guessed the pronunciation zorblax='" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keyword", "light"], "nothing to listen to"),
        (["--keyword", "", "WAV"], "no words in ''"),
        (["--keyword", "42", "WAV"], "can be said in several ways"),
        (["--keyword", "light", "none.wav"], "none.wav: does not exist"),
        (["--keyword", "light", "TEXT"], "damaged or no audio file"),
        (["--keyword", "light", "WAV", "--threshold", "nan"], "--threshold: expected a number"),
        (["--keyword", "light", "WAV", "--threshold", "x"], "invalid float value"),
        (["--keyword", "light", "WAV", "--plot", "out.xyz"], "ends in .png, .svg, .pdf"),
        (["--keyword", "light", *["WAV"] * 13, "--plot", "out.png"], "13 here; at most 12"),
        (["--keyword", "light", "WAV", "--pronounce", "L AY Q"], "'Q' is no ARPAbet phone"),
        (["--keyword", "light", "WAV", "--pronounce", "lihgt=L AY T"], "no keyword has the word 'lihgt'. Did you mean"),
        (["--keyword", "turn on", "WAV", "--pronounce", "T ER N"], "which of turn, on"),
        (["--keyword", "internationalization of everything", "WAV"], "phones is too long"),
        (["--keyword", "light", "--microphone", "600"], "expected up to 60 seconds"),
        (["WAV"], "nothing to look for: give --keyword TEXT"),
    ],
)
def test_mistakes_are_one_line(cli, wav, tmp_path, words, message):
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    words = [{"WAV": str(wav), "TEXT": str(text)}.get(word, word) for word in words]
    failed = _detect(cli, *words)
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert failed.out == ""


@pytest.mark.parametrize("missing", ["none.onnx", "text.onnx", "text.wav"])
def test_something_else_than_a_model_is_refused(cli, wav, tmp_path, missing):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.wav").write_text("no model")
    failed = cli("detect", str(tmp_path / missing), "--keyword", "light", str(wav))
    assert failed.code == 2
    assert missing in failed.err


def test_without_sounddevice_the_extra_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    failed = _detect(cli, "--keyword", "light", "--microphone", "1")
    assert failed.code == 2
    assert "pip install -e '.[microphone]'" in failed.err


def test_the_microphone_is_one_more_clip(cli, monkeypatch):
    seen = {}

    def rec(frames, samplerate, **options):
        seen.update(frames=frames, samplerate=samplerate, **options)
        return np.random.default_rng(0).standard_normal((frames, 1)).astype(np.float32) * 0.1

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(rec=rec, PortAudioError=OSError))
    done = _detect(cli, "--keyword", "light", "--microphone", "1.5")
    assert done.code == 0
    assert done.out.startswith('microphone: "light"')
    assert (seen["frames"], seen["samplerate"], seen["blocking"]) == (24_000, 16_000, True)
