import numpy as np
import pytest
from lightsleeper.bench import keywords
from lightsleeper.bench.keyword_streams import Line, PhraseStream
from lightsleeper.deploy.finalize import save_model
from lightsleeper.deploy.runtime import TorchModel
from tiny_matcher import TinyMatcher
from tiny_tones import Tones, silence, spoken

SAID = {"stop": "S T AA P", "light": "L AY T", "go": "G OW", "fish": "F IH SH", "tea": "T IY"}
OTHERS = ["window", "paper", "river", "mountain", "seven"]


def heard() -> PhraseStream:
    pieces, lines, at = [], [], 0.0
    for text, phones in SAID.items():
        pieces += [silence(0.5), spoken(phones)]
        lines.append(Line(text, at + 0.5, at + 0.5 + len(pieces[-1]) / 16_000))
        at = lines[-1].end_s
    return PhraseStream(np.concatenate([*pieces, silence(0.5)]), lines, OTHERS)


def test_ten_at_once_are_compared_with_each_alone(capsys):
    found = keywords.latency(TorchModel(Tones()).many(), heard(), repeats=1)
    assert found["texts"] == [*SAID, *OTHERS]
    assert found["ratio"] == pytest.approx(found["many_ms"]["median"] / found["one_ms"]["median"])
    assert "target 1.3" in capsys.readouterr().out


def test_thresholds_are_told_with_what_they_find(capsys):
    found = keywords.threshold(TorchModel(Tones()).many(), heard())
    assert found["said"] == 5
    assert found["rows"][-1]["threshold"] == -1.0  # the model's own
    assert found["rows"][-1]["found"] == 100.0
    assert found["rows"][-1]["alarms_per_hour"] == 0.0


def test_equal_error_is_where_misses_and_alarms_are_equal():
    rate, limit = keywords.equal_error(np.array([3.0, 2.0, 1.0, 0.0]), np.array([1, 0, 1, 0]))
    assert rate == 0.5
    assert limit in (1.0, 2.0)
    assert keywords.equal_error(np.array([3.0, 2.0, 1.0]), np.array([1, 1, 0]))[0] == 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing"),
        (["MATCHER"], "has no graphs for many keywords"),
        (["MATCHER", "--part", "latenzy"], "bench keywords has no part 'latenzy'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message, capsys):
    from lightsleeper.cli import main

    folder = str(save_model(TinyMatcher(), tmp_path / "export", {}))
    assert main(["bench", "keywords", *(folder if word == "MATCHER" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
