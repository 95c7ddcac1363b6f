import pytest
import torch
import torch.nn.functional as F
from lightsleeper.nn.phone_head import DELAY_S, PhoneHead, phone_loss, phone_targets
from lightsleeper.nn.wake_labels import UNDEFINED
from lightsleeper.phones import CLASSES

TIMES = (torch.arange(10, dtype=torch.double) + 1) * 0.02


def test_a_frame_tells_the_phone_that_sounded_before_its_newest_samples():
    track = torch.arange(1, 21)[None]  # phone k sounds from (k - 1) * 10 ms
    found = phone_targets(TIMES, track)[0].tolist()
    at = [round(100 * (float(time) - DELAY_S)) for time in TIMES]
    assert found == [UNDEFINED if begin < 0 else begin + 1 for begin in at]


def test_what_is_unknown_or_outside_the_track_is_undefined():
    track = torch.tensor([[5, -1, 7, 0]])
    assert phone_targets(TIMES, track, 0.0)[0].tolist() == [7, *[UNDEFINED] * 9]
    assert phone_targets(TIMES, track, 0.02)[0].tolist() == [5, 7, *[UNDEFINED] * 8]
    assert phone_targets(TIMES, track, 0.01)[0].tolist() == [UNDEFINED, 0, *[UNDEFINED] * 8]


def test_the_loss_is_a_mean_over_defined_frames():
    torch.manual_seed(0)
    logits = torch.randn(2, CLASSES, 3, requires_grad=True)
    targets = torch.tensor([[3, UNDEFINED, 0], [UNDEFINED, UNDEFINED, 39]])
    rows = torch.stack([logits[0, :, 0], logits[0, :, 2], logits[1, :, 2]])
    expected = F.cross_entropy(rows, torch.tensor([3, 0, 39])).detach()
    assert float(phone_loss(logits, targets).detach()) == pytest.approx(float(expected))
    nothing = phone_loss(logits, torch.full_like(targets, UNDEFINED))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_the_head_sees_one_frame_at_a_time():
    head, hidden = PhoneHead(6), torch.randn(2, 6, 5)
    assert head(hidden).shape == (2, CLASSES, 5)
    assert torch.allclose(head(hidden)[..., 3:4], head(hidden[..., 3:4]))
