"""Phones as a second thing that a wake-word network learns, from a hidden layer, in training only.

One phrase teaches a network little of what speech is made of; the phones of everything it hears teach more, and cost
nothing on the device. The idea is old (multi-task training of acoustic models); layer, delay and weight are ours.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.wake_labels import TICK, UNDEFINED
from lightsleeper.phones import CLASSES

DELAY_S = 0.06  # a frame tells the phone that sounded so long before its newest sample
RATE = 100  # frames a second of the phone track


class PhoneHead(nn.Module):
    """Logits (B, CLASSES, T) of phones from hidden frames (B, width, T).

    A frame's own affine map, but no `nn.Conv1d`: what does not ship is nothing to prune or to cluster.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CLASSES, width).uniform_(-1, 1) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.transpose(1, 2), self.weight, self.bias).transpose(1, 2)


def phone_targets(times: Tensor, phones: Tensor, delay_s: float = DELAY_S) -> Tensor:
    """Phones (B, T) of frames at ``times`` (T,) s from a track ``phones`` (B, F), one every 10 ms, 0 silence.

    UNDEFINED where the track says -1, before it begins and after its end.
    """
    at = ((times.double() - delay_s) * RATE + TICK).floor().long()
    targets = phones[:, at.clamp(0, phones.shape[1] - 1)]
    return targets.masked_fill((at < 0) | (at >= phones.shape[1]), UNDEFINED)


def phone_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of ``logits`` (B, CLASSES, T), mean over the defined ``targets`` (B, T); 0 where there is none."""
    if not (targets != UNDEFINED).any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits, targets, ignore_index=UNDEFINED)
