"""The conformer encoder as a stream: samples in, encoder frames out, equal to the offline forward for any chunking.

Each windowed layer (attention, convolution) keeps the inputs its next outputs still need and answers as soon as its
look-ahead has arrived, so the state is bounded by the context and does not grow with time.
"""

import torch
from torch import Tensor

from lightsleeper.nn.conformer import Block, Conformer, Convolution, RelativeAttention
from lightsleeper.nn.frontend import ROOM_FLOOR, LogMel


class _Window:
    """One windowed layer with its residual over an endless sequence."""

    def __init__(self, layer: RelativeAttention | Convolution) -> None:
        self.layer = layer
        self.past, self.future = int(layer.past or 0), int(layer.future or 0)
        self.kept: Tensor | None = None  # (1, L, d): frames [first, first + L)
        self.first = 0
        self.done = 0  # next output frame

    def push(self, x: Tensor, final: bool) -> Tensor:
        self.kept = x if self.kept is None else torch.cat([self.kept, x], dim=1)
        received = self.first + self.kept.shape[1]
        ready = received if final else max(self.done, received - self.future)
        queries = ready - self.done
        if queries <= 0:
            return x[:, :0]
        offset = self.done - self.first
        y = self.kept[:, offset : offset + queries] + self.layer(self.kept, offset, queries, None)
        self.done = ready
        drop = max(0, self.done - self.past - self.first)
        self.kept, self.first = self.kept[:, drop:], self.first + drop
        return y


class _BlockStream:
    def __init__(self, block: Block) -> None:
        self.block = block
        self.attention, self.convolution = _Window(block.attention), _Window(block.convolution)

    def push(self, x: Tensor, final: bool) -> Tensor:
        x = self.attention.push(x + 0.5 * self.block.first(x), final)
        x = self.convolution.push(x, final)
        return self.block.norm(x + 0.5 * self.block.second(x))


class FeatureStream:
    """The front end as a stream. Raises ValueError for ``normalize="clip"``."""

    def __init__(self, frontend: LogMel) -> None:
        if frontend.normalize == "clip":
            raise ValueError("streaming needs normalize: running or none; 'clip' subtracts the whole clip's mean")
        self.frontend = frontend
        self.samples: Tensor = torch.zeros(1, 0)
        self.mel_sum = torch.zeros(1, 1, frontend.n_mels)
        self.power_sum = torch.zeros(1, 1, 1)
        self.mel_count = 0

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Audio (samples,) to the features (1, n, mel) that have become complete."""
        self.samples = torch.cat([self.samples, audio.reshape(1, -1)], dim=1)
        frames = int(self.frontend.frames(torch.tensor(self.samples.shape[1])))
        if not frames:
            return torch.zeros(1, 0, self.frontend.n_mels)
        features = self._center(self.frontend.power(self.samples))
        self.samples = self.samples[:, frames * self.frontend.hop :]
        return features

    def _center(self, mel: Tensor) -> Tensor:
        """`LogMel.center` with the running sums carried over."""
        if self.frontend.normalize == "none":
            return (mel + 6.0) * 0.33
        count = self.mel_count + torch.arange(1, mel.shape[1] + 1)[None, :, None]
        power = mel.exp()
        powers = self.power_sum + power.mean(2, keepdim=True).cumsum(1)
        mel = (power + ROOM_FLOOR * powers / count).log()
        total = self.mel_sum + mel.cumsum(1)
        self.power_sum, self.mel_sum, self.mel_count = powers[:, -1:], total[:, -1:], int(count[0, -1, 0])
        prior = self.frontend.PRIOR_FRAMES
        return (mel - (total + prior * self.frontend.prior) / (count + prior)) * 0.33

    def state_bytes(self) -> int:
        """Bytes held between two calls."""
        return sum(t.numel() * t.element_size() for t in (self.samples, self.mel_sum, self.power_sum))


class EncoderStream:
    """Feed audio chunks of any size; get the encoder frames that have become final.

    Raises ValueError when the encoder needs the whole clip: unlimited attention or ``normalize="clip"``.
    """

    def __init__(self, frontend: LogMel, encoder: Conformer) -> None:
        if None in encoder.context_frames():
            raise ValueError("streaming needs past_frames and future_frames; the encoder attends to the whole clip")
        self.encoder = encoder
        self.log_mel = FeatureStream(frontend)
        self.blocks = [_BlockStream(block) for block in encoder.blocks]  # type: ignore[arg-type]
        self.features: Tensor = torch.zeros(1, 0, frontend.n_mels)

    @torch.no_grad()
    def push(self, audio: Tensor, final: bool = False) -> Tensor:
        """Audio (samples,) to new encoder frames (n, d); ``final`` flushes the look-ahead at the end of the stream."""
        self.features = torch.cat([self.features, self.log_mel.push(audio)], dim=1)
        hidden = self._subsample()
        for block in self.blocks:
            hidden = block.push(hidden, final)
        return hidden[0]

    def _subsample(self) -> Tensor:
        ready = ((self.features.shape[1] - 1) // 2 - 1) // 2
        if ready <= 0:
            return torch.zeros(1, 0, self.encoder.dim)
        # ready outputs read features up to 4 * (ready - 1) + 6; the next output starts at 4 * ready.
        hidden = self.encoder.subsampling(self.features[:, : 4 * (ready - 1) + 7])
        self.features = self.features[:, 4 * ready :]
        return hidden

    def state_bytes(self) -> int:
        """Bytes held between two calls."""
        kept = [w.kept for b in self.blocks for w in (b.attention, b.convolution) if w.kept is not None]
        return self.log_mel.state_bytes() + sum(t.numel() * t.element_size() for t in [self.features, *kept])


def bounded_state_bytes(frontend: LogMel, encoder: Conformer) -> int | None:
    """Upper bound of `EncoderStream.state_bytes` between two calls, float32; None if the encoder does not stream."""
    if None in encoder.context_frames() or frontend.normalize == "clip":
        return None
    frames = sum(int(w.past or 0) + int(w.future or 0) for w in encoder.windows())
    return 4 * (frames * encoder.dim + 6 * frontend.n_mels + frontend.window + frontend.n_mels + 1)
