"""Convolution over time of (B, T, channels) as it lies in memory.

A Conv1d wants its channels outside, so each call moves the frames there and back. Taken as a picture of height one
whose channels lie innermost, the same weights run without moving anything: forward and backward together are 2 to 3
times as fast on a CPU (depthwise, 144 channels, kernel 9; measured).
"""

import torch.nn.functional as F
from torch import Tensor, nn


def convolve(x: Tensor, layer: nn.Conv1d, left: int = 0, right: int = 0) -> Tensor:
    """``layer``, whose own padding is not used, over x (B, T, channels) with ``left`` and ``right`` zero frames.

    Negative counts crop. Returns (B, T', channels).
    """
    picture = F.pad(x, (0, 0, left, right)).transpose(1, 2).unsqueeze(2)
    y = F.conv2d(picture, layer.weight.unsqueeze(2), layer.bias, (1, layer.stride[0]), groups=layer.groups)
    return y.squeeze(2).transpose(1, 2)
