import pytest
import torch
from lightsleeper.deploy.detector import OnnxStream, TorchStream
from lightsleeper.deploy.stream_evaluation import follow, metric_of
from lightsleeper.errors import UserError
from models.wake_streams import make, stream
from tiny_detector import HOP, LOUD, Louder, write_graph


def metadata(model) -> dict[str, str]:
    return model.export_spec()[0].metadata


@pytest.mark.parametrize("name", ["heimdal", "bc_resnet"])  # with starts; a hop of 10 ms
@torch.no_grad()
def test_it_measures_what_the_test_of_a_run_measures(name):
    model = make(name, fa_per_hour=60.0, smoothing_ms=40.0, tolerance_s=0.3)
    chunks = stream(0, 20) + stream(1, 10)
    expected = model.metric
    for chunk in chunks:
        model._follow(chunk, expected)
    metric = metric_of(metadata(model))
    assert follow(TorchStream(model, metadata(model)), chunks, metric) == [0, 1]
    threshold = expected.threshold()
    found, wanted = metric.results("", threshold), expected.results("", threshold)
    assert found.keys() == wanted.keys()
    for key in wanted:
        assert found[key].value == pytest.approx(wanted[key].value, nan_ok=True), key
    assert found["frr"].n == 5


@pytest.mark.parametrize("hops", [1, 5])
def test_a_graph_of_fixed_length_gives_the_same(tmp_path, hops):
    chunks = stream(0, 20)
    results = []
    for model in (TorchStream(Louder(), LOUD), OnnxStream(write_graph(tmp_path / "m.onnx", LOUD, hops))):
        metric = metric_of(LOUD)
        follow(model, chunks, metric)
        results.append({key: value.value for key, value in metric.results("", 0.001).items()})
    assert results[1] == pytest.approx(results[0], nan_ok=True)


def test_a_model_that_says_nothing_is_measured_with_the_defaults():
    metric = metric_of({"sample_rate": "16000", "hop_samples": str(HOP)})
    assert (metric.fa_per_hour, metric.frame_s, metric.smoothing_frames) == (0.5, 0.02, 1)
    assert (metric.refractory_s, metric.tolerance_s) == (1.0, 0.5)


@pytest.mark.parametrize(("chunks", "message"), [([], "hold no stream"), ([{"audio": 1}], "expected WakeWords")])
def test_data_without_streams_are_refused(chunks, message):
    with pytest.raises(UserError, match=message):
        follow(TorchStream(Louder(), LOUD), chunks, metric_of(LOUD))
