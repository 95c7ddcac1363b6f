"""BC-ResNet (Kim et al., Interspeech 2021, arXiv 2106.04140), centred as published or causal.

A block keeps a 2-D stream (frequency x time) and adds to it what a 1-D branch finds in its mean over frequency. Widths,
strides and dilations are those of the authors' public code, so that parameter counts are theirs. The causal network has
the same layers, each looking back over the whole of its kernel: 116 frames of 10 ms in all.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightsleeper.nn.causal import Causal, Chain, Kept, Shape

MELS = 40  # 40 -> 20 -> 20 -> 10 -> 5 -> 1 rows of frequency: the kernels fit no other number
BANDS = 5
KERNEL = 3
DROPOUT = 0.1
BLOCKS, WIDTHS, ROW_STRIDES = (2, 2, 4, 4), (1.0, 1.5, 2.0, 2.5), (1, 2, 2, 1)


class SubSpectralNorm(nn.Module):
    """Batch norm of (B, C, F, T) with statistics of its own for each of ``bands`` groups of neighbouring rows."""

    def __init__(self, channels: int, bands: int = BANDS) -> None:
        super().__init__()
        self.bands = bands
        self.norm = nn.BatchNorm2d(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        channels, rows = x.shape[1], x.shape[2]
        if rows % self.bands:
            raise ValueError(f"{rows} rows of frequency do not make {self.bands} bands")
        x = x.unflatten(2, (self.bands, rows // self.bands)).flatten(1, 2)  # (B, C * bands, F / bands, T)
        return self.norm(x).unflatten(1, (channels, self.bands)).flatten(2, 3)


class Block(Causal):
    """(B, C, F, T) to (B, C', F', T): ``ReLU(f2(x) + f1(mean over F of f2(x)) [+ x])``."""

    def __init__(self, inputs: int, outputs: int, dilation: int, row_stride: int, causal: bool) -> None:
        super().__init__()
        self.shortcut = inputs == outputs
        widen: list[nn.Module] = []
        if not self.shortcut:
            widen = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        over_rows = nn.Conv2d(outputs, outputs, (3, 1), (row_stride, 1), (1, 0), groups=outputs, bias=False)
        self.spectral = nn.Sequential(*widen, over_rows, SubSpectralNorm(outputs))
        over_time = nn.Conv2d(outputs, outputs, (1, KERNEL), dilation=(1, dilation), groups=outputs, bias=False)
        past = dilation * (KERNEL - 1)
        self.temporal = Chain(
            Kept(
                nn.Sequential(over_time, nn.BatchNorm2d(outputs)),
                past,
                rows=1,
                future=0 if causal else past // 2,
            ),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.Dropout2d(DROPOUT),
        )
        self.past, self.future = self.temporal.past, self.temporal.future

    @property
    def pieces(self) -> list[Shape]:
        return self.temporal.pieces

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        spectral = self.spectral(x)
        temporal, new = self.temporal.step(spectral.mean(2, keepdim=True), kept)
        return self._joined(x, spectral, temporal), new

    def forward(self, x: Tensor) -> Tensor:
        spectral = self.spectral(x)
        return self._joined(x, spectral, self.temporal(spectral.mean(2, keepdim=True)))

    def _joined(self, x: Tensor, spectral: Tensor, temporal: Tensor) -> Tensor:
        y = spectral + temporal
        return torch.relu(y + x if self.shortcut else y)


class _Image(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Features (B, mel, T) to an image of one channel."""
        return x.unsqueeze(1)


class _OneRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, T) to (B, C, T)."""
        return x.squeeze(2)


def trunk(tau: float, causal: bool) -> Chain:
    """Features (B, 40, T) to what the classifier takes, (B, trunk_width(tau), T)."""
    unit = 8 * tau
    if tau <= 0 or int(unit) != unit or unit % 2:
        raise ValueError(f"tau must be a multiple of 0.25 above 0, so that widths are whole; got {tau}")

    def future(past: int) -> int:
        return 0 if causal else past // 2

    channels = int(2 * unit)
    stem = nn.Sequential(nn.Conv2d(1, channels, 5, (2, 1), (2, 0), bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    layers: list[nn.Module] = [_Image(), Kept(stem, 4, rows=MELS, future=future(4))]
    for stage, (blocks, width, row_stride) in enumerate(zip(BLOCKS, WIDTHS, ROW_STRIDES, strict=True)):
        for block in range(blocks):
            outputs = int(width * unit)
            layers.append(Block(channels, outputs, 2**stage, 1 if block else row_stride, causal))
            channels = outputs
    layers += [
        Kept(nn.Conv2d(channels, channels, 5, groups=channels, bias=False), 4, rows=5, future=future(4)),
        nn.Sequential(
            nn.Conv2d(channels, trunk_width(tau), 1, bias=False), nn.BatchNorm2d(trunk_width(tau)), nn.ReLU()
        ),
        _OneRow(),
    ]
    return Chain(*layers)


def trunk_width(tau: float) -> int:
    return int(32 * tau)
