import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy.spotting import OnnxSpotter, StreamingSpotter, spot
from lightsleeper.deploy.spotting_plot import _anchor
from lightsleeper.errors import UserError
from lightsleeper.metrics.word_events import WordEvent, decode
from tiny_detector import LOUD, write_graph
from tiny_spotter import HOP, HOP_S, LEAD_S, LENGTH_S, META, RATE, STEP, STEP_S, levels, write_spotter


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return write_spotter(tmp_path_factory.mktemp("spotter") / "model.onnx")


def talk(seed: int, seconds: float = 6.0) -> np.ndarray:
    """Steps of all levels: many proposals, overlapping."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.uniform(-1, 1, round(seconds / STEP_S)), STEP).astype(np.float32)


def offline(audio: np.ndarray, threshold: float) -> list[WordEvent]:
    level = audio[: len(audio) // HOP * HOP].reshape(-1, STEP).mean(1)
    begin = np.arange(len(level)) * STEP_S - LEAD_S
    return decode(np.abs(level), level < 0, begin, begin + LENGTH_S, threshold)


def same(found: list[WordEvent], expected: list[WordEvent]) -> None:
    key = lambda event: event.begin_s  # noqa: E731
    for a, b in zip(sorted(found, key=key), expected, strict=True):
        assert a.word == b.word
        assert (a.begin_s, a.end_s, a.score) == pytest.approx((b.begin_s, b.end_s, b.score), abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 9), st.lists(st.integers(0, 9000), max_size=8))
def test_any_division_of_the_samples_gives_the_events_of_the_whole(graph, seed, cuts):
    audio, spotter = talk(seed), StreamingSpotter(OnnxSpotter(graph))
    found = [event for part in np.split(audio, np.cumsum(cuts)) for event in spotter.push(part)]
    same(found + spotter.finish(silence=False), offline(audio, 0.4))


def test_a_word_is_told_as_soon_as_nothing_can_outdo_it(graph):
    spotter = StreamingSpotter(OnnxSpotter(graph))
    told = [len(spotter.push(part)) for part in np.split(levels((0.48, 0.8)), 8)]
    # it ends at 0.58 s; what the hop from 0.72 s on gives may still begin at 0.72 - 0.2 s, the next one's not
    assert told == [0, 0, 0, 1, 0, 0, 0, 0]


def test_16_bit_samples_are_the_same(graph):
    audio = talk(3)
    spotter = StreamingSpotter(OnnxSpotter(graph))
    found = spotter.push((audio * 32768).astype(np.int16)) + spotter.finish()
    assert [event.word for event in found] == [event.word for event in offline(audio, 0.4)]


def test_a_reset_begins_a_new_stream(graph):
    spotter = StreamingSpotter(OnnxSpotter(graph))
    spotter.push(talk(1))
    spotter.reset()
    assert spotter.seconds == 0
    same(spotter.push(talk(2)) + spotter.finish(silence=False), offline(talk(2), 0.4))


def test_the_threshold_may_be_given(graph):
    for threshold in (0.1, 0.9):
        spotter = StreamingSpotter(OnnxSpotter(graph), threshold)
        same(spotter.push(talk(4)) + spotter.finish(silence=False), offline(talk(4), threshold))


def test_a_recording_holds_its_words_to_its_last_sample(graph):
    found = spot(StreamingSpotter(OnnxSpotter(graph)), levels((0.1, 0.9), (1.9, -0.9), seconds=2.0), "a.wav")
    assert [(name, round(e.begin_s, 2), round(e.end_s, 2)) for name, e in found.words] == [
        ("high", 0.0, 0.22), ("low", 1.72, 2.0)
    ]  # fmt: skip
    assert found.to_dict()["words"][0]["word"] == "high"


def test_skipped_is_the_share_of_macs_that_closed_gates_left_out(graph):
    found = spot(StreamingSpotter(OnnxSpotter(graph)), levels((0.48, 0.9), seconds=10 * HOP_S))
    assert found.gates.tolist() == [[1, 1, 1] if hop == 2 else [1, 0, 0] for hop in range(10)]
    assert found.skipped == pytest.approx(0.9 * 300 / 500)


def test_a_model_without_gates_tells_none(tmp_path):
    path = write_spotter(tmp_path / "plain.onnx", gated=False, modules="[]", module_macs="[]")
    found = spot(StreamingSpotter(OnnxSpotter(path)), levels((0.48, 0.9)))
    assert (found.gates, found.skipped, len(found.words)) == (None, None, 1)
    assert "skipped" not in found.to_dict()


def test_other_graphs_and_files_that_do_not_say_enough_are_refused(tmp_path, graph):
    with pytest.raises(UserError, match="no word spotter"):
        OnnxSpotter(write_graph(tmp_path / "louder.onnx", LOUD))
    for key in ("words", "lead_s"):
        model = onnx.load(graph)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {name: value for name, value in META.items() if name != key})
        onnx.save(model, tmp_path / f"{key}.onnx")
        with pytest.raises(UserError, match=f"does not say its {key}"):
            OnnxSpotter(tmp_path / f"{key}.onnx")
    bare = write_spotter(tmp_path / "bare.onnx", threshold="nan")
    with pytest.raises(UserError, match="without a threshold"):
        StreamingSpotter(OnnxSpotter(bare))


def test_only_one_channel_is_heard(graph):
    with pytest.raises(ValueError, match="one channel"):
        StreamingSpotter(OnnxSpotter(graph)).push(np.zeros((2, RATE)))


def test_names_at_the_ends_of_a_picture_are_written_inside():
    assert _anchor(4.0, 4.4, 10.0) == (4.2, "center")
    assert _anchor(9.4, 9.8, 10.0) == (9.8, "right")
    assert _anchor(9.8, 10.2, 10.0) == (10.0, "right")
    assert _anchor(-0.1, 0.3, 10.0) == (0.0, "left")
