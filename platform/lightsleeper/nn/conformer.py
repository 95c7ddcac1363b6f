"""Conformer with limited context: published sizes and small ones, offline and streaming from the same weights.

Blocks are feed-forward / attention / convolution / feed-forward with half-step residuals; attention has relative
positions (Transformer-XL form). papers/dsp 3.1 gives 6 blocks, width 144, kernel 3, 4 heads, 4x subsampling. The
convolution module normalises with LayerNorm, ours: batch statistics over padded clips of 1-4 words would mix lengths,
and the parameter count is the same. Shapes: B batch, T feature frames, N encoder frames (40 ms), d width.
"""

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.convolve import convolve
from lightsleeper.nn.ranges import at_least, share

NEGATIVE = -1e4  # masked attention score; finite, so that a row without keys gives no NaN in bf16


def subsampled(frames: Any) -> Any:
    """Encoder frames of feature frames (int or Tensor) under two unpadded stride-2, kernel-3 convolutions: 53, 12."""
    once = (frames - 1) // 2
    twice = (once - 1) // 2
    return twice.clamp(min=0) if isinstance(twice, Tensor) else max(twice, 0)


class Subsampling(nn.Module):
    """Four-fold subsampling: ``conv2d`` as published (channels = width), ``conv1d`` over mel bands, ours and faster."""

    def __init__(self, n_mels: int, dim: int, kind: Literal["conv1d", "conv2d"]) -> None:
        super().__init__()
        self.kind = kind
        bands = ((n_mels - 1) // 2 - 1) // 2
        if kind == "conv2d" and bands < 1:
            raise ValueError(f"subsampling: conv2d needs n_mels of 7 or more; got {n_mels}")
        if kind == "conv2d":
            self.first: nn.Conv1d | nn.Conv2d = nn.Conv2d(1, dim, 3, stride=2)
            self.second: nn.Conv1d | nn.Conv2d = nn.Conv2d(dim, dim, 3, stride=2)
        else:
            self.first, self.second = nn.Conv1d(n_mels, dim, 3, stride=2), nn.Conv1d(dim, dim, 3, stride=2)
        self.out = nn.Linear(dim * bands if kind == "conv2d" else dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, mel) to (B, N, d)."""
        if self.kind == "conv2d":
            x = F.relu(self.second(F.relu(self.first(features.unsqueeze(1)))))  # (B, d, N, bands)
            x = x.permute(0, 2, 1, 3).flatten(2)
        else:
            first, second = cast(nn.Conv1d, self.first), cast(nn.Conv1d, self.second)
            x = F.relu(convolve(F.relu(convolve(features, first)), second))
        return self.out(x)


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, expansion: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, expansion * dim),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(expansion * dim, dim),
            nn.Dropout(dropout),
        )


class RelativeAttention(nn.Module):
    """Pre-norm multi-head self-attention over [t - past, t + future], without its residual; None means unlimited."""

    def __init__(self, dim: int, heads: int, past: int | None, future: int | None, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        if dim % 2:
            raise ValueError(f"dim must be even, half sines and half cosines of the position; got {dim}")
        self.heads, self.past, self.future = heads, past, future
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.position = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, offset: int, queries: int, valid: Tensor | None) -> Tensor:
        """Window x (B, K, d); output rows (B, Q, d) belong to window rows [offset, offset + Q).

        ``valid`` (B, K) is False where the window is padding.
        """
        keys, dim = x.shape[1], x.shape[2]
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, dim // self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, K, d/h)
        q = q[:, :, offset : offset + queries]
        codes = _sinusoids(offset + queries - 1, keys + queries - 1, dim, x).to(self.position.weight.dtype)
        codes = self.position(codes)  # (Q + K - 1, d)
        codes = codes.unflatten(-1, (self.heads, dim // self.heads)).permute(1, 2, 0)  # (h, d/h, Q + K - 1)
        scale = (dim // self.heads) ** -0.5
        bias = _by_key((q + self.position_bias) @ codes, keys) * scale  # (B, h, Q, K)
        allowed = self._allowed(offset, queries, keys, x.device)
        if valid is not None:
            allowed = valid[:, None, None, :] if allowed is None else allowed & valid[:, None, None, :]
        if allowed is not None:
            bias = bias.masked_fill(~allowed, NEGATIVE)
        # By hand: with a mask that needs a gradient, the fused kernel does the same steps and three more.
        y = ((q + self.content_bias) @ k.mT * scale + bias).softmax(-1).to(v.dtype) @ v
        return self.dropout(self.out(y.transpose(1, 2).flatten(2)))

    def _allowed(self, offset: int, queries: int, keys: int, device: torch.device) -> Tensor | None:
        if self.past is None and self.future is None:
            return None
        query = torch.arange(queries, device=device)[:, None] + offset
        distance = query - torch.arange(keys, device=device)[None, :]  # (Q, K), positive = past
        within = torch.ones_like(distance, dtype=torch.bool)
        if self.past is not None:
            within = within & (distance <= self.past)
        if self.future is not None:
            within = within & (distance >= -self.future)
        return within


def _sinusoids(largest: int, count: int, dim: int, like: Tensor) -> Tensor:
    """Codes (count, d) of the relative distances largest, largest - 1, ..."""
    distance = largest - torch.arange(count, device=like.device)
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-math.log(10_000.0) / dim))
    angle = distance[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _by_key(scores: Tensor, keys: int) -> Tensor:
    """Scores (B, h, Q, R = Q + K - 1) by falling distance to (B, h, Q, K) by key, by re-viewing instead of gathering.

    Row q of the result starts at column Q - 1 - q; with one column of padding the flat start is q * R + Q - 1.
    """
    queries, width = scores.shape[2], scores.shape[3]
    flat = F.pad(scores, (0, 1)).flatten(2)
    return flat[..., queries - 1 : queries - 1 + queries * width].unflatten(-1, (queries, width))[..., :keys]


class Convolution(nn.Module):
    """Pre-norm gated depthwise convolution, without its residual; ``causal`` looks at the past only."""

    def __init__(self, dim: int, kernel: int, causal: bool, dropout: float) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.past = kernel - 1 if causal else kernel // 2
        self.future = kernel - 1 - self.past
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.inner_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, offset: int, queries: int, valid: Tensor | None) -> Tensor:
        """As `RelativeAttention.forward`; what lies outside the window counts as zero."""
        y = F.glu(self.expand(self.norm(x)), dim=-1)
        if valid is not None:
            y = y.masked_fill(~valid.unsqueeze(-1), 0.0)
        left = self.past - offset  # negative crops
        right = self.future - (x.shape[1] - offset - queries)
        y = convolve(y, self.depthwise, left, right)
        return self.dropout(self.out(F.silu(self.inner_norm(y))))


class Block(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        kernel: int,
        expansion: int,
        past: int | None,
        future: int | None,
        causal: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.first = FeedForward(dim, expansion, dropout)
        self.attention = RelativeAttention(dim, heads, past, future, dropout)
        self.convolution = Convolution(dim, kernel, causal, dropout)
        self.second = FeedForward(dim, expansion, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        frames = x.shape[1]
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x, 0, frames, valid)
        x = x + self.convolution(x, 0, frames, valid)
        return self.norm(x + 0.5 * self.second(x))


class Conformer(nn.Module):
    """Features (B, T, mel) to encoder frames (B, N, dim), N = floor((floor((T-1)/2)-1)/2).

    ``past_frames`` and ``future_frames`` limit each block's attention, in encoder frames of four hops; None is the
    whole clip. With both given the encoder streams (`streaming.EncoderStream`), and its look-ahead is the sum over
    blocks of attention and convolution look-ahead.
    """

    def __init__(
        self,
        n_mels: int = 40,
        dim: int = 144,
        blocks: int = 4,
        heads: int = 4,
        kernel: int = 9,
        expansion: int = 2,
        subsampling: Literal["conv1d", "conv2d"] = "conv1d",
        past_frames: int | None = None,
        future_frames: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, n_mels=n_mels, dim=dim, blocks=blocks, heads=heads, kernel=kernel, expansion=expansion)
        at_least(0, past_frames=past_frames, future_frames=future_frames)
        share(dropout=dropout, below_one=True)
        self.dim = dim
        self.subsampling = Subsampling(n_mels, dim, subsampling)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, heads, kernel, expansion, past_frames, future_frames, causal, dropout) for _ in range(blocks)
        )

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """``lengths`` (B,) are valid feature frames; None means no padding (and exports without a mask)."""
        x = self.dropout(self.subsampling(features))
        valid = None
        if lengths is not None:
            lengths = torch.as_tensor(subsampled(lengths))
            valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        for block in self.blocks:
            x = block(x, valid)
        return (x if valid is None else x * valid.unsqueeze(-1)), lengths

    def context_frames(self) -> tuple[int | None, int | None]:
        """Encoder frames of past and future that one output frame depends on; None is unlimited."""
        pasts = [window.past for window in self.windows()]
        futures = [window.future for window in self.windows()]
        return _total(pasts), _total(futures)

    def windows(self) -> list["RelativeAttention | Convolution"]:
        """The layers that look at other frames, in order."""
        return [layer for block in self.blocks for layer in (block.attention, block.convolution)]  # type: ignore[misc]


def _total(frames: list[int | None]) -> int | None:
    """Their sum; None when one of them is unlimited."""
    known = [count for count in frames if count is not None]
    return sum(known) if len(known) == len(frames) else None
