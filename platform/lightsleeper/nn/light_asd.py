"""Encoders of faces and sound that give one vector a video frame: Light-ASD's, and the same without the future.

Sizes are those of Light-ASD (Liao et al., CVPR 2023, papers/realtime_asd section 3): 545,024 parameters for faces,
277,952 for sound. What reaches over time is a choice:

    published   centred kernels: faces see 6 frames ahead, sound 14 MFCC frames beyond its own four
    causal      the same kernels behind left padding: nothing beyond the frame (reading R1 of the streaming paper)
    framewise   kernels of one frame, pools that stay within the frame: all time is left to the fusion (R2)

Weights keep their shapes between the first two. Layouts: faces (B, C, T, H, W), sound (B, C, coefficients, 4 T); a
spatial kernel is a Conv2d over frames, a temporal one a Conv2d over (time, pixels), both what int8 kernels exist for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.causal import Causal, Chain, Kept, Shape

FPS = 25
MFCC_PER_FRAME = 4  # MFCC frames that fall on a video frame
COEFFICIENTS = 13
KERNELS = (3, 5)  # of the two branches of every block
WIDTHS = (32, 64, 128)
PIXELS = 112
PIXEL_MEAN, PIXEL_SPREAD = 0.4161, 0.1688  # of grey values in [0, 1]

TimeMode = Literal["published", "causal", "framewise"]


@dataclass(frozen=True)
class Size:
    """How large the encoders are."""

    widths: tuple[int, int, int]
    """Channels of the three blocks; the last is the embedding's."""
    pixels: int
    """Edge of the square face after a mean over equal tiles; the last block sees an eighth of it."""
    momentum: float
    """Of the batch norms' statistics. Published: 0.01, which needs the thousands of steps of the published training."""


SIZES = {"light_asd": Size(WIDTHS, PIXELS, 0.01), "small": Size((8, 16, 64), 56, 0.1)}
"""``small`` is ours: a thirtieth of the multiply-accumulates a frame, for short trainings and small processors."""


def _layer(convolution: nn.Conv2d) -> nn.Sequential:
    """With its norm, whose momentum `Encoders` sets, and a ReLU."""
    nn.init.kaiming_normal_(convolution.weight)
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels, eps=1e-3), nn.ReLU())


