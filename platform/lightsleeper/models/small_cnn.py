"""A small plain CNN over log-mel frames that tells single words apart, trained with redundant branches or without.

In the spirit of RepCNN (Kundu et al., Interspeech 2024, arXiv 2406.02652), whose sizes and recipe we could not
establish; everything here is our choice (papers/repcnn 4.3): windows of 30 ms every 10 ms, one convolution of stride 2,
separable blocks with growing depthwise kernels, the mean over time, one linear layer. Both convolutions of a block get
branches, as in MobileOne. ``branches: 0`` is the plain network; `FoldOnExport` turns either into the same deliverable:
convolutions, ReLUs, a mean and a linear layer.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightsleeper_callbacks.repconv import RepConv1d
from torch import Tensor, nn

from lightsleeper.models.word_classifier import HOP_MS, WINDOW_MS, WordClassifier
from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.ranges import above_zero, at_least
from lightsleeper.nn.streaming import FeatureStream

CATALOG = ("SpokenWordCNN",)

FIRST_KERNEL, FIRST_STRIDE = 5, 2
FRAME_MS = HOP_MS * FIRST_STRIDE  # of everything behind the first convolution


class ConvLayer(nn.Module):
    """One convolution over time with its norms, and a ReLU. Causal: zeros before the start stand for the past."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        branches: int = 0,
        scale: bool = True,
        skip: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.past, self.stride, self.inputs = kernel - 1 if causal else 0, stride, inputs
        self.pad = nn.ZeroPad1d((self.past, 0)) if self.past else nn.Identity()
        if branches:
            self.conv: nn.Module = RepConv1d(
                inputs, outputs, kernel, stride, groups=groups, branches=branches, scale=scale, skip=skip, causal=causal
            )
        else:
            padding = 0 if causal else kernel // 2
            plain = nn.Conv1d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
            self.conv = nn.Sequential(plain, nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.pad(x)))


class SpokenWordCNN(WordClassifier):
    """Plain CNN with re-parameterisable convolutions over log-mel frames, one class per word.

    Args:
        words: Words to tell apart, in the order of the data's.
        n_mels: Mel bands of the front end.
        width: Channels of all layers.
        kernels: Taps of the depthwise convolutions, one block each; odd, in frames of 20 ms.
        branches: Branches with the whole kernel that each convolution trains with. 0: plain convolution and norm.
        scale: Each convolution also has a branch with one tap.
        skip: Each convolution also has a branch that is a norm only, where input and output match.
        causal: Convolutions see the past only; with ``normalize`` running or none the network streams.
        normalize: clip subtracts the clip's mean spectrum; running does so causally; none.
        pool_seconds: Stretch over which a stream averages. Clips are averaged whole.
        gain_db: Lowest and highest gain drawn for each training clip, before the front end. Peers of RepCNN: -40, 10.
        warp: Vocal-tract warp in training, as a share of the mel axis.
        noise: Share of training clips that get extra noise in the feature domain.
        masks: SpecAugment frequency masks in training; a time mask comes with the first.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps until the peak; a cosine follows.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        words: list[str],
        n_mels: int = 40,
        width: int = 32,
        kernels: Sequence[int] = (7, 9, 11, 13),
        branches: int = 4,
        scale: bool = True,
        skip: bool = True,
        causal: bool = False,
        normalize: Literal["clip", "running", "none"] = "clip",
        pool_seconds: float = 1.0,
        gain_db: tuple[float, float] | None = None,
        warp: float = 0.0,
        noise: float = 0.0,
        masks: int = 0,
        lr: float = 5e-3,
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
    ) -> None:
        augment = FeatureAugment(warp, noise, masks, min(masks, 1))
        super().__init__(words, n_mels, normalize, gain_db, augment, lr, warmup_steps, weight_decay)
        at_least(1, width=width)
        at_least(0, branches=branches)
        above_zero(pool_seconds=pool_seconds)
        if not kernels or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd numbers of taps, one a block; got {list(kernels)}")
        self._architecture |= {
            "width": width,
            "kernels": list(kernels),
            "branches": branches,
            "scale": scale,
            "skip": skip,
            "causal": causal,
            "pool_seconds": pool_seconds,
        }
        self.causal = causal
        self.pool_frames = max(1, round(1000 * pool_seconds / FRAME_MS))
        how: dict[str, Any] = {"branches": branches, "scale": scale, "skip": skip, "causal": causal}
        layers = [ConvLayer(n_mels, width, FIRST_KERNEL, FIRST_STRIDE, **how)]
        for kernel in kernels:
            layers += [ConvLayer(width, width, kernel, groups=width, **how), ConvLayer(width, width, 1, **how)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, len(words))

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, T, mel) to logits (B, words)."""
        return self.head(self.layers(features.transpose(1, 2)).mean(2))

    def streaming(self) -> "WordStream":
        """A fresh stream. Raises ValueError where the network looks ahead."""
        return WordStream(self)

    def context(self) -> dict[str, float | None]:
        """Of the logits: what the front end and the convolutions see, and what is averaged."""
        if not self.causal or self.frontend.normalize == "clip":
            return {"past_ms": None, "future_ms": None, "state_bytes": None}
        first, *blocks = self._conv_layers()
        past_ms = WINDOW_MS + first.past * HOP_MS
        past_ms += (sum(layer.past for layer in blocks) + self.pool_frames - 1) * FRAME_MS
        kept = sum(layer.past * layer.inputs for layer in (first, *blocks)) + (self.pool_frames - 1) * self._width()
        kept += self.frontend.window + self.frontend.n_mels + 1
        return {"past_ms": past_ms, "future_ms": 0.0, "state_bytes": 4.0 * kept}

    def _conv_layers(self) -> list[ConvLayer]:
        return [layer for layer in self.layers if isinstance(layer, ConvLayer)]

    def _width(self) -> int:
        return self.head.in_features


