"""Training targets and losses of the DNN-HMM; what its chain promises is in tests/nn/test_keyword_chain.py."""

import math

import torch
from lightsleeper.models.dnn_hmm import DNNHMM, StateRatios
from lightsleeper.nn.keyword_chain import FILLER, NOT_KEYWORD, SILENCE, UNKNOWN
from models.wake_streams import make


def test_ratios_are_those_of_posteriors_over_priors():
    ratios = StateRatios(2)
    ratios.prior.copy_(torch.tensor([0.3, 0.5, 0.15, 0.05]))
    p = torch.tensor([0.1, 0.2, 0.4, 0.3])
    found = ratios(p.log().view(1, 4, 1))[0, :, 0]
    elsewhere = 0.3 / 0.8
    assert torch.allclose(found, torch.tensor([0.4 / 0.15, 0.3 / 0.05]).div(elsewhere).log(), atol=1e-6)
    assert torch.allclose(ratios(p.log().view(1, 4, 1) + 5), ratios(p.log().view(1, 4, 1)), atol=1e-5)


def test_priors_follow_the_targets():
    ratios = StateRatios(2)
    targets = torch.tensor([[SILENCE, FILLER, NOT_KEYWORD, 2, 3, UNKNOWN, UNKNOWN, FILLER]])
    for _ in range(2000):
        ratios.count(targets)
    assert torch.allclose(ratios.prior, torch.tensor([1.0, 3.0, 1.0, 1.0]) / 6, atol=1e-4)


def test_the_window_loss_lifts_the_keyword_and_lowers_everything_else():
    model = make("dnn_hmm", margin=2.0)
    assert isinstance(model, DNNHMM)
    torch.manual_seed(0)
    begin, end = torch.tensor([0.6, math.nan]), torch.tensor([1.2, math.nan])
    keyword = torch.tensor([1, 0])
    scores = torch.zeros(2, 4, 100)
    flat = float(model.window_loss(scores, begin, end, keyword))
    good = scores - 4
    for state in range(4):
        frames = slice(30 + round(7.5 * state), 30 + round(7.5 * (state + 1)))
        good[0, state, frames] = 4
    assert float(model.window_loss(good, begin, end, keyword)) < flat
    learned = good.clone().requires_grad_()
    (model.window_loss(learned * 0.01, begin, end, keyword)).backward()
    assert learned.grad[0].min() < 0 < learned.grad[1].max()
    assert learned.grad[1].min() >= 0
    assert learned.grad.isfinite().all()


def test_a_batch_of_one_kind_has_a_loss():
    model = make("dnn_hmm")
    scores, nan = torch.randn(2, 4, 60), torch.full((2,), math.nan)
    for begin, end, keyword in ((nan, nan, [0, 0]), (torch.full((2,), 0.2), torch.full((2,), 0.7), [1, 1])):
        loss = model.window_loss(scores, begin, end, torch.tensor(keyword))
        assert loss.isfinite()


def test_the_start_is_that_of_the_path_before_the_delay_of_the_network():
    model = make("dnn_hmm", delay_ms=60.0)
    score, start = model.read(torch.tensor([[[1.5, -0.2], [10.0, 11.0]]]))
    assert score.tolist() == [[1.5, -0.20000000298023224]]
    assert torch.allclose(start, torch.tensor([[0.26, 0.28]]))
