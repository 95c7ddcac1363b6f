"""The network of an active-speaker detector: encoders, fusion, heads; whole clips, and frame by frame with a state.

Sound and face are added, as in Light-ASD. A second head judges the face alone; it serves training only.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightsleeper.nn.light_asd import COEFFICIENTS, FPS, MFCC_PER_FRAME, PIXELS, Encoders, TimeMode
from lightsleeper.nn.limited_attention import DROPOUT, HEADS, Limit, LimitedTransformer
from lightsleeper.nn.speaker_fusion import ForwardGRU, TwoWayGRU

Modality = Literal["both", "audio", "video"]
FusionName = Literal["transformer", "gru", "bigru"]
WINDOW_AHEAD_MS = 15.0
"""A frame's last MFCC window of 25 ms begins 10 ms before the frame ends."""


@dataclass(frozen=True)
class FusionSpec:
    """How sound and face are followed over time."""

    name: FusionName = "transformer"
    layers: int = 1
    past: Limit = 32
    """Of each layer."""
    future: Limit = 0
    """Of all layers together."""
    spread: bool = False
    heads: int = HEADS
    dropout: float = DROPOUT

    def build(self, dim: int) -> "LimitedTransformer | ForwardGRU | TwoWayGRU":
        if self.name == "gru":
            return ForwardGRU(dim)
        if self.name == "bigru":
            return TwoWayGRU(dim)
        if dim % self.heads:
            raise ValueError(f"heads must divide the width of the embeddings, {dim}; got {self.heads}")
        return LimitedTransformer(dim, self.layers, self.past, self.future, self.spread, self.heads, self.dropout)


class Decision(NamedTuple):
    """What a step says of the frame that arrived ``delay`` steps before."""

    score: Tensor
    """(B,) probability that the face speaks."""
    ready: Tensor
    """(B,) 1 where there was such a frame, else 0 and the score means nothing."""
    state: Tensor
    """(B, state_size) for the next step."""


class SpeakerNet(nn.Module):
    """Faces (B, T, 112, 112) and MFCC (B, 4 T, 13) to logits (B, T, 2) of "silent" and "speaks".

    Args:
        size: A key of `light_asd.SIZES`.
        time: What the encoders see over time.
        fusion: What follows them.
        modality: What the fusion is given; the other encoder is there and unused.
    """

    def __init__(
        self,
        size: str = "light_asd",
        time: TimeMode = "causal",
        fusion: FusionSpec | None = None,
        modality: Modality = "both",
    ) -> None:
        super().__init__()
        fusion = fusion or FusionSpec()
        self.modality = modality
        self.encoders = Encoders(size, time)
        self.fusion = fusion.build(self.encoders.dim)
        self.head, self.face_head = (nn.Linear(self.encoders.dim, 2) for _ in range(2))

    def joined(self, sound: Tensor, faces: Tensor) -> Tensor:
        """Vectors (B, T, dim) of sound and of faces to what the fusion sees."""
        return {"both": sound + faces, "audio": sound, "video": faces}[self.modality]

    def judge(self, sound: Tensor, faces: Tensor, past: Limit = None, future: Limit = None) -> Tensor:
        """Logits (B, T, 2) of vectors; ``past`` and ``future`` narrow a transformer's budget for this call."""
        return self.head(self.fusion(self.joined(sound, faces), past, future))

    def forward(self, faces: Tensor, mfcc: Tensor) -> Tensor:
        return self.judge(*self.encoders(faces, mfcc))

    # Frame by frame.

    @property
    def streams(self) -> bool:
        """Whether encoders look at no frame ahead, and the fusion at a limited number on either side."""
        return self.encoders.future == 0 and self.fusion.streams

    @property
    def delay(self) -> int:
        """Steps between a frame and its decision. Raises ValueError where it does not stream."""
        if not self.streams:
            raise ValueError("encoders that look ahead, and a fusion without limits, do not stream")
        return int(self.fusion.future or 0)

    @property
    def state_size(self) -> int:
        """Numbers kept for a face between two frames: past activations of the encoders, then the fusion's state."""
        return self.encoders.state_size + self.fusion.state_size

    def state_bytes(self) -> int:
        """Of a face, in float32; constant however long the stream is."""
        return 4 * self.state_size

    def initial(self, faces: int) -> Tensor:
        """The state (faces, state_size) before the first frame: zeros."""
        return self.head.weight.new_zeros(faces, self.state_size)

    def step(self, faces: Tensor, mfcc: Tensor, present: Tensor, state: Tensor) -> Decision:
        """The next frame (B, 1, 112, 112), MFCC (B, 4, 13) of streams at ``state``; B is the number of faces.

        ``present`` (B,) is 1; 0 for steps after the last frame, which bring out what still waited for its future.
        """
        kept = state.split([self.encoders.state_size, self.fusion.state_size], 1)
        sound, seen, encoders = self.encoders.stream(faces, mfcc, kept[0])
        mixed, ready, fusion = self.fusion.step(self.joined(sound, seen)[:, 0], present, kept[1])
        score = self.head(mixed).softmax(-1)[:, 1]
        return Decision(score, ready, torch.cat([encoders, fusion], 1))

    # What it costs.

    def reach(self) -> tuple[Limit, Limit]:
        """Video frames that a decision sees behind its own and ahead, encoders and fusion together; None: all."""
        past, future = self.fusion.reach()
        return (
            None if past is None else past + self.encoders.past,
            None if future is None else future + self.encoders.future,
        )

    def context(self) -> dict[str, float | None]:
        """As `Family.context`: a frame is 40 ms; the sound's last window ends 15 ms after its frame."""
        past, future = self.reach()
        frame_ms = 1000.0 / FPS
        return {
            "past_ms": None if past is None else frame_ms * (past + 1),
            "future_ms": None if future is None else frame_ms * future + WINDOW_AHEAD_MS,
            "state_bytes": float(self.state_bytes()) if self.streams else None,
        }


def example(frames: int, seed: int = 0, batch: int = 1, pixels: int = PIXELS) -> tuple[Tensor, Tensor]:
    """Random faces (batch, frames, pixels, pixels), 0 to 255, and MFCC (batch, 4 frames, 13)."""
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, 256, (batch, frames, pixels, pixels), generator=generator, dtype=torch.uint8)
    return faces, torch.randn(batch, MFCC_PER_FRAME * frames, COEFFICIENTS, generator=generator)
