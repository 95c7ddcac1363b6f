import numpy as np
import pytest
from deploy.face_graphs import PIXELS, clip_graph, step_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy.speaking import OnnxSpeakers, SpeakerStream, Step, TorchSpeakers
from lightsleeper.errors import UserError

MFCC = np.zeros((4, 13), np.float32)


class Delayed:
    """A model whose score is the brightness of a face ``delay`` frames before; its state is a queue of them."""

    pixels, threshold, streams = 2, 0.5, True

    def __init__(self, delay):
        self.delay = delay

    def initial(self):
        return np.full((1, self.delay + 1), np.nan, np.float32)

    def step(self, faces, mfcc, present, state):
        now = np.where(present > 0, faces.mean((1, 2)), np.nan).astype(np.float32)
        state = np.concatenate([state[:, 1:], now[:, None]], 1)
        score = state[:, 0]
        return Step(np.nan_to_num(score), (~np.isnan(score)).astype(np.float32), state)


def face(value):
    return np.full((2, 2), value, np.uint8)


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=12), st.integers(0, 4))
@settings(deadline=None)
def test_every_face_has_one_score_for_every_frame_it_is_in(seen, delay):
    stream = SpeakerStream(Delayed(delay))
    found = []
    for frame, names in enumerate(seen):
        judged = stream.push({name: face(10 * frame + ord(name) - 97) for name in sorted(names)}, MFCC)
        assert all(frame - at >= min(delay, 1) for _, at, _ in judged) or delay == 0
        found += judged
    found += stream.finish()
    expected = {(name, frame): 10 * frame + ord(name) - 97 for frame, names in enumerate(seen) for name in names}
    assert {(name, frame): score for name, frame, score in found} == expected
    assert len(found) == len(expected)
    for name in "abcd":
        frames = [frame for other, frame, _ in found if other == name]
        assert frames == sorted(frames)
    assert stream.state_bytes == 0


def test_the_state_grows_with_the_faces_that_are_there_and_not_with_time():
    stream = SpeakerStream(Delayed(2))
    sizes = []
    for frame in range(200):
        stream.push({"a": face(1), **({"b": face(2)} if frame % 2 else {})}, MFCC)
        sizes.append(stream.state_bytes)
    assert set(sizes) == {12, 24}


def test_an_exported_graph_streams_with_its_delay(tmp_path):
    stream = SpeakerStream(OnnxSpeakers(step_graph(tmp_path / "model.onnx", threshold=0.7)))
    assert stream.model.threshold == 0.7
    crops = [np.full((PIXELS, PIXELS), 51 * value, np.uint8) for value in range(3)]
    assert stream.push({"a": crops[0]}, MFCC) == []
    found = stream.push({"a": crops[1], "b": crops[2]}, MFCC)
    assert [(name, frame) for name, frame, _ in found] == [("a", 0)]
    rest = stream.finish()
    assert [(name, frame, round(score, 4)) for name, frame, score in rest] == [("a", 1, 0.2), ("b", 1, 0.4)]


def test_a_graph_of_clips_judges_a_track_when_it_has_ended(tmp_path):
    model = OnnxSpeakers(clip_graph(tmp_path / "model.onnx"))
    assert (model.streams, model.delay, model.threshold) == (False, 0, 0.5)
    stream = SpeakerStream(model)
    for value in range(3):
        assert stream.push({"a": np.full((PIXELS, PIXELS), 51 * value, np.uint8)}, MFCC) == []
    assert [round(score, 4) for _, _, score in stream.push({}, MFCC)] == [0.0, 0.2, 0.4]
    assert stream.finish() == []


def test_a_graph_that_judges_no_faces_is_refused(tmp_path):
    import onnx

    path = step_graph(tmp_path / "model.onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="does not say its pixels"):
        OnnxSpeakers(path)
    with pytest.raises(UserError, match="does not exist"):
        OnnxSpeakers(tmp_path / "none.onnx")


@pytest.mark.parametrize("network", [{"fusion": "transformer", "future_frames": 2}, {"fusion": "bigru"}])
def test_a_stream_of_a_torch_model_gives_the_scores_of_the_whole_track(network):
    import torch
    from lightsleeper.models.active_speaker import ActiveSpeaker

    torch.manual_seed(0)
    stream = SpeakerStream(TorchSpeakers(ActiveSpeaker(size="small", **network)))
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (12, 56, 56), dtype=np.uint8)
    mfcc = rng.standard_normal((48, 13)).astype(np.float32)
    found = [judged for t in range(12) for judged in stream.push({"a": faces[t]}, mfcc[4 * t : 4 * t + 4])]
    found += stream.finish()
    assert [frame for _, frame, _ in found] == list(range(12))
    whole = stream.model.judge(faces, mfcc)
    np.testing.assert_allclose([score for _, _, score in found], whole, atol=1e-5)
