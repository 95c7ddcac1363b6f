"""Windows over a stream: what a word spotter sees at once, how far it moves on, and the causal layers that make them.

Each window holds 1.2 s of features and moves by 240 ms (papers/dynamic_conformer 2). No state crosses windows but what
was computed before the first layer that looks at the whole of one: samples of the front end, feature frames of the
subsampling, and its steps. So a hop computes six new steps, whatever the window, and a stream equals the windows of a
whole recording. Before a stream begins there are zeros, in training too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightsleeper.nn.causal import Causal, Shape
from lightsleeper.nn.conformer import Subsampling, subsampled

SAMPLE_RATE = 16_000  # Hz
ANALYSIS_MS, FRAME_MS, STEP_MS = 25, 10, 40
_OVERLAP = 4  # feature frames that two neighbouring chunks of steps share


@dataclass(frozen=True)
class Windowing:
    """Sizes and times; raises ValueError where they do not fit.

    A window of F feature frames has N = F / 4 - 1 steps. Max-pooling over K of them leaves P output steps, one for
    every 40 ms of the slide; each sees R seconds.
    """

    window_ms: int = 1200
    slide_ms: int = 240

    def __post_init__(self) -> None:
        for name, value in (("window_ms", self.window_ms), ("slide_ms", self.slide_ms)):
            if value < STEP_MS or value % STEP_MS:
                raise ValueError(f"{name} must be a multiple of {STEP_MS}, above 0; got {value}")
        if self.slide_ms > self.window_ms - STEP_MS:
            raise ValueError(
                f"slide_ms must leave {STEP_MS} ms of the window or more; got {self.slide_ms} of {self.window_ms}"
            )

    @property
    def frames(self) -> int:
        """Feature frames of a window (F)."""
        return self.window_ms // FRAME_MS

    @property
    def slide_frames(self) -> int:
        return self.slide_ms // FRAME_MS

    @property
    def steps(self) -> int:
        """Encoder steps of a window (N)."""
        return int(subsampled(self.frames))

    @property
    def outputs(self) -> int:
        """Output steps of a window (P)."""
        return self.slide_ms // STEP_MS

    @property
    def pool(self) -> int:
        """Encoder steps behind an output step (K)."""
        return self.steps - self.outputs + 1

    @property
    def slide_samples(self) -> int:
        return self.slide_ms * SAMPLE_RATE // 1000

    @property
    def receptive_s(self) -> float:
        """What an output step answers for (R). The frames below it reach 5 ms further."""
        return (self.window_ms - self.slide_ms + STEP_MS) / 1000

    @property
    def step_s(self) -> float:
        """From one output step to the next (S)."""
        return STEP_MS / 1000

    @property
    def lead_s(self) -> float:
        """How long before a hop's first sample its first output step begins to see."""
        return (self.window_ms - self.slide_ms + ANALYSIS_MS - FRAME_MS) / 1000

    def count(self, frames: int) -> int:
        """Whole windows in so many feature frames."""
        return max(0, (frames - self.frames) // self.slide_frames + 1)

    def begin_s(self, hops: Tensor) -> Tensor:
        """Where output steps begin to see, (M, P) float64 seconds of the stream, for the hops (M,) counted from 0."""
        steps = torch.arange(self.outputs, dtype=torch.double, device=hops.device) * self.step_s
        return hops.double()[:, None] * (self.slide_ms / 1000) - self.lead_s + steps


class Steps(Causal):
    """Features (B, mel, 4 n) to encoder steps (B, d, n); step j sees the frames 4 j - 4 to 4 j + 2."""

    def __init__(self, subsampling: Subsampling, n_mels: int) -> None:
        super().__init__()
        self.subsampling, self.n_mels = subsampling, n_mels
        self.stride, self.past = STEP_MS // FRAME_MS, STEP_MS // FRAME_MS - 1 + _OVERLAP

    @property
    def pieces(self) -> list[Shape]:
        return [(self.n_mels, _OVERLAP)]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        joined = torch.cat([kept[0], x], -1)
        return self.subsampling(joined.transpose(1, 2)).transpose(1, 2), [joined[..., -_OVERLAP:]]


class Windows(Causal):
    """Steps (B, d, P n) to windows (B, n, N, d), each ending with P new steps."""

    def __init__(self, dim: int, windowing: Windowing) -> None:
        super().__init__()
        self.dim, self.stride, self.steps = dim, windowing.outputs, windowing.steps
        self.past = windowing.steps - 1

    @property
    def pieces(self) -> list[Shape]:
        return [(self.dim, self.steps - self.stride)]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        joined = torch.cat([kept[0], x], -1)
        one = torch.compiler.is_exporting()  # a graph hears a hop a call
        windows = joined.unsqueeze(2) if one else joined.unfold(-1, self.steps, self.stride)  # (B, d, n, N)
        return windows.permute(0, 2, 3, 1), [joined[..., x.shape[-1] :]]


class Fourth(Causal):
    """Frames (B, d, 4 P n) to windows of P steps (B, n, P, d): every fourth frame, the newest of its four."""

    def __init__(self, windowing: Windowing) -> None:
        super().__init__()
        self.every, self.outputs = STEP_MS // FRAME_MS, windowing.outputs
        self.stride = self.every * self.outputs

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return x[..., self.every - 1 :: self.every].unflatten(-1, (-1, self.outputs)).permute(0, 2, 3, 1), []
