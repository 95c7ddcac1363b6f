"""Power spectra of the windows of a signal as two convolutions, for runtimes without a good Fourier transform.

ONNX Runtime transforms 400 points by Bluestein's algorithm, through a longer FFT in float32: logits of a small network
came out 1.1e-4 away from float64, 50 times as far as with ``torch.stft`` (measured). And framing by gathering samples
took a third of a graph's time: here a strided convolution reads the windows where they lie.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowedPower(nn.Module):
    """Squared magnitudes of the first N / 2 + 1 bins of each window of N samples, N = A B, after one step of Cooley and
    Tukey: transforms of A samples that lie B apart, then transforms of B such results.

    The signal is laid out as B rows of every B-th sample. A window is then A neighbours in each row, a hop a stride, so
    that the first step, with taper and twiddle factors, is one convolution with a group a row. Of its A results a real
    signal needs half. About N (A + 2 B) multiplications a window; B is the divisor of window and hop with the smallest
    tables, 47 kB for N = 480.

    Args:
        window: N.
        hop: samples from one window to the next.
        taper: (N,) factors of the samples; None: ones.
    """

    first: Tensor
    second: Tensor
    bins: Tensor

    def __init__(self, window: int, hop: int, taper: Tensor | None = None) -> None:
        super().__init__()
        common = math.gcd(window, hop)
        self.block = min((b for b in range(1, common + 1) if common % b == 0), key=lambda b: _table_size(window, b))
        blocks, self.kept = window // self.block, window // self.block // 2 + 1  # A, and of its transform what is kept
        self.stride = hop // self.block
        a, b, k = torch.arange(blocks), torch.arange(self.block), torch.arange(self.kept)
        samples = self.block * a[:, None] + b  # (A, B)
        factors = torch.ones(window) if taper is None else taper
        first = _roots(samples[..., None] * k, window) * factors.double()[samples, None]  # (A, B, K)
        second = _roots(b[:, None] * b, self.block)  # (B, B)
        parts = torch.view_as_real(first).permute(1, 3, 2, 0)  # (B, 2, K, A)
        table = torch.stack(
            [torch.stack([second.real, -second.imag], -1), torch.stack([second.imag, second.real], -1)]
        )  # (2, B, B, 2): real and imaginary results from the first step's rows and parts
        self.register_buffer("first", parts.reshape(-1, 1, blocks).float().contiguous(), persistent=False)
        self.register_buffer("second", table.reshape(2 * self.block, -1, 1).float().contiguous(), persistent=False)
        bins = (blocks * b[:, None] + k).flatten()
        self.register_buffer("bins", torch.minimum(bins, window - bins), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, S), whole multiples of ``block`` samples, to (B, len(bins), T): row r is bin ``bins[r]``."""
        rows = audio.reshape(audio.shape[0], -1, self.block).transpose(1, 2)
        half = F.conv1d(rows, self.first, stride=self.stride, groups=self.block)  # (B, rows * 2 * K, T)
        parts = F.conv1d(half.reshape(len(half), 2 * self.block, -1), self.second)  # (B, 2 rows, K * T)
        squares = parts * parts
        power = squares[:, : self.block] + squares[:, self.block :]
        return power.reshape(len(half), len(self.bins), -1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a window."""
        return self.first.numel() + self.second.numel() * self.kept

    def weights(self, bank: Tensor) -> Tensor:
        """Weights (outputs, len(bins), 1) over the rows for a ``bank`` (N / 2 + 1, outputs) over the bins."""
        weights = bank.new_zeros(len(self.bins), bank.shape[1])
        _, first = np.unique(self.bins.numpy(), return_index=True)  # some bins are there twice
        weights[torch.from_numpy(first)] = bank
        return weights.T.unsqueeze(-1).contiguous()


def _table_size(window: int, block: int) -> int:
    return 2 * window * (window // block // 2 + 1) + 4 * block * block


def _roots(exponent: Tensor, size: int) -> Tensor:
    """exp(-2 pi i exponent / size) in double precision."""
    angle = -2 * math.pi * (exponent % size).double() / size
    return torch.polar(torch.ones_like(angle), angle)
