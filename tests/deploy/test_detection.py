import numpy as np
import pytest
from lightsleeper.deploy.detection import Keyword, Word, detect, word_times
from lightsleeper.deploy.partition_plot import check_path, plot
from lightsleeper.deploy.runtime import OnnxModel, TorchModel
from lightsleeper.errors import UserError

TURN_ON = Keyword("Turn on", np.array([31, 12, 23, 1, 23]), np.array([0, 0, 0, 1, 1]), ("turn", "on"))


def _cuts(*values):
    return {"cuts": np.array([values])}


@pytest.mark.parametrize(
    ("metadata", "cuts"),
    [({"token": "word", "frame_ms": "40"}, _cuts(0, 5, 12, 12)), ({"token": "phone"}, _cuts(0, 1, 3, 5, 9, 12, 12))],
)
def test_words_span_their_tokens(metadata, cuts):
    times = word_times(cuts, TURN_ON, metadata, duration_s=0.56, start_s=0.5)
    # Twelve frames of 40 ms in a clip of 560 ms: 40 ms are left on either side of them.
    assert times == [Word("turn", 0.5, pytest.approx(0.74)), Word("on", pytest.approx(0.74), 1.06)]


def test_places_that_are_no_partition_give_no_times():
    assert word_times({}, TURN_ON, {}, 1.0) == []
    assert word_times(_cuts(0, 0, 0), TURN_ON, {"token": "word"}, 1.0) == []
    assert word_times(_cuts(0, 4), TURN_ON, {"token": "word"}, 1.0) == []


def test_an_encoder_alone_detects_nothing(exported):
    encoder = OnnxModel(exported.with_name("enroll.onnx"))
    with pytest.raises(UserError, match="scores no keyword"):
        detect(encoder, np.zeros(8000), TURN_ON)


def test_without_a_threshold_there_is_no_decision(matcher):
    matcher.threshold.fill_(float("nan"))
    audio = np.random.default_rng(0).standard_normal(16_000)
    found = detect(TorchModel(matcher), audio, TURN_ON, file="a.wav")
    assert (found.threshold, found.detected) == (None, None)
    assert detect(TorchModel(matcher), audio, TURN_ON, threshold=found.score).detected is True
    assert found.to_dict()["words"][0]["text"] == "turn"
    assert found.duration_s == 1.0


def test_a_picture_has_one_panel_a_detection(matcher, tmp_path):
    audio = np.random.default_rng(0).standard_normal(16_000)
    found = detect(TorchModel(matcher), audio, TURN_ON, file="$a_{b}$.wav")
    one = plot(tmp_path / "one.png", [(found, audio)]).stat().st_size
    two = plot(tmp_path / "two.png", [(found, audio), (found, audio[:100])]).stat().st_size  # shorter than a window
    assert two > one > 1000
    assert b"<svg" in plot(tmp_path / "three.svg", [(found, audio)]).read_bytes()


def test_pictures_nobody_could_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="at most 12"):
        check_path(tmp_path / "out.png", 13)
    with pytest.raises(UserError, match=r"\.png"):
        check_path(tmp_path / "out", 1)


def test_times_stay_inside_the_file_although_silence_was_added():
    keyword = Keyword("hello there", np.array([1, 2]), np.array([0, 1]), ["hello", "there"])
    words = word_times(
        {"cuts": np.array([[0, 10, 20]])}, keyword, {"token": "word"}, duration_s=0.85, start_s=-0.1, file_s=0.7
    )
    assert [(w.start_s, w.end_s) for w in words] == [(0.0, pytest.approx(0.325)), (pytest.approx(0.325), 0.7)]
