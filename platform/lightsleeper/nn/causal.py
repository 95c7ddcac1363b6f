"""Causal layers with explicit state: what a layer keeps between two chunks goes in and comes out as a flat tensor.

    y, state = layer.stream(x, state)     # x (B, ..., frames), state (B, layer.state_size)

``forward`` is ``stream`` from the zero state, so zeros before the start stand for the past. A chunk is any number of
whole strides; whatever the chunks, the outputs are the same. An output answers as soon as its newest frame is there:
with a stride s, output t sees the frames up to s (t + 1) - 1. Nothing counts, so nothing grows with time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightsleeper_callbacks.repconv import RepConv1d
from torch import Tensor, nn

from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.frontend import LogMel

_BLOCK = 256  # frames of an exponential mean computed at once


class Causal(nn.Module):
    """Base of the layers. One without state, a stride or a past need not be one: `Chain` calls it frame by frame."""

    stride: int = 1
    past: int = 0
    """Frames before the newest that an output sees; the state may reach further back where it decays."""
    future: int = 0
    """Frames of look-ahead; a layer with any does not stream."""

    @property
    def state_size(self) -> int:
        return 0

    def initial(self, x: Tensor) -> Tensor:
        """The state before anything was heard, for the batch and type of ``x``: zeros (B, state_size)."""
        return x.new_zeros(x.shape[0], self.state_size)

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x, self.initial(x))[0]

    def _refuse_look_ahead(self) -> None:
        if self.future:
            raise ValueError(f"a layer that looks {self.future} frames ahead does not stream")


class Kept(Causal):
    """A layer over time that pads nothing, behind the frames that its next outputs still see.

    Args:
        layer: convolution (its channels tell the state's), or a sequence that begins with one; no padding in time.
        past: frames before the newest that it sees: dilation * (kernel - 1).
        stride: of the layer in time.
        rows: axis between channels and time, such as frequency; None: there is none.
        future: of ``past``, the frames that lie ahead (a centred layer).
    """

    def __init__(self, layer: nn.Module, past: int, stride: int = 1, rows: int | None = None, future: int = 0) -> None:
        super().__init__()
        if past < stride - 1:
            raise ValueError(f"a stride of {stride} skips frames of a kernel that sees {past + 1}")
        self.layer, self.past, self.stride, self.rows, self.future = layer, past - future, stride, rows, future

    @property
    def frames(self) -> int:
        """Frames kept."""
        return self.past + self.future - (self.stride - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        first: Any = next(part for part in self.layer.modules() if hasattr(part, "in_channels"))
        return (first.in_channels, *(() if self.rows is None else (self.rows,)))

    @property
    def state_size(self) -> int:
        count = self.frames
        for size in self.shape if count else ():
            count *= size
        return count

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self._refuse_look_ahead()
        if not self.frames:  # the state is nobody's
            return self.layer(x), state
        joined = torch.cat([state.unflatten(1, (*self.shape, self.frames)), x], dim=-1)
        return self.layer(joined), joined[..., x.shape[-1] :].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.pad(x, (self.frames - self.future, self.future)) if self.frames else x)


class Chain(Causal):
    """Layers one behind the other; the state is theirs in order. Plain modules among them work frame by frame."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            if isinstance(layer, Causal):
                self.past += layer.past * self.stride
                self.future += layer.future * self.stride
                self.stride *= layer.stride

    @property
    def state_size(self) -> int:
        return sum(layer.state_size for layer in self.layers if isinstance(layer, Causal))

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        sizes = [layer.state_size for layer in self.layers if isinstance(layer, Causal)]
        parts = iter(state.split([size for size in sizes if size], 1) if any(sizes) else ())  # one node of a graph
        kept = []
        for layer in self.layers:
            if not isinstance(layer, Causal):
                x = layer(x)
            elif layer.state_size:
                x, new = layer.stream(x, next(parts))
                kept.append(new)
            else:
                x, _ = layer.stream(x, state)
        return x, torch.cat(kept, 1) if kept else state

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Residual(Causal):
    """``x + body(x)`` for a body that keeps shape and rate."""

    def __init__(self, body: Causal) -> None:
        super().__init__()
        self.body, self.past, self.future = body, body.past, body.future

    @property
    def state_size(self) -> int:
        return self.body.state_size

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.body.stream(x, state)
        return x + y, state

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    branches: int = 0,
    scale: bool = True,
    skip: bool = True,
) -> Kept:
    """A causal convolution over (B, inputs, T) with its norm: plain with 0 ``branches``, else a `RepConv1d`."""
    if branches:
        layer: nn.Module = RepConv1d(
            inputs, outputs, kernel, stride, dilation, groups, branches, scale=scale, skip=skip, causal=True
        )
    else:
        plain = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        layer = nn.Sequential(plain, nn.BatchNorm1d(outputs))
    return Kept(layer, dilation * (kernel - 1), stride)


