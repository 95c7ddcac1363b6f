import numpy as np
import pytest
from lightsleeper.bench import spotter_latency as bench
from lightsleeper.deploy.spotting import OnnxSpotter
from lightsleeper.errors import UserError
from tiny_spotter import HOP, levels, write_spotter


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    spotters = {
        "ungated": OnnxSpotter(write_spotter(folder / "a.onnx", gated=False, modules="[]", module_macs="[]")),
        "gated": OnnxSpotter(write_spotter(folder / "b.onnx")),
    }
    loud = levels((0.48, 0.9), (0.72, 0.9), seconds=60 * HOP / 16_000)  # hops 2 and 3 are loud
    heard = {"speech": [loud, loud[: 10 * HOP]], "silence": [np.zeros(30 * HOP, np.float32)]}
    found, clock = bench.measure(spotters, heard, rounds=2)
    return spotters, heard, found, clock


def test_every_hop_of_every_content_is_timed_for_every_file(measured):
    _, heard, found, clock = measured
    assert found.keys() == heard.keys()
    assert all(
        row["us"]["p10"] <= row["us"]["p50"] <= row["us"]["p99"] for rows in found.values() for row in rows.values()
    )
    assert clock > 0.5


def test_skipped_computation_is_that_of_the_content(measured):
    *_, found, _ = measured
    assert found["silence"]["gated"]["skipped"]["mean"] == pytest.approx(300 / 500)
    assert found["speech"]["gated"]["skipped"]["mean"] == pytest.approx((1 - 4 / 70) * 300 / 500)
    assert found["speech"]["ungated"]["skipped"] is None


def test_the_report_shows_saved_time_beside_skipped_computation(measured):
    _, heard, found, clock = measured
    models = {
        name: {"run": name, "parameters": 1000, "file_bytes": 5000, "macs": 2e6, "encoder_macs": 1e6}
        for name in ("ungated", "gated")
    }
    hops = {content: sum(map(len, parts)) for content, parts in heard.items()}
    result = {"rounds": 2, "hops": hops, "clock_over_processor": clock, "models": models, "content": found}
    text = "\n".join(bench.report(result))
    assert "silence, 30 hops of 240 ms" in text
    assert "time saved against ungated" in text
    assert "60.0 %" in text


def test_a_stretch_of_each_content_is_heard():
    class Stream:
        def __init__(self, content, hops):
            self.content, self.samples = content, hops * HOP

        def read(self, start, count):
            return np.zeros(count, np.float32)

    class Data:
        prepare_data = staticmethod(lambda: None)
        setup = staticmethod(lambda stage: None)

        def test_dataloader(self):
            streams = [Stream("noise", 3), Stream("speech", 4), Stream("speech", 4), Stream("speech", 4)]
            dataset = type("Chunks", (), {"streams": dict(enumerate(streams))})
            return [type("Loader", (), {"dataset": dataset})]

    found = bench.streams(Data(), 6)
    assert list(found) == ["speech", "noise"]
    assert [len(audio) // HOP for audio in found["speech"]] == [4, 2]
    assert [len(audio) // HOP for audio in found["noise"]] == [3]


def test_what_to_time_must_be_named(tmp_path):
    with pytest.raises(UserError, match="needs --models NAME=RUN, or --out"):
        bench.run(None)
    with pytest.raises(UserError, match="expected NAME=RUN"):
        bench.run(None, models=["last"])
