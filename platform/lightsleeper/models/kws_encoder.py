"""The audio encoder of the keyword families: a conformer trained with CTC on phones.

Published (papers/dsp 3.1): conformer pre-trained with CTC on characters, then frozen. Phones instead of characters are
ours: typed keywords become phones anyway, and the same head then scores them (nn/ctc). Sizes in recipes are ours
unless an overlay says published.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.text import WordErrorRate

from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Batch, ExportGraph, SavedModel, read_model
from lightsleeper.models.keyword import KeywordFamily
from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.conformer import Conformer
from lightsleeper.nn.ctc import greedy_phones, keyword_score
from lightsleeper.nn.frontend import LogMel
from lightsleeper.nn.optimizer import Schedule, scheduled_adamw
from lightsleeper.nn.ranges import above_zero, at_least, share
from lightsleeper.nn.streaming import EncoderStream, bounded_state_bytes
from lightsleeper.phones import CLASSES, PHONES

CATALOG = ("PhonemeCTC",)

SAMPLE_RATE = 16_000  # Hz
FRAME_MS = 40.0  # one encoder frame: four hops of 10 ms
REACH_MS = 45.0  # by which its seven feature frames of 25 ms reach beyond it
AUGMENT = ("warp", "noise", "masks", "dropout")  # arguments that matter in training only


class PhonemeCTC(KeywordFamily):
    """Conformer encoder with a CTC head over 39 phones and blank.

    Args:
        init_from: Run or export folder of a finished PhonemeCTC of the same sizes to start from (fine-tuning).
        n_mels: Mel bands of the front end. Published: 80.
        dim: Width of the encoder. Published: 144.
        blocks: Conformer blocks. Published: 6.
        heads: Attention heads.
        kernel: Depthwise kernel in encoder frames of 40 ms, odd. Published: 3.
        expansion: Feed-forward width over ``dim``. Published (standard conformer): 4.
        subsampling: conv2d as published, or conv1d, ours and several times faster on a CPU.
        past_frames: Encoder frames of past each attention sees; null is the whole clip.
        future_frames: Encoder frames of future (look-ahead) each attention sees; null is the whole clip.
        causal: Convolutions see the past only.
        normalize: clip subtracts the clip's mean spectrum; running does so causally and streams; none.
        dropout: Dropout inside the blocks.
        warp: Vocal-tract warp in training, as a share of the mel axis.
        noise: Share of training clips that get extra noise in the feature domain.
        masks: SpecAugment frequency masks in training; a time mask comes with the first.
        lr: Peak learning rate of AdamW.
        schedule: cosine to 2 % of ``lr``, or noam (published).
        warmup_steps: Steps until the peak.
        weight_decay: Decoupled weight decay.
    """

    headline = ("test/ctc_auc_hard", "test/per")

    def __init__(
        self,
        init_from: str | Path | None = None,
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
        normalize: Literal["clip", "running", "none"] = "clip",
        dropout: float = 0.0,
        warp: float = 0.12,
        noise: float = 0.3,
        masks: int = 2,
        lr: float = 2e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 200,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__({"ctc": "ctc_"})
        at_least(2, n_mels=n_mels)  # the warp interpolates between two bands
        at_least(0, masks=masks, warmup_steps=warmup_steps, weight_decay=weight_decay)
        above_zero(lr=lr)
        share(noise=noise)
        share(warp=warp, below_one=True)
        self._architecture = {
            "n_mels": n_mels,
            "dim": dim,
            "blocks": blocks,
            "heads": heads,
            "kernel": kernel,
            "expansion": expansion,
            "subsampling": subsampling,
            "past_frames": past_frames,
            "future_frames": future_frames,
            "causal": causal,
            "normalize": normalize,
            "dropout": dropout,  # these four matter to whoever trains it on
            "warp": warp,
            "noise": noise,
            "masks": masks,
        }
        self.lr, self.schedule = lr, schedule
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay
        self.frontend = LogMel(n_mels, SAMPLE_RATE, normalize=normalize)
        self.augment = FeatureAugment(warp, noise, masks, min(masks, 1))
        self.conformer = Conformer(
            n_mels, dim, blocks, heads, kernel, expansion, subsampling, past_frames, future_frames, causal, dropout
        )
        self.head = nn.Linear(dim, CLASSES)
        if init_from is not None:
            self._start_from(read_model(init_from, "PhonemeCTC", "init_from"))
        self.error_rate = WordErrorRate()

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    def _start_from(self, start: SavedModel) -> None:
        try:
            self.load_state_dict(start.weights())
        except RuntimeError as error:
            raise start.misfit(error) from error

    def encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, S) with ``lengths`` (B,) samples to hidden (B, N, d) and encoder frames (B,)."""
        mel = self.frontend.power(audio)
        frames = self.frontend.frames(lengths)
        features = self.frontend.center(self.augment(mel, frames), frames)
        return self.conformer(features, frames)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Hidden (..., d) to log-probabilities (..., 40), float32."""
        return self.head(hidden).float().log_softmax(-1)

    def encode_clip(self, audio: Tensor) -> Tensor:
        """`encode` of unpadded audio (B, S), as the exported graph sees it: hidden (B, N, d)."""
        return self.conformer(self.frontend.center(self.frontend.power(audio), None))[0]

    def forward(self, audio: Tensor) -> Tensor:
        """Unpadded audio (B, S) to phone log-probabilities (B, N, 40)."""
        return self.log_probs(self.encode_clip(audio))

    def ctc_loss(self, log_probs: Tensor, frames: Tensor, phones: Tensor) -> Tensor:
        counts = (phones > 0).sum(1)
        # zero_infinity: a phrase spoken too fast for 40 ms frames has no path and teaches nothing.
        return F.ctc_loss(log_probs.transpose(0, 1), phones, frames, counts, zero_infinity=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hidden, frames = self.encode(batch["audio"], batch["audio_lengths"])
        loss = self.ctc_loss(self.log_probs(hidden), frames, batch["phones"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(frames))
        return loss

    def score(self, batch: Batch) -> dict[str, Tensor]:
        hidden, frames = self.encode(batch["audio"], batch["audio_lengths"])
        return {"ctc": keyword_score(self.log_probs(hidden), frames, batch["phones"])}

    def observe(self, batch: Batch) -> None:
        hidden, frames = self.encode(batch["audio"], batch["audio_lengths"])
        log_probs = self.log_probs(hidden)
        self._metric("ctc").update(keyword_score(log_probs, frames, batch["phones"]), batch)
        said = batch["label"] == 1
        if said.any():
            heard = greedy_phones(log_probs[said], frames[said])
            self.error_rate.update([_spell(p) for p in heard], [_spell(p) for p in batch["phones"][said].tolist()])

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        return {**super().results(prefix, intervals), f"{prefix}per": Measurement(float(self.error_rate.compute()))}

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(
            self.trainer, self.parameters(), self.lr, self.weight_decay, self.schedule, self.warmup_steps
        )

    def context(self) -> dict[str, float | None]:
        past, future = self.conformer.context_frames()
        return {
            "past_ms": None if past is None else (past + 1) * FRAME_MS,
            "future_ms": None if future is None else future * FRAME_MS + REACH_MS,
            "state_bytes": bounded_state_bytes(self.frontend, self.conformer),
        }

    def streaming(self) -> EncoderStream:
        """A fresh stream; its frames equal the offline forward. Raises ValueError if the encoder needs whole clips."""
        return EncoderStream(self.frontend, self.conformer)

    def export_spec(self) -> list[ExportGraph]:
        return [
            ExportGraph(
                name="model",
                module=self,
                sample=lambda seed: {"audio": sample_audio(seed)},
                outputs=["log_probs"],
                dynamic={"audio": {1: "samples"}},
                metadata={
                    "family": type(self).__name__,
                    "sample_rate": str(SAMPLE_RATE),
                    "phones": " ".join(PHONES),
                    "frame_ms": str(FRAME_MS),
                    "threshold": repr(float(self.threshold)),
                },
                bench=lambda ms: {"audio": sample_audio(0, ms)},
            )
        ]


def load_encoder(
    source: str | Path | dict[str, Any], augment: Mapping[str, float]
) -> tuple[PhonemeCTC, dict[str, Any]]:
    """A PhonemeCTC and its architecture from a run or export folder, or from an architecture alone.

    ``augment`` replaces the augmentation it was trained with. Raises UserError when the folder holds no finished
    encoder, ValueError for an argument that is none.
    """
    if unknown := augment.keys() - AUGMENT:
        raise ValueError(f"encoder_augment: {', '.join(sorted(unknown))} is none of {', '.join(AUGMENT)}")
    if "masks" in augment:  # a recipe's numbers by name are all read as float
        if augment["masks"] != int(augment["masks"]):
            raise ValueError(f"encoder_augment: masks must be a whole number, got {augment['masks']}")
        augment = {**augment, "masks": int(augment["masks"])}
    if isinstance(source, dict):
        try:
            encoder = PhonemeCTC(**{**source, **augment})
        except (TypeError, ValueError) as error:
            raise ValueError(f"encoder: {str(error).removeprefix('PhonemeCTC.__init__() ')}") from error
        return encoder, encoder.architecture()
    saved = read_model(source, "PhonemeCTC", "encoder")
    encoder = PhonemeCTC(**{**saved.init_args, **augment})
    encoder.load_state_dict(saved.weights())
    return encoder, encoder.architecture()


def sample_audio(seed: int, ms: float | None = None) -> Tensor:
    """Noise with a speech-like spectrum and syllable rhythm, (1, samples); 400 to 1900 ms by seed unless given."""
    generator = torch.Generator().manual_seed(seed)
    ms = 400.0 + 500.0 * (seed % 4) if ms is None else ms
    samples = int(SAMPLE_RATE * ms / 1000)
    white = torch.randn(samples, generator=generator)
    pink = torch.fft.irfft(torch.fft.rfft(white) / (1 + torch.arange(samples // 2 + 1) / 50).sqrt(), samples)
    rhythm = 0.55 + 0.45 * torch.sin(2 * math.pi * 4.0 * torch.arange(samples) / SAMPLE_RATE)  # 4 syllables a second
    return (0.1 * rhythm * pink / pink.std())[None]


def _spell(phones: list[int]) -> str:
    return " ".join(PHONES[p - 1] for p in phones if p)
