import pytest
import torch
from lightsleeper.bench import spotter_streaming as bench
from lightsleeper.models.kws_encoder import sample_audio
from models.word_streams import gates, make


@pytest.fixture
def model():
    model = make(gated=True).double().eval()
    for gate in gates(model):
        torch.nn.init.normal_(gate.logits.weight)
    return model


@pytest.fixture
def audio(model):
    return [sample_audio(seed, 14 * 240.0)[:, : 14 * model.hop_samples].double() for seed in (0, 1)]


def test_a_stream_equals_the_whole(model, audio):
    found = bench.compared(model, audio)
    assert found["difference"] <= bench.EQUAL
    assert (found["hops"], found["gates"], found["undecided"], found["unequal_gates"]) == (
        28,
        28 * len(list(gates(model))),
        0,
        0,
    )
    assert 0 < found["closest"] < 0.5
    text = list(bench.report({"chunks": ["a"], "rows": [{"model": "m", "content": "speech", **found}]}))
    assert text[-1].endswith("reached")


def test_a_state_that_is_lost_is_found_out(model, audio, monkeypatch: pytest.MonkeyPatch):
    stream = model.stream
    monkeypatch.setattr(model, "stream", lambda chunk, state: stream(chunk, model.initial().double()))
    found = bench.compared(model, audio)
    assert found["difference"] > 1e-3
    text = list(bench.report({"chunks": ["a"], "rows": [{"model": "m", "content": "speech", **found}]}))
    assert text[-1].endswith("MISSED")


def test_hops_on_the_edge_are_counted_and_compared_in_nothing(model, audio):
    for gate in gates(model):
        for value in gate.parameters():
            torch.nn.init.zeros_(value)
    found = bench.compared(model, audio)
    assert found["undecided"] == found["hops"] == 28
    assert found["difference"] == 0.0


def test_without_gates_all_hops_are_compared(audio):
    found = bench.compared(make().double().eval(), audio)
    assert (found["hops"], found["gates"], found["undecided"]) == (28, 0, 0)
    assert found["difference"] <= bench.EQUAL
