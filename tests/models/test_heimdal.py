"""Numbers in comments are those of the HEiMDaL dossier, section 10."""

from types import SimpleNamespace

import pytest
import torch
from lightsleeper.deploy.benchmark import size_of
from lightsleeper.metrics.detection import FRRAtFalseAlarms
from lightsleeper.models.heimdal import HEiMDaL
from models.wake_streams import make


def batch() -> dict:
    nan = float("nan")
    return {
        "keyword": torch.tensor([1, 0]),
        "begin_s": torch.tensor([0.8, nan]),
        "end_s": torch.tensor([1.1, nan]),
    }


# 11
@pytest.mark.parametrize(("name", "width"), [("heimdal", 12), ("heimdal_bc", 16)])
def test_the_offset_costs_the_width_and_one_parameters(name: str, width: int):
    def count(offset: bool) -> int:
        model = make(name, offset=offset)
        found = size_of(model)["parameters"]  # what the record says
        assert found == sum(value.numel() for value in model.parameters())
        return found

    assert count(True) - count(False) == width + 1


# 5
def test_offsets_of_negative_frames_get_no_gradient_and_without_the_output_there_are_none():
    model = make("heimdal").train()
    model.log = lambda *_, **__: None
    outputs = torch.randn(2, 2, 100, requires_grad=True)
    times = model.times(100)
    model.loss(outputs, times, batch()).backward()
    _, labels = model.clip_losses(outputs[:, 0].detach(), times, batch())
    assert torch.equal(outputs.grad[:, 1] != 0, labels == 1)
    assert (labels == 1).any()
    plain = make("heimdal", offset=False)
    assert plain.stream(torch.zeros(1, 640), plain.initial()).start_s is None


# 5, 9
def test_a_perfect_offset_gives_the_start_and_a_perfect_detector_no_error():
    model = make("heimdal")
    times = model.times(200)
    begin, end = 1.5, 1.5 + 0.9 * model.receptive_s
    said = (times >= end - 1e-6) & (times <= end + 0.1)
    outputs = torch.full((1, 2, 200), -20.0)
    outputs[0, 0, said] = 20.0
    outputs[0, 1] = ((times - begin) / model.receptive_s).float()
    score, start = model.read(outputs)
    assert (times[said] - start[0, said] - begin).abs().max() < 1e-6
    metric = FRRAtFalseAlarms(0.5, model.frame_s)
    metric.add_stream(0, [(begin, end)])
    metric.update(score[0], 0, 0, start[0])
    found = metric.results(threshold=0.5)
    assert found["test/frr"].value == 0
    assert found["test/fa_per_hour"].value == 0
    assert found["test/start_error_s"].value < model.frame_s
    assert found["test/end_error_s"].value <= model.frame_s


# 4
@pytest.mark.parametrize("labels", ["coverage", "end", "iou", "max_pool"])
@pytest.mark.parametrize("pooled", [False, True])
def test_every_rule_teaches(labels: str, pooled: bool):
    model = make("heimdal", labels=labels, pooled=pooled, hardest=1).train()
    model.log = lambda *_, **__: None
    model._trainer = SimpleNamespace(global_step=10**6)
    outputs = torch.zeros(2, 2, 100, requires_grad=True)
    model.loss(outputs, model.times(100), batch()).backward()
    grad = outputs.grad[:, 0]
    assert (grad[0] < 0).any()  # some frame of the keyword is pushed up
    assert (grad[1] >= 0).all()
    assert (grad[1] > 0).any()


def test_both_encoders_have_the_time_of_their_stride():
    assert isinstance(make("heimdal"), HEiMDaL)
    assert make("heimdal").frame_s == 0.02
    assert make("heimdal_bc").frame_s == 0.01
