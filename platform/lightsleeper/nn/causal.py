"""Causal layers with explicit state: what a layer keeps between two chunks goes in and comes out as a flat tensor.

    y, state = layer.stream(x, state)     # x (B, ..., frames), state (B, layer.state_size)

Inside, each layer takes and gives the pieces it keeps (``step``). In the flat tensor, pieces that differ in time only
lie side by side: an exported graph takes a state apart and together again in a few nodes, not in a few for each layer.
``forward`` is ``stream`` from the zero state, so zeros before the start stand for the past. A chunk is any number of
whole strides; whatever the chunks, the outputs are the same. An output answers as soon as its newest frame is there:
with a stride s, output t sees the frames up to s (t + 1) - 1. Nothing counts, so nothing grows with time.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightsleeper_callbacks.repconv import Norms, RepConv1d
from torch import Tensor, nn

from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.frontend import LogMel

_BLOCK = 256  # frames of an exponential mean computed at once

Shape = tuple[int, ...]


class Causal(nn.Module):
    """Base of the layers. One without state, a stride or a past need not be one: `Chain` calls it frame by frame."""

    stride: int = 1
    past: int = 0
    """Frames before the newest that an output sees; the state may reach further back where it decays."""
    future: int = 0
    """Frames of look-ahead; a layer with any does not stream."""

    @property
    def pieces(self) -> list[Shape]:
        """Shapes of what is kept between two chunks, without the batch, time last."""
        return []

    @property
    def state_size(self) -> int:
        return sum(map(math.prod, self.pieces))

    def initial(self, x: Tensor) -> Tensor:
        """The state before anything was heard, for the batch and type of ``x``: zeros (B, state_size)."""
        return x.new_zeros(x.shape[0], self.state_size)

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The next chunk, with what was kept of the last one; the outputs, and what to keep."""
        raise NotImplementedError

    def stream(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``step`` with a flat state (B, state_size)."""
        pieces = self.pieces
        y, kept = self.step(x, _apart(state, pieces))
        return y, _together(kept, pieces) if pieces else state

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x, self.initial(x))[0]

    def _refuse_look_ahead(self) -> None:
        if self.future:
            raise ValueError(f"a layer that looks {self.future} frames ahead does not stream")


def _alike(pieces: Sequence[Shape]) -> dict[Shape, list[int]]:
    """Numbers of the pieces by their shape without time, in order of appearance."""
    groups: dict[Shape, list[int]] = {}
    for number, shape in enumerate(pieces):
        groups.setdefault(shape[:-1], []).append(number)
    return groups


def _apart(state: Tensor, pieces: Sequence[Shape]) -> list[Tensor]:
    groups = _alike(pieces)
    frames = [[pieces[number][-1] for number in numbers] for numbers in groups.values()]
    sizes = [math.prod(shape) * sum(lengths) for shape, lengths in zip(groups, frames, strict=True)]
    found: dict[int, Tensor] = {}
    parts = state.split(sizes, 1) if len(groups) > 1 else (state,) * len(groups)
    for (shape, numbers), lengths, part in zip(groups.items(), frames, parts, strict=True):
        part = part.unflatten(1, (*shape, sum(lengths))) if shape else part
        found.update(zip(numbers, part.split(lengths, -1) if len(numbers) > 1 else (part,), strict=True))
    return [found[number] for number in range(len(pieces))]


def _together(kept: Sequence[Tensor], pieces: Sequence[Shape]) -> Tensor:
    parts = []
    for numbers in _alike(pieces).values():
        part = torch.cat([kept[number] for number in numbers], -1) if len(numbers) > 1 else kept[numbers[0]]
        parts.append(part.flatten(1))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


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
    def pieces(self) -> list[Shape]:
        return [(*self.shape, self.frames)] if self.frames else []

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        self._refuse_look_ahead()
        if not kept:
            return self.layer(x), []
        joined = torch.cat([kept[0], x], dim=-1)
        return self.layer(joined), [joined[..., -self.frames :]]

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
    def pieces(self) -> list[Shape]:
        return [piece for layer in self.layers if isinstance(layer, Causal) for piece in layer.pieces]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        at, new = 0, list[Tensor]()
        for layer in self.layers:
            if isinstance(layer, Causal):
                end = at + len(layer.pieces)
                x, parts = layer.step(x, kept[at:end])
                at, new = end, new + parts
            else:
                x = layer(x)
        return x, new

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
    def pieces(self) -> list[Shape]:
        return self.body.pieces

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, new = self.body.step(x, kept)
        return x + y, new

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
    smaller: Sequence[int] = (),
    scale: bool = True,
    skip: bool = True,
    norms: Norms = "branch",
) -> Kept:
    """A causal convolution over (B, inputs, T) with its norm: plain with 0 ``branches``, else a `RepConv1d`.

    ``smaller``: further branches with kernels of these sizes, where they are smaller than ``kernel`` and above 1.
    """
    if branches:
        sizes = [size for size in smaller if 1 < size < kernel]
        layer: nn.Module = RepConv1d(
            inputs, outputs, kernel, stride, dilation, groups, branches, sizes, scale, skip, causal=True, norms=norms
        )
    else:
        plain = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        layer = nn.Sequential(plain, nn.BatchNorm1d(outputs))
    return Kept(layer, dilation * (kernel - 1), stride)


class TrailingMean(Causal):
    """Mean of the last ``frames`` frames of (B, channels, T), or of (B, channels, rows, T)."""

    def __init__(self, channels: int, frames: int, rows: int | None = None) -> None:
        super().__init__()
        self.channels, self.past, self.rows = channels, frames - 1, rows

    @property
    def pieces(self) -> list[Shape]:
        shape = (self.channels,) if self.rows is None else (self.channels, self.rows)
        return [(*shape, self.past)] if self.past else []

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if not kept:
            return x, []
        joined = torch.cat([kept[0], x], dim=-1)
        count = self.past + 1
        mean = F.avg_pool1d(joined, count, 1) if self.rows is None else F.avg_pool2d(joined, (1, count), 1)
        return mean, [joined[..., -self.past :]]


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
    def pieces(self) -> list[Shape]:
        return [(self.start.numel(),)]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        (mean,) = kept
        if torch.compiler.is_exporting():  # chunks of a stream are short
            y, mean = self._block(x, mean)
            return y, [mean]
        parts = []
        for block in x.split(_BLOCK, dim=-1):
            y, mean = self._block(block, mean)
            parts.append(y)
        return (torch.cat(parts, -1) if parts else x), [mean]

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
    def pieces(self) -> list[Shape]:
        return [(self.log_mel.window - self.log_mel.hop,)]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        joined = torch.cat([kept[0], x], dim=1)
        power = self.log_mel.power(joined, whole_hops=True)  # (B, T, mel)
        if self.augment is not None and self.training:
            power = self.augment(power, torch.full((len(power),), power.shape[1], device=power.device))
        return self.log_mel.center(power, None).transpose(1, 2), [joined[:, -self.pieces[0][0] :]]
