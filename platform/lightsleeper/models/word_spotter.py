"""Spotting and locating many words in running speech, with computation that follows the content.

A windowed streaming conformer with a gate on every module (Bittar et al., ICASSP 2024, papers/dynamic_conformer), its
ungated form, and the convolutional baseline (BC-ResNet; Samragh et al., ICASSP 2023). Clips, streams and the exported
graph run through the same causal layers from the zero state. What the papers leave open is decided and said in
nn/spotting, nn/gates and nn/gated_conformer.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.models.family import Batch, ExportGraph, read_model
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.spotter_judging import JudgedSpotter, Steps
from lightsleeper.models.word_spotter_graph import hop_graph
from lightsleeper.nn.augment import FeatureAugment, random_gain
from lightsleeper.nn.bc_resnet import MELS
from lightsleeper.nn.gated_conformer import GatedConformer
from lightsleeper.nn.gates import open_rate
from lightsleeper.nn.optimizer import scheduled_adamw
from lightsleeper.nn.ranges import above_zero, at_least, share
from lightsleeper.nn.spotting import (
    NOTHING,
    SpottingHeads,
    box_loss,
    class_loss,
    decode_box,
    detection_loss,
    targets,
)
from lightsleeper.nn.spotting_encoders import BCResNetEncoder, ConformerEncoder, SpottingEncoder, front_end
from lightsleeper.nn.windows import SAMPLE_RATE, Windowing

CATALOG = ("WordSpotter",)


class WordSpotter(JudgedSpotter):
    """Spotter of ``classes`` words.

    Args:
        classes: How many words there are; null takes them from the data when it is set up, after compression callbacks
            have looked at the model: give the number where the heads are to be compressed.
        words: Their names, by class; null takes them from the data or the parent.
        parent: Run or export folder of a finished WordSpotter of the same sizes to start from: an ungated one gets
            gates, new words new heads.
        encoder: conformer, or bc_resnet, the published baseline, which has no gates.
        dim: Width of the conformer. Published: 80, small 40.
        blocks: Conformer blocks. Published: 8, small 3.
        heads: Attention heads.
        kernel: Depthwise kernel in steps of 40 ms, odd.
        expansion: Feed-forward width over ``dim``.
        subsampling: conv2d, or conv1d, ours and several times faster on a CPU.
        dropout: Dropout of the conformer.
        tau: Width of the BC-ResNet in units of 8 channels.
        n_mels: Mel bands of the front end; a BC-ResNet takes 40.
        normalize: none, as published, or exponential, which subtracts a mean spectrum that forgets: level and channel
            disappear. It is the one thing that then reaches further back than a window.
        adapt_seconds: Time constant of that mean.
        window_ms: What the encoder sees at once. Published: 1200.
        slide_ms: How far it moves, and how often it answers. Published: 240.
        gated: Whether every module of the conformer has a gate.
        gate_penalty: Weight of the share of open gates in the loss (lambda). Published: 1.
        gate_free_epochs: Epochs before the gates are used; none where the parent is trained.
        temperature: Of the gates' Gumbel-softmax samples.
        nothing: Share of every word seen below which a step is taught "no keyword".
        box_weight: Weight of the localisation loss. Published: unknown, 1 taken.
        train_stride: Of the windows of a clip, every so manieth is trained on, at a place drawn for each batch.
            Published: 1; neighbours overlap by most of their length.
        gain_db: Lowest and highest gain drawn for each training clip, before the front end.
        warp: Vocal-tract warp in training, as a share of the mel axis.
        noise: Share of training clips that get extra noise in the feature domain.
        masks: SpecAugment frequency masks in training; a time mask comes with the first.
        lr: Peak learning rate of AdamW. Published: 1e-3, by cosine to 1e-4 (here to 2 % of the peak).
        warmup_steps: Steps until the peak; a cosine follows.
        weight_decay: Decoupled weight decay.

    Raises ValueError for values without sense or sizes that do not fit, UserError for a parent that cannot be read.
    """

    heads: SpottingHeads

    def __init__(
        self,
        classes: int | None = None,
        words: list[str] | None = None,
        parent: str | Path | None = None,
        encoder: Literal["conformer", "bc_resnet"] = "conformer",
        dim: int = 64,
        blocks: int = 3,
        heads: int = 4,
        kernel: int = 15,
        expansion: int = 2,
        subsampling: Literal["conv1d", "conv2d"] = "conv1d",
        dropout: float = 0.0,
        tau: float = 2.0,
        n_mels: int = 40,
        normalize: Literal["none", "exponential"] = "none",
        adapt_seconds: float = 3.0,
        window_ms: int = 1200,
        slide_ms: int = 240,
        gated: bool = False,
        gate_penalty: float = 1.0,
        gate_free_epochs: int = 0,
        temperature: float = 1.0,
        nothing: float = NOTHING,
        box_weight: float = 1.0,
        train_stride: int = 1,
        gain_db: tuple[float, float] | None = None,
        warp: float = 0.0,
        noise: float = 0.0,
        masks: int = 0,
        lr: float = 1e-3,
        warmup_steps: int = 200,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        at_least(1, classes=classes, train_stride=train_stride)
        at_least(2, n_mels=n_mels)
        at_least(0, gate_penalty=gate_penalty, gate_free_epochs=gate_free_epochs, box_weight=box_weight, masks=masks)
        at_least(0, warmup_steps=warmup_steps, weight_decay=weight_decay)
        above_zero(lr=lr, adapt_seconds=adapt_seconds)
        share(nothing=nothing, noise=noise)
        share(warp=warp, below_one=True)
        self._refuse(encoder, gated, n_mels, gain_db)
        saved = None if parent is None else read_model(parent, "WordSpotter", "parent")
        if not words and saved is not None and classes is None:
            words = saved.init_args["words"]
        if words and classes not in (None, len(words)):
            raise ValueError(f"classes must be the number of words, {len(words)}; got {classes}")
        self._architecture: dict[str, Any] = {
            "encoder": encoder,
            "dim": dim,
            "blocks": blocks,
            "heads": heads,
            "kernel": kernel,
            "expansion": expansion,
            "subsampling": subsampling,
            "tau": tau,
            "n_mels": n_mels,
            "normalize": normalize,
            "adapt_seconds": adapt_seconds,
            "window_ms": window_ms,
            "slide_ms": slide_ms,
            "gated": gated,
        }
        self.windowing = Windowing(window_ms, slide_ms)
        self.gated, self.gate_penalty, self.gate_free_epochs = gated, gate_penalty, gate_free_epochs
        self.nothing, self.box_weight, self.train_stride, self.gain_db = nothing, box_weight, train_stride, gain_db
        self.lr, self.warmup_steps, self.weight_decay = lr, warmup_steps, weight_decay
        augment = FeatureAugment(warp, noise, masks, min(masks, 1))
        front = front_end(n_mels, augment, adapt_seconds if normalize == "exponential" else None)
        if encoder == "conformer":
            conformer = GatedConformer(dim, blocks, heads, kernel, expansion, dropout, gated, temperature)
            self.encoder: SpottingEncoder = ConformerEncoder(self.windowing, front, n_mels, subsampling, conformer)
        else:
            self.encoder = BCResNetEncoder(self.windowing, front, tau)
        self.gating = gated  # whether gates decide: not in the first epochs of a fit
        if words or classes is not None:
            self._build_heads(words or [], classes or len(words or []))
        if saved is not None:
            self._start_from(saved)

    @staticmethod
    def _refuse(encoder: str, gated: bool, n_mels: int, gain_db: tuple[float, float] | None) -> None:
        if encoder == "bc_resnet" and gated:
            raise ValueError("gated must be false for a bc_resnet: the gates are the conformer's")
        if encoder == "bc_resnet" and n_mels != MELS:
            raise ValueError(f"n_mels must be {MELS} for a bc_resnet; got {n_mels}")
        if gain_db is not None and not -120 <= gain_db[0] <= gain_db[1] <= 60:
            raise ValueError(f"gain_db must be a lowest and a highest gain from -120 to 60; got {list(gain_db)}")

    # Words.

    def _build_heads(self, words: Sequence[str], classes: int) -> None:
        self.heads = SpottingHeads(self.encoder.width, classes, self.encoder.pool)
        self._name(words)

    def _name(self, words: Sequence[str]) -> None:
        if words:
            self.words = list(words)
            self.judge_words()

    def _start_from(self, saved: Any) -> None:
        weights = saved.weights()
        if not self.words or saved.init_args["words"] != self.words:
            weights = {name: value for name, value in weights.items() if not name.startswith("heads.")}
        try:
            missing, unexpected = self.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise saved.misfit(error, "parent") from error
        new = [name for name in missing if not name.startswith("heads.") and ".gates." not in name]
        if new or unexpected:
            other = (new or unexpected)[0]
            raise UserError(f"parent: sizes differ from '{saved.folder}': {other} is in one of the two only")
        self.threshold.fill_(math.nan)

    def setup(self, stage: str) -> None:
        found = list(getattr(getattr(self.trainer, "datamodule", None), "words", None) or [])
        if "heads" not in self._modules:
            if not found:
                raise UserError("model.classes: how many words? The data names none.")
            self._build_heads(found, len(found))
        elif self.words and found and found != self.words:
            raise UserError(f"model.words are {_few(self.words)}, but those of the data {_few(found)}.")
        elif found and len(found) != self.heads.classes:
            raise UserError(f"model.classes is {self.heads.classes}, but the data has {len(found)} words.")
        elif not self.words:
            self._name(found or [str(number) for number in range(self.heads.classes)])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["words"] = self.words

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        words = checkpoint["words"]
        if "heads" not in self._modules:
            self._build_heads(words, len(words))
        self._name(words)

    def architecture(self) -> dict[str, Any]:
        return {"words": self.words, **self._architecture}

    # Streams.

    @property
    def hop_samples(self) -> int:
        return self.windowing.slide_samples

    def initial(self, batch: int = 1) -> Tensor:
        """The state (batch, S) before anything was heard: zeros."""
        return self.threshold.new_zeros(batch, self.encoder.chain.state_size)

    def stream(self, audio: Tensor, state: Tensor) -> Steps:
        """The next chunk (B, k hops) of 16 kHz audio in [-1, 1] of streams that are at ``state``."""
        windows, state = self.encoder.chain.stream(audio, state)
        batch, hops = windows.shape[:2]
        hidden, gates = self.encoder(windows.flatten(0, 1))
        found = self.heads.find(hidden)
        at = self.windowing.begin_s(torch.arange(hops, device=audio.device)).to(hidden.dtype).repeat(batch, 1)
        sees, step_s = self.windowing.receptive_s, self.windowing.step_s
        begin, end = decode_box(found.width.clamp_min(0), found.offset, at, sees, step_s)
        # What a step has not seen it cannot place; and so a later step never begins earlier.
        begin, end = (torch.minimum(torch.maximum(time, at), at + sees) for time in (begin, end))
        score, word, begin, end = (value.reshape(batch, -1) for value in (found.score, found.word, begin, end))
        return Steps(score, word, begin, end, None if gates is None else gates.unflatten(0, (batch, hops)), state)

    def forward(self, audio: Tensor) -> Steps:
        """Clips (B, S) as streams that begin with them; a last part of a hop is left out."""
        whole = audio[:, : audio.shape[1] // self.hop_samples * self.hop_samples]
        return self.stream(whole, self.initial(len(audio)).to(audio))

    def example_input(self) -> Tensor:
        return sample_audio(0, 5.0 * self.windowing.slide_ms)

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        gates = losses.pop("open", None)
        loss = torch.stack([*losses.values()]).sum()
        if gates is not None:
            loss = loss + self.gate_penalty * gates
        elif self.gated and self.trainer.world_size > 1:  # DistributedDataParallel waits for every parameter's gradient
            loss = loss + 0.0 * torch.stack([weight.sum() for weight in self.encoder.gate_parameters()]).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["audio"]))
        parts = losses if gates is None else {**losses, "open": gates}
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, batch_size=len(batch["audio"]))
        return loss

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``detection``, ``classification``, ``localisation`` and, with gates in use, ``open``, their open rate."""
        hop = self.hop_samples
        shift = int(torch.randint(hop, ()))  # words begin anywhere in a hop
        audio = random_gain(batch["audio"], self.gain_db)
        audio = F.pad(audio, (shift, hop + -(audio.shape[1] + shift) % hop))
        windows, _ = self.encoder.chain.stream(audio, self.encoder.chain.initial(audio))
        hops = torch.arange(windows.shape[1], device=audio.device)
        first = int(torch.randint(self.train_stride, ()))
        taken = (hops - first) % self.train_stride == 0
        # Up to the hop after a clip's last sample: what follows pads the batch.
        heard = hops * hop < batch["samples"][:, None] + shift + hop
        clip, number = (taken & heard).nonzero(as_tuple=True)
        hidden, gates = self.encoder(windows[clip, number])
        pooled = self.heads(hidden)
        shift_s = shift / SAMPLE_RATE
        target = targets(
            batch["word"][clip],
            batch["begin_s"][clip] + shift_s,
            batch["end_s"][clip] + shift_s,
            self.windowing.begin_s(number),
            self.heads.classes,
            self.windowing,
            self.nothing,
        )
        width, offset = self.heads.boxes(hidden, pooled.index, *target.places.unbind(1))
        found = {
            "detection": detection_loss(pooled.detection, target.detection),
            "classification": class_loss(pooled.classes, target.word),
            "localisation": self.box_weight * box_loss(width, offset, target),
        }
        return found if gates is None or not self.gating else {**found, "open": open_rate(gates)}

    @property
    def settled(self) -> bool:
        """Whether an epoch may ship: with gates only one that used them."""
        return self.gating or not self.gated

    def on_fit_start(self) -> None:
        epochs = self.trainer.max_epochs
        if self.gated and epochs is not None and 0 <= epochs <= self.gate_free_epochs:
            raise UserError(
                f"trainer.max_epochs {epochs} leaves no epoch for the gates after "
                f"model.gate_free_epochs {self.gate_free_epochs}."
            )

    def on_train_epoch_start(self) -> None:
        self.gating = self.gated and self.current_epoch >= self.gate_free_epochs
        self.encoder.use_gates(self.gating)

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(
            self.trainer, self.parameters(), self.lr, self.weight_decay, "cosine", self.warmup_steps, "matrices"
        )

    # The deliverable.

    def context(self) -> dict[str, float | None]:
        """The oldest output step of a hop waits for the newest, for so long beyond its own 40 ms."""
        ahead = float(self.windowing.slide_ms - 1000 * self.windowing.step_s)
        past = 1000.0 * (self.encoder.chain.past + 1) / SAMPLE_RATE - ahead * self.encoder.looks_ahead
        return {"past_ms": past, "future_ms": ahead, "state_bytes": 4.0 * self.encoder.chain.state_size}

    def export_spec(self) -> list[ExportGraph]:
        """None before it is known how many words there are."""
        return [hop_graph(self)] if "heads" in self._modules else []


def _few(words: Sequence[str], count: int = 5) -> str:
    return ", ".join(words[:count]) + (f", ... ({len(words)})" if len(words) > count else "")
