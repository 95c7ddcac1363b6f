import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightsleeper.deploy.content_latency import WARM_UP, measure, recordings


class LoudOrNot:
    """A graph that skips its one module where the hop is quiet; counts its calls in the state."""

    name, outputs = "model", ["gates", "next_state"]
    inputs: dict[str, Any] = {"audio": (1, 4), "state": (1, 1)}
    metadata = {"hop_samples": "4", "state_size": "1", "module_macs": json.dumps([80]), "encoder_macs": "100"}

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        self.calls = float(inputs["state"][0, 0]) + 1
        loud = float(np.abs(inputs["audio"]).max() > 0.5)
        return {"gates": np.array([[loud]], np.float32), "next_state": np.array([[self.calls]], np.float32)}


def test_every_hop_is_heard_with_the_state_of_the_last_and_timed_once():
    graph = LoudOrNot()
    audio = np.zeros(4 * 100 + 3, np.float32)
    audio[4 * 80 :] = 1.0
    row = measure(graph, audio)
    assert graph.calls == 100
    assert len(row["times_ms"]) == 100 - WARM_UP
    assert row["macs"]["p50"] == 20
    assert row["macs"]["mean"] == pytest.approx(20 + 80 * 20 / 80)
    assert row["macs"]["p90"] == 100


def test_audio_no_longer_than_the_warm_up_is_refused():
    with pytest.raises(ValueError, match="20 hops of 4 samples are no more than the warm-up of 20"):
        measure(LoudOrNot(), np.zeros(80, np.float32))


def test_recordings_are_the_beginnings_of_streams_by_what_they_hold():
    def stream(content: str, value: float, samples: int) -> Any:
        return SimpleNamespace(content=content, samples=samples, read=lambda at, n: np.full(n, value, np.float32))

    streams = {
        0: stream("speech", 1, 6),
        1: stream("noise", 2, 50),
        2: stream("speech", 3, 50),
        3: stream("noise", 4, 9),
    }
    found = recordings(streams, seconds=10, rate=1)
    assert found["speech"].tolist() == [1] * 6 + [3] * 4
    assert found["noise"].tolist() == [2] * 10
