"""Who is speaking, face by face and frame by frame, within a budget of past and future (papers/realtime_asd).

Light-ASD's encoders, its two GRUs and losses (Liao et al., CVPR 2023); beside them, for streams, encoders that see no
frame ahead, and a fusion that sees a limited number of them or none (Kundu et al., arXiv 2409.09018). That paper's
layers, widths and tables are not known: what it leaves open is decided and said in nn/light_asd, nn/limited_attention.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.metrics.active_speaker import SPEAKING, ActiveSpeakerAP
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.active_speaker_graphs import graphs
from lightsleeper.models.active_speaker_start import start_encoders, start_whole
from lightsleeper.models.family import Batch, ExportGraph, Family
from lightsleeper.nn import light_asd_weights
from lightsleeper.nn.ranges import above_zero, at_least, share
from lightsleeper.nn.speaker_net import FusionName, FusionSpec, Modality, SpeakerNet

CATALOG = ("ActiveSpeaker",)
BLOCK = 256  # frames that causal encoders see at once in a test: a long track needs no more memory than a short one


class ActiveSpeaker(Family):
    """Detector of who speaks.

    Args:
        init_from: Run or export folder of a finished ActiveSpeaker of the same sizes to start from; its budget may be
            larger, then the part of its positions that remains is taken.
        encoders_from: Such a folder to take the encoders from, whatever follows them.
        freeze: Whether those encoders stay as they are; only then embeddings may stand in for faces and sound.
        weights: File of published Light-ASD weights (a state dict); needs size light_asd, time published, fusion bigru.
        size: Of the encoders: light_asd (1.0 M parameters with its fusion), or small, ours.
        time: What the encoders see: published, 6 frames ahead; causal, none; framewise, their own frame only.
        fusion: transformer, with limited context; gru, all of the past; bigru, the whole clip, as published.
        layers: Of the transformer.
        past_frames: Frames behind a frame that each layer of the transformer sees; null: all.
        future_frames: Frames ahead that all its layers see together, the delay of a decision; null: all.
        spread_future: Whether these are spread over the layers; else the first layer sees them all.
        heads: Attention heads.
        dropout: Of the transformer.
        sample_budgets: Whether each batch is trained with a budget drawn for it, of at most past_frames and
            future_frames: one model for all of them. Else every batch has the budget of the test.
        modality: both, audio or video: what the fusion is given.
        lr: Learning rate of Adam in the first epoch. Published: 1e-3.
        decay: Factor of the learning rate after every epoch. Published: 0.95.
        temperature: Divides the logits in the first epoch's loss. Published: 1.3.
        temperature_step: What an epoch takes off it. Published: 0.02, in 30 epochs.
        face_weight: Weight of the loss of the head that judges the face alone. Published: 0.5.

    Raises ValueError for values without sense or sizes that do not fit, UserError for a folder or file that cannot be
    read.
    """

    headline = ("test/map", "test/f1")
    threshold: Tensor

    def __init__(
        self,
        init_from: str | Path | None = None,
        encoders_from: str | Path | None = None,
        freeze: bool = True,
        weights: str | Path | None = None,
        size: Literal["light_asd", "small"] = "light_asd",
        time: Literal["published", "causal", "framewise"] = "causal",
        fusion: FusionName = "transformer",
        layers: int = 1,
        past_frames: int | None = 32,
        future_frames: int | None = 0,
        spread_future: bool = False,
        heads: int = 8,
        dropout: float = 0.1,
        sample_budgets: bool = False,
        modality: Modality = "both",
        lr: float = 1e-3,
        decay: float = 0.95,
        temperature: float = 1.3,
        temperature_step: float = 0.02,
        face_weight: float = 0.5,
    ) -> None:
        super().__init__()
        at_least(1, layers=layers, heads=heads)
        at_least(0, past_frames=past_frames, future_frames=future_frames, face_weight=face_weight)
        at_least(0, temperature_step=temperature_step)
        above_zero(lr=lr, decay=decay, temperature=temperature)
        share(dropout=dropout, below_one=True)
        if sample_budgets and fusion != "transformer":
            raise ValueError(f"sample_budgets must be false for fusion {fusion}: only the transformer has a budget")
        if weights is not None and (size, time, fusion) != ("light_asd", "published", "bigru"):
            raise ValueError("weights needs size light_asd, time published and fusion bigru, which it was trained as")
        self._architecture: dict[str, Any] = {
            "size": size,
            "time": time,
            "fusion": fusion,
            "layers": layers,
            "past_frames": past_frames,
            "future_frames": future_frames,
            "spread_future": spread_future,
            "heads": heads,
            "modality": modality,
        }
        self.sample_budgets, self.face_weight = sample_budgets, face_weight
        self.lr, self.decay, self.temperature, self.temperature_step = lr, decay, temperature, temperature_step
        spec = FusionSpec(fusion, layers, past_frames, future_frames, spread_future, heads, dropout)
        self.net = SpeakerNet(size, time, spec, modality)
        self.register_buffer("threshold", torch.tensor(math.nan))
        self.metric = ActiveSpeakerAP()
        self.encoders_from = None if encoders_from is None else Path(encoders_from)
        if weights is not None:
            self.net.load_state_dict(light_asd_weights.read(weights))
        if init_from is not None:
            start_whole(self.net, init_from)
        if encoders_from is not None:
            start_encoders(self.net, encoders_from, dict(self._architecture))
        self.frozen = freeze and encoders_from is not None
        if self.frozen:
            self.net.encoders.requires_grad_(False)
            self.net.face_head.requires_grad_(False)
            self.train()

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    # Training.

    def train(self, mode: bool = True) -> "ActiveSpeaker":
        super().train(mode)
        if self.frozen:
            self.net.encoders.eval()  # their batch norms keep the statistics they came with
        return self

    def setup(self, stage: str) -> None:
        made_by = getattr(getattr(self._trainer, "datamodule", None), "encoder", None)
        if stage != "fit" or made_by is None:
            return
        if not self.frozen:
            raise UserError("model: embeddings stand for encoders that do not learn: give encoders_from, freeze true.")
        if self.encoders_from is None or Path(made_by).resolve() != self.encoders_from.resolve():
            raise UserError(f"model.encoders_from is {self.encoders_from}, but the embeddings are those of {made_by}.")

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (B, T, dim) of sound and of faces: made now, or those that came with the batch."""
        if "face_embedding" in batch:
            return batch["sound_embedding"], batch["face_embedding"]
        faces, mfcc, encoders = batch["faces"], batch["mfcc"], self.net.encoders
        self._refuse_pixels(faces)
        if self.training or encoders.future or faces.shape[1] <= BLOCK:
            return encoders(faces, mfcc)
        state = self.net.initial(len(faces))[:, : encoders.state_size]
        parts = []
        for seen, heard in zip(faces.split(BLOCK, 1), mfcc.split(4 * BLOCK, 1), strict=True):
            *vectors, state = encoders.stream(seen, heard, state)
            parts.append(vectors)
        sound, face = (torch.cat(vectors, 1) for vectors in zip(*parts, strict=True))
        return sound, face

    def _refuse_pixels(self, faces: Tensor) -> None:
        edge = self.net.encoders.size.pixels
        if faces.shape[-1] % edge:
            raise UserError(
                f"faces of {faces.shape[-1]} pixels do not fit encoders for {edge}: choose the data's size."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        loss = torch.stack([*losses.values()]).sum()
        shown = {f"train/{name}": value for name, value in losses.items()}
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["label"]))
        self.log_dict(shown, batch_size=len(batch["label"]))
        return loss

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of both (``fused``), and unless it is frozen of the ``face`` alone. Binary cross-entropy on a softmax of two
        logits is the cross-entropy of these, which is how it is computed here."""
        sound, face = self.embed(batch)
        label, heat = batch["label"], self.heat(self.current_epoch)
        past, future = self._budget()
        found = {"fused": self._loss(self.net.judge(sound, face, past, future), label, heat)}
        if not self.frozen and self.net.modality != "audio" and self.face_weight:
            found["face"] = self.face_weight * self._loss(self.net.face_head(face), label, heat)
        return found

    def heat(self, epoch: int) -> float:
        """Temperature of the loss in an ``epoch``, which counts from 0. Never below a step."""
        return max(self.temperature - self.temperature_step * epoch, self.temperature_step, 1e-3)

    @staticmethod
    def _loss(logits: Tensor, label: Tensor, heat: float) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1).float() / heat, label.flatten())

    def _budget(self) -> tuple[int | None, int | None]:
        """Of this batch: that of the test, or one drawn with sides of 2^u - 1 frames, u uniform."""
        if not self.sample_budgets:
            return None, None
        past, future = (self._architecture[name] for name in ("past_frames", "future_frames"))
        return _drawn(past), _drawn(future)

    def configure_optimizers(self) -> Any:
        trained = [value for value in self.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(trained, self.lr)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)]

    # Validation and test.

    def forward(self, batch: Batch, past: int | None = None, future: int | None = None) -> Tensor:
        """Scores (B, T): probabilities that the face speaks; ``past``, ``future`` narrow the budget."""
        return self.net.judge(*self.embed(batch), past, future).float().softmax(-1)[..., 1]

    def observe(self, batch: Batch) -> None:
        self.metric.update(self(batch)[0], batch)

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        """F1 is at the calibrated threshold, in validation at 0.5."""
        self.metric.threshold = 0.5 if self.threshold.isnan() or not intervals else float(self.threshold)
        return self.metric.results(prefix, intervals)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Threshold with the highest F1 on validation frames."""
        scores, positive = [], []
        for batch in batches:
            scores.append(self(batch).flatten().double().cpu())
            positive.append((batch["label3"].flatten() == SPEAKING).cpu())
        found = best_threshold(torch.cat(scores), torch.cat(positive))
        self.threshold.fill_(found)
        return {"value": found, "target": "highest F1 on validation frames"}

    # The deliverable.

    def context(self) -> dict[str, float | None]:
        return self.net.context()

    def export_spec(self) -> list[ExportGraph]:
        """The step of a stream, or where it does not stream the whole clip; then the encoders alone."""
        return graphs(self.net, {"threshold": repr(float(self.threshold)), "family": type(self).__name__})


def _drawn(most: int | None) -> int | None:
    """Of 0 to ``most``, small ones as often as large ones on a scale of powers of two; None stays unlimited."""
    if not most:
        return most
    return min(int((2 ** (torch.rand(()) * math.log2(most + 2))).item()) - 1, most)


def best_threshold(scores: Tensor, positive: Tensor) -> float:
    """Score of (n,) above which F1 is highest, half-way to the next one below; 0.5 without a positive."""
    if not positive.any():
        return 0.5
    order = scores.argsort(descending=True)
    ranked, found = scores[order], positive[order].double().cumsum(0)
    last = torch.ones_like(positive)  # of equal scores
    last[:-1] = ranked[1:] != ranked[:-1]
    f1 = 2 * found / (torch.arange(1, len(ranked) + 1) + found[-1])
    at = int(torch.where(last, f1, -1.0).argmax())
    below = float(ranked[at + 1]) if at + 1 < len(ranked) else 0.0
    return (float(ranked[at]) + below) / 2
