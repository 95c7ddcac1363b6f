import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from lightsleeper.cli.typed_keywords import pronounced
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.deploy.finalize import save_model
from tiny_detector import LOUD, write_graph
from tiny_matcher import TinyMatcher
from tiny_tones import RATE, Tones, silence, spoken


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return str(save_model(Tones(), tmp_path_factory.mktemp("tones"), {}))


@pytest.fixture
def wav(tmp_path):
    """stop at 1.0 s, light at 2.5 s, both as the lexicon says them."""
    audio = np.concatenate([silence(1.0), spoken("S T AA P"), silence(1.02), spoken("L AY T"), silence(0.9)])
    path = tmp_path / "clip.wav"
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    return str(path)


def test_typed_keywords_are_lines_with_their_times(cli, run, wav):
    done = cli("listen", run, "--keyword", "light", "--keyword", "stop", "--keyword", "fish", wav)
    assert done.code == 0
    first, second = done.out.splitlines()
    assert first.startswith(f"{wav}: 0.")
    assert '"stop", score ' in first
    assert '"light", score ' in second
    assert "threshold -1, 3 keywords, windows of 2 s every 0.24 s" in done.err
    assert "2 keywords; 3.8 s heard" in done.err


def test_json_names_pronunciation_and_engines(cli, run, wav):
    done = cli("listen", run, "--keyword", "stop", "--keyword", "zzz=L AY1 T", wav, "--json")
    stop, own, end = map(json.loads, done.out.splitlines())
    assert (stop["keyword"], stop["pronunciation"], stop["engines"]) == ("stop", "S T AA1 P", ["lexicon"])
    assert (own["keyword"], own["pronunciation"], own["engines"]) == ("zzz", "L AY1 T", ["user"])
    assert own["start_s"] == pytest.approx(2.5, abs=0.15)
    assert own["end_s"] <= own["time_s"] <= end["seconds"] == pytest.approx(3.76)
    assert end["events"] == 2


def test_a_file_without_keyword_says_so(cli, run, wav):
    assert cli("listen", run, "--keyword", "fish", wav).out == f"{wav}: no keyword\n"


def test_detect_takes_several_pronunciations_and_says_which_was_heard(cli, run, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([silence(0.3), spoken("HH EY S IH R IY"), silence(0.3)]), RATE)
    keyword = "hey siri=HH EY1 / S AY1 R IY0, HH EY1 / S IH1 R IY0"
    (found,) = json.loads(cli("detect", run, "--keyword", keyword, str(path), "--json").out)
    assert (found["keyword"], found["detected"]) == ("hey siri", True)
    assert found["pronunciation"] == "HH EY1 / S IH1 R IY0"
    assert found["engines"] == ["user", "user"]
    assert found["threshold"] == -1.0


def test_variants_of_the_lexicon_are_all_tried(cli, run, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([silence(0.3), spoken("R EH D"), silence(0.3)]), RATE)
    (found,) = json.loads(cli("detect", run, "--keyword", "read", str(path), "--json").out)
    assert found["detected"]
    assert found["pronunciation"] == "R EH1 D"


def test_another_language_is_plugged_in(cli, run, wav, monkeypatch):
    from lightsleeper.data.pronunciation import Spoken

    german = SimpleNamespace(split=lambda text: [text], variants=lambda word: [Spoken(("L", "AY", "T"), "german")])
    monkeypatch.setitem(sys.modules, "my_german", SimpleNamespace(German=german))
    done = cli("listen", run, "--keyword", "leid", "--phonemizer", "my_german.German", wav, "--json")
    assert json.loads(done.out.splitlines()[0])["engines"] == ["german"]


def test_pronounce_may_give_alternatives():
    lexicon = Lexicon.default()
    found = pronounced(["hey", "siri"], ["siri=S IH1 R IY0, S IY1 R IY0", "hey=HH EY"], lexicon)
    assert found == {"siri": [("S", "IH1", "R", "IY0"), ("S", "IY1", "R", "IY0")], "hey": [("HH", "EY")]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to listen for: give --keyword TEXT"),
        (["--keyword", "hey siri=HH EY1"], "2 words and 1 pronunciations; expected one a word, apart by '/'"),
        (["--keyword", "siri="], "pronunciation of 'siri' is empty"),
        (["--keyword", "siri=S QQ"], "'QQ' is no ARPAbet phone"),
        (["--keyword", "stop", "--plot", "x.png"], "typed keywords are drawn by `lightning detect"),
        (["--keyword", "stop", "--hop", "9"], "a window of 2 s and a hop of 9 s"),
        (["--keyword", "stop", "--normalize", "texts"], "give one with --threshold"),
        (["--keyword", "stop", "--phonemizer", "nowhere.German"], "--phonemizer nowhere.German"),
    ],
)
def test_mistakes_are_one_line(cli, run, wav, words, message):
    failed = cli("listen", run, *words, wav)
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1
    assert failed.out == ""


def test_models_that_cannot_listen_for_typed_keywords_say_why(cli, tmp_path, wav):
    folder = str(save_model(TinyMatcher(), tmp_path / "export", {}))
    failed = cli("listen", folder, "--keyword", "stop", wav)
    assert failed.code == 2
    assert "has no graphs to listen with" in failed.err
    louder = str(write_graph(tmp_path / "louder.onnx", LOUD))
    failed = cli("listen", louder, "--keyword", "stop", wav)
    assert failed.code == 2
    assert "is a wake-word detector, its phrase is fixed" in failed.err