class Frames(nn.Module):
    """A layer of images at each frame of (B, C, T, H, W)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        batch, frames = x.shape[0], x.shape[2]
        y = self.layer(x.transpose(1, 2).flatten(0, 1))
        return y.unflatten(0, (batch, frames)).transpose(1, 2)


class OverFrames(Causal):
    """A temporal kernel at each pixel of (B, channels, T, H, W), H = W = ``edge``; ``future`` of its frames lie ahead.

    Zeros stand for the frames before the first, and in a clip for those after the last.
    """

    def __init__(self, channels: int, kernel: int, edge: int, future: int = 0) -> None:
        super().__init__()
        self.layer = _layer(nn.Conv2d(channels, channels, (kernel, 1), bias=False))
        self.channels, self.edge, self.frames = channels, edge, kernel - 1
        self.past, self.future = self.frames - future, future

    @property
    def pieces(self) -> list[Shape]:
        return [(self.channels, self.frames, self.edge**2)] if self.frames else []

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        self._refuse_look_ahead()
        joined = torch.cat([kept[0], x.flatten(3)], dim=2) if kept else x.flatten(3)
        y = self.layer(joined).unflatten(3, (self.edge, self.edge))
        return y, [joined[:, :, -self.frames :]] if kept else []

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.flatten(3), (0, 0, self.past, self.future)) if self.frames else x.flatten(3)
        return self.layer(padded).unflatten(3, (self.edge, self.edge))


class HalfRate(Causal):
    """Max-pooling of (B, channels, rows, T) over ``kernel`` frames in steps of two.

    With kernel 3, as published, output j sees inputs 2 j - 1 to 2 j + 1, none of which is ahead of its own two: the
    pool is causal as it stands. Zeros before the start are neutral behind a ReLU.
    """

    def __init__(self, channels: int, rows: int, kernel: int) -> None:
        super().__init__()
        self.channels, self.rows, self.kernel = channels, rows, kernel
        self.past, self.stride = kernel - 1, 2

    @property
    def pieces(self) -> list[Shape]:
        return [(self.channels, self.rows, 1)] if self.kernel == 3 else []

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        joined = torch.cat([kept[0], x], dim=-1) if kept else x
        return F.max_pool2d(joined, (1, self.kernel), (1, 2)), [joined[..., -1:]] if kept else []


class Sum(Causal):
    """The sum of paths that see the same input."""

    def __init__(self, *paths: Causal) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)
        self.past, self.future = (max(getattr(path, side) for path in paths) for side in ("past", "future"))

    @property
    def pieces(self) -> list[Shape]:
        return [piece for path in self.paths for piece in path.pieces]  # type: ignore[union-attr]

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        total, new, at = None, list[Tensor](), 0
        for path in self.paths:
            end = at + len(path.pieces)  # type: ignore[arg-type]
            y, parts = path.step(x, kept[at:end])  # type: ignore[operator]
            total, new, at = y if total is None else total + y, new + parts, end
        assert total is not None
        return total, new

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (path(x) for path in self.paths)
        return sum(others, first)


def _reach(time: TimeMode, kernel: int) -> tuple[int, int]:
    """(kernel over time, frames of it that lie ahead) of a branch with ``kernel``."""
    return (1 if time == "framewise" else kernel), (kernel // 2 if time == "published" else 0)


def face_block(inputs: int, outputs: int, edge: int, time: TimeMode, stride: int = 1) -> Chain:
    """Two branches, space then time, added and mixed; ``edge`` is that of its output."""
    paths = []
    for kernel in KERNELS:
        space = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        length, future = _reach(time, kernel)
        paths.append(Chain(Frames(_layer(space)), OverFrames(outputs, length, edge, future)))
    return Chain(Sum(*paths), Frames(_layer(nn.Conv2d(outputs, outputs, 1, bias=False))))


def sound_block(inputs: int, outputs: int, time: TimeMode) -> Chain:
    """Two branches, coefficients then time, added and mixed."""
    paths = []
    for kernel in KERNELS:
        over = nn.Conv2d(inputs, outputs, (kernel, 1), padding=(kernel // 2, 0), bias=False)
        length, future = _reach(time, kernel)
        along = _layer(nn.Conv2d(outputs, outputs, (1, length), bias=False))
        paths.append(Chain(_layer(over), Kept(along, length - 1, rows=COEFFICIENTS, future=future)))
    return Chain(Sum(*paths), _layer(nn.Conv2d(outputs, outputs, 1, bias=False)))


class FaceEncoder(Chain):
    """Grey faces (B, 1, T, edge, edge), normalised, to (B, channels, T, h, w); `pooled` makes vectors of them."""

    def __init__(self, size: Size, time: TimeMode) -> None:
        edges = [size.pixels // part for part in (2, 4, 8)]
        first, second, third = (
            face_block(inputs, outputs, edge, time, stride)
            for inputs, outputs, edge, stride in zip((1, *size.widths), size.widths, edges, (2, 1, 1), strict=False)
        )
        super().__init__(first, Frames(nn.MaxPool2d(3, 2, 1)), second, Frames(nn.MaxPool2d(3, 2, 1)), third)
        # Channels last, (B, C, T, H, W) is (B T, C, H, W) and (B, C, T, H W) without a copy: a training step takes 0.7
        # to 0.8 of the time (docs/results.md). torch's stubs lack the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def pooled(x: Tensor) -> Tensor:
        """(B, channels, T, h, w) to the largest value of each channel, (B, T, channels)."""
        return x.amax((3, 4)).transpose(1, 2)


class SoundEncoder(Chain):
    """MFCC (B, 1, coefficients, 4 T) to (B, channels, coefficients, T); `pooled` makes vectors of them."""

    def __init__(self, size: Size, time: TimeMode) -> None:
        channels = zip((1, *size.widths), size.widths, strict=False)
        first, second, third = (sound_block(inputs, outputs, time) for inputs, outputs in channels)
        kernel = 2 if time == "framewise" else 3
        pools = [HalfRate(width, COEFFICIENTS, kernel) for width in size.widths[:2]]
        super().__init__(first, pools[0], second, pools[1], third)

    @staticmethod
    def pooled(x: Tensor) -> Tensor:
        """(B, channels, coefficients, T) to means over coefficients, (B, T, channels)."""
        return x.mean(2).transpose(1, 2)


class Encoders(nn.Module):
    """Both encoders, and their states side by side: first the faces', then the sound's.

    Args:
        size: A key of `SIZES`.
        time: What reaches over time, see above.
    """

    def __init__(self, size: str = "light_asd", time: TimeMode = "causal") -> None:
        super().__init__()
        self.size, self.time = SIZES[size], time
        self.dim = self.size.widths[-1]
        self.faces, self.sound = FaceEncoder(self.size, time), SoundEncoder(self.size, time)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = self.size.momentum

    @property
    def past(self) -> int:
        """Video frames before the newest that a vector sees, those that it sees in part included."""
        return max(self.faces.past, -(-(self.sound.past - (MFCC_PER_FRAME - 1)) // MFCC_PER_FRAME))

    @property
    def future(self) -> int:
        """Video frames beyond, those that it sees in part included."""
        return max(self.faces.future, -(-self.sound.future // MFCC_PER_FRAME))

    @property
    def state_size(self) -> int:
        """Numbers kept between two frames."""
        return self.faces.state_size + self.sound.state_size

    def pixels(self, faces: Tensor) -> Tensor:
        """Grey faces (B, T, 112, 112), 0 to 255, to the encoder's input (B, 1, T, edge, edge)."""
        x = faces.to(self._kind)
        if (tile := x.shape[-1] // self.size.pixels) > 1:
            x = F.avg_pool2d(x, tile)
        return ((x / 255 - PIXEL_MEAN) / PIXEL_SPREAD)[:, None]

    def coefficients(self, mfcc: Tensor) -> Tensor:
        """MFCC (B, 4 T, 13) to the encoder's input (B, 1, 13, 4 T)."""
        return mfcc.to(self._kind).transpose(1, 2)[:, None]

    @property
    def _kind(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, faces: Tensor, mfcc: Tensor) -> tuple[Tensor, Tensor]:
        """Clips to vectors of sound and of faces, (B, T, dim) each."""
        seen = self.faces.pooled(self.faces(self.pixels(faces)))
        return self.sound.pooled(self.sound(self.coefficients(mfcc))), seen

    def stream(self, faces: Tensor, mfcc: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`forward` for the next frames of streams at ``state`` (B, state_size), zeros at first; and the next state.

        Raises ValueError where the encoders look ahead.
        """
        kept = state.split([self.faces.state_size, self.sound.state_size], 1)
        seen, faces_state = self.faces.stream(self.pixels(faces), kept[0])
        heard, sound_state = self.sound.stream(self.coefficients(mfcc), kept[1])
        return self.sound.pooled(heard), self.faces.pooled(seen), torch.cat([faces_state, sound_state], 1)