class TrailingMean(Causal):
    """Mean of the last ``frames`` frames of (B, channels, T)."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.channels, self.past = channels, frames - 1

    @property
    def state_size(self) -> int:
        return self.channels * self.past

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if not self.past:
            return x, state
        joined = torch.cat([state.unflatten(1, (self.channels, self.past)), x], dim=-1)
        return F.avg_pool1d(joined, self.past + 1, 1), joined[..., x.shape[-1] :].flatten(1)


class ExponentialMean(Causal):
    """Subtracts from (B, channels, T) a mean that forgets: ``m += (x - m) / frames``, from a learned start on.

    The state is the distance of the mean from that start: bounded, and zero before anything was heard.
    """

    def __init__(self, channels: int, frames: float) -> None:
        super().__init__()
        if not frames > 1:
            raise ValueError(f"an exponential mean needs more than 1 frame; got {frames}")
        self.rate = 1 / frames
        self.start = nn.Parameter(torch.zeros(channels))

    @property
    def state_size(self) -> int:
        return self.start.numel()

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():  # chunks of a stream are short
            return self._block(x, state)
        parts = []
        for block in x.split(_BLOCK, dim=-1):
            y, state = self._block(block, state)
            parts.append(y)
        return (torch.cat(parts, -1) if parts else x), state

    def _block(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        kept = torch.tensor(1 - self.rate, dtype=x.dtype, device=x.device)
        ages = steps[:, None] - steps[None, :]
        weights = torch.where(ages >= 0, self.rate * kept ** ages.clamp(min=0), 0.0)  # (T, T): of frame j in mean i
        moved = x - self.start[:, None]
        mean = moved @ weights.T + state[:, :, None] * kept ** (steps + 1)
        return moved - mean, mean[..., -1]


class FrontEnd(Causal):
    """Samples (B, S) to log-mel features (B, mel, T); the samples that the next windows still need are the state.

    With zeros before the start, frame t ends with sample ``hop (t + 1) - 1``: time needs no offset. In training,
    ``augment`` works on the log-mel power.

    Args:
        n_mels: mel bands.
        sample_rate: Hz.
        window_ms, hop_ms: analysis window and its step.
        augment: feature-domain augmentation, active in training.
    """

    def __init__(
        self,
        n_mels: int = 40,
        sample_rate: int = 16_000,
        window_ms: float = 30.0,
        hop_ms: float = 10.0,
        augment: FeatureAugment | None = None,
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(n_mels, sample_rate, window_ms, hop_ms, normalize="none")
        self.augment = augment
        self.past, self.stride = self.log_mel.window - 1, self.log_mel.hop

    @property
    def state_size(self) -> int:
        return self.log_mel.window - self.log_mel.hop

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([state, x], dim=1)
        power = self.log_mel.power(joined)  # (B, T, mel)
        if self.augment is not None and self.training:
            power = self.augment(power, torch.full((len(power),), power.shape[1], device=power.device))
        return self.log_mel.center(power, None).transpose(1, 2), joined[:, x.shape[1] :]