class _LayerStream:
    """One causal convolution over an endless sequence: keeps the frames that its next outputs still see."""

    def __init__(self, layer: ConvLayer) -> None:
        self.layer = layer
        self.kept = torch.zeros(1, layer.inputs, layer.past)  # as the offline layer is padded

    def push(self, x: Tensor) -> Tensor:
        """(1, inputs, n) to (1, outputs, m), the outputs that have become complete."""
        self.kept = torch.cat([self.kept, x], dim=2)
        ready = (self.kept.shape[2] - self.layer.past - 1) // self.layer.stride + 1
        if ready <= 0:
            return x.new_zeros(1, 0, 0)
        last = (ready - 1) * self.layer.stride + self.layer.past + 1
        y = F.relu(self.layer.conv(self.kept[:, :, :last]))
        self.kept = self.kept[:, :, ready * self.layer.stride :]
        return y


class WordStream:
    """Feed audio in chunks of any size; get the logits of every frame of 20 ms.

    A frame's logits are those of the mean over the last ``pool_seconds``, or over all so far: the last ones of a clip
    that is no longer equal the offline forward. Raises ValueError where the network looks ahead.
    """

    def __init__(self, model: SpokenWordCNN) -> None:
        if not model.causal:
            raise ValueError("streaming needs causal: true; centred convolutions look ahead")
        self.model = model
        self.features = FeatureStream(model.frontend)
        self.layers = [_LayerStream(layer) for layer in model._conv_layers()]
        self.hidden = torch.zeros(1, model._width(), 0)

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Audio (samples,) to logits (n, words) of the n frames that have become complete."""
        x = self.features.push(audio).transpose(1, 2)
        for layer in self.layers:
            if not x.shape[2]:
                return torch.zeros(0, len(self.model.words))
            x = layer.push(x)
        if not x.shape[2]:
            return torch.zeros(0, len(self.model.words))
        longest, before = self.model.pool_frames, self.hidden.shape[2]
        self.hidden = torch.cat([self.hidden, x], dim=2)
        means = [
            self.hidden[0, :, max(0, end - longest) : end].mean(1)
            for end in range(before + 1, self.hidden.shape[2] + 1)
        ]
        self.hidden = self.hidden[:, :, max(0, self.hidden.shape[2] - longest + 1) :]
        return self.model.head(torch.stack(means))

    def state_bytes(self) -> int:
        """Bytes held between two calls."""
        kept = [*(layer.kept for layer in self.layers), self.hidden]
        return self.features.state_bytes() + sum(t.numel() * t.element_size() for t in kept)
