from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy.detector import OnnxStream, StreamingDetector, TorchStream
from lightsleeper.errors import UserError
from lightsleeper.metrics.events import EventDecoder
from tiny_detector import HOP, META, Frames, Louder, steps, write_graph


def chunked(audio: np.ndarray, cuts: Sequence[int]) -> list[np.ndarray]:
    edges = [0, *sorted(cuts), len(audio)]
    return [audio[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]


@given(st.lists(st.integers(0, 60 * HOP), max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_division_into_calls_gives_the_events_of_the_whole(cuts: list[int]):
    audio = steps()
    detector = StreamingDetector(TorchStream(Louder(), META))
    whole = list(detector.detect([audio]))
    detector.reset()
    assert list(detector.detect(chunked(audio, cuts))) == whole
    level = audio.reshape(-1, HOP).mean(1)
    scores = level - np.concatenate([[0], level[:-1]])
    expected = EventDecoder(0.4, 0.02, refractory_s=0.1).events(scores, np.full(60, 0.3, np.float32))
    assert whole == expected
    assert len(whole) > 5


@pytest.mark.parametrize("hops", [None, 1, 4])
def test_the_exported_file_detects_what_the_model_detects(tmp_path: Path, hops: int | None):
    path = write_graph(tmp_path / "model.onnx", META, hops)
    audio = steps(seed=1)
    wanted = list(StreamingDetector(TorchStream(Louder(), META)).detect([audio]))
    found = list(StreamingDetector.open(path).detect(chunked(audio, [5, 777, 4000, 9001])))
    assert [event.time_s for event in found] == pytest.approx([event.time_s for event in wanted])
    assert [event.start_s for event in found] == pytest.approx([event.start_s for event in wanted])


def test_what_the_file_says_holds_unless_it_is_overruled(tmp_path: Path):
    path = write_graph(tmp_path / "model.onnx", META | {"refractory_s": "0.5", "smoothing_frames": "3"})
    stored = StreamingDetector.open(path).decoder
    assert (stored.threshold, stored.refractory_s, stored.smoothing_frames) == (0.4, 0.5, 3)
    given_ = StreamingDetector.open(path, threshold=0.9, refractory_s=2.0, smoothing_frames=1, wait_s=0.1).decoder
    assert (given_.threshold, given_.refractory_s, given_.smoothing_frames, given_.wait_s) == (0.9, 2.0, 1, 0.1)


def test_what_is_kept_does_not_grow_and_is_counted():
    detector = StreamingDetector(TorchStream(Louder(), META))
    for seed in range(30):
        detector.push(steps(50, seed)[:-7])
        assert len(detector._rest) < HOP
        assert detector._rest.samples.base is None
        assert len(detector._decoded.tail) == 0
    assert detector.seconds == pytest.approx(30 * (50 * HOP - 7) // HOP * 0.02)
    assert detector.state_bytes() == 4 + 4 * (HOP - 1) + 48


def test_an_hour_in_one_call_reaches_the_model_in_pieces():
    longest = 0

    class Counting(Louder):
        def stream(self, audio: torch.Tensor, state: torch.Tensor) -> Frames:
            nonlocal longest
            longest = max(longest, audio.shape[1])
            return super().stream(audio, state)

    StreamingDetector(TorchStream(Counting(), META)).push(np.zeros(60 * 16_000, np.float32))
    assert longest == 160_000


def test_sixteen_bit_samples_are_what_floats_are():
    audio = steps() * 0.9
    meta = META | {"threshold": "0.3"}
    floats = list(StreamingDetector(TorchStream(Louder(), meta)).detect([audio]))
    integers = list(StreamingDetector(TorchStream(Louder(), meta)).detect([np.round(audio * 32768).astype(np.int16)]))
    assert [event.time_s for event in integers] == [event.time_s for event in floats]


def test_an_event_that_waits_comes_at_the_end():
    audio = np.concatenate([np.zeros(10 * HOP), np.ones(2 * HOP)]).astype(np.float32)
    detector = StreamingDetector(TorchStream(Louder(), META), refractory_s=1.0, wait_s=0.5)
    assert detector.push(audio) == []
    (event,) = detector.finish()
    assert event.end_s == pytest.approx(11 * 0.02)


@pytest.mark.parametrize("key", ["threshold", "hop_samples"])
def test_a_file_that_lacks_what_is_needed_is_refused(tmp_path: Path, key: str):
    path = write_graph(tmp_path / "model.onnx", {name: value for name, value in META.items() if name != key})
    with pytest.raises(
        UserError, match="without a threshold" if key == "threshold" else "does not say its hop_samples"
    ):
        StreamingDetector.open(path)


def test_a_file_that_does_not_stream_is_refused(tmp_path: Path):
    path = write_graph(tmp_path / "model.onnx", META, outputs="other")
    with pytest.raises(UserError, match="is no streaming detector"):
        OnnxStream(path)


def test_samples_of_two_channels_are_refused():
    detector: Any = StreamingDetector(TorchStream(Louder(), META))
    with pytest.raises(ValueError, match="one channel"):
        detector.push(np.zeros((2, 100), np.float32))
