"""Wake-word detectors with one logit a frame, trained on labels of frames (nn/wake_labels)."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightsleeper.models.family import Batch
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.mining import hardest
from lightsleeper.nn.phone_head import PhoneHead, phone_loss, phone_targets
from lightsleeper.nn.ranges import above_zero, at_least
from lightsleeper.nn.wake_labels import (
    LATE_S,
    frame_labels,
    label_loss,
    max_pooling_loss,
    pooled_label_loss,
)

Labels = Literal["coverage", "end", "iou", "max_pool"]


class LabelledWakeWord(WakeWord):
    """Base of the families with one logit a frame.

    Args:
        labels: Which frames are positive: coverage (the frame sees the keyword), end (a window behind its end), iou
            (overlap with what the frame sees), or max_pool, without alignment: the best frame of the clip.
        late_s: How long after the keyword's end frames still are positive.
        pooled: Of a clip's positive and of its negative frames, only the best and the worst teach.
        positive_weight: How much a positive frame counts beside a negative one.
        hardest: Clips without the keyword to learn from, those of a batch with the largest losses; null is all. Begins
            after the warm-up. 50 is a port's default, who take it for RepCNN's.
        first_s: max_pool: the part of a clip in which no keyword can have ended.
        settings: Arguments of `WakeWord`.
    """

    def __init__(
        self,
        labels: Labels = "coverage",
        late_s: float = LATE_S,
        pooled: bool = False,
        positive_weight: float = 1.0,
        hardest: int | None = None,
        first_s: float = 0.2,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        above_zero(positive_weight=positive_weight)
        at_least(0, late_s=late_s, first_s=first_s)
        at_least(1, hardest=hardest)
        self.labels, self.late_s, self.pooled = labels, late_s, pooled
        self.positive_weight, self.hardest, self.first_s = positive_weight, hardest, first_s
        self.phone_weight, self.phone_head, self._hidden = 0.0, None, 0

    # Phones, a second thing to learn.

    phone_head: PhoneHead | None

    def learn_phones(self, weight: float, block: int, blocks: int, width: int) -> None:
        """A head behind ``block`` (from 1) learns to tell phones, in training only, and counts ``weight``; 0 is none.

        Called after ``build`` by a family whose chain is ``wakeword_cnn.separable_layers`` with ``blocks`` blocks.
        """
        at_least(0, phone_weight=weight)
        if not weight:
            return
        if not 1 <= block <= blocks:
            raise ValueError(f"phone_block must be a block from 1 to {blocks}; got {block}")
        self.phone_weight, self.phone_head = weight, PhoneHead(width)
        ends = [at + 1 for at, layer in enumerate(self.chain.layers) if isinstance(layer, nn.ReLU)]
        self._hidden = ends[2 * block]  # two ReLUs a block, one before them all

    def outputs(self, audio: Tensor) -> Tensor:
        """The chain's outputs and, where phones are learned, their logits behind them: (B, C or C + CLASSES, T)."""
        if self.phone_head is None:
            return super().outputs(audio)
        for layer in self.chain.layers[: self._hidden]:
            audio = layer(audio)
        phones = self.phone_head(audio)
        for layer in self.chain.layers[self._hidden :]:
            audio = layer(audio)
        return torch.cat([audio, phones], 1)

    def phone_part(self, outputs: Tensor, times: Tensor, batch: Batch) -> Tensor | float:
        """What the phones add to the loss of training ``outputs``."""
        if self.phone_head is None:
            return 0.0
        loss = phone_loss(outputs[:, self._outputs() :], phone_targets(times, batch["phones"]))
        self.log("train/phones", loss, batch_size=len(outputs))
        return self.phone_weight * loss

    def rebuild(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """What ships has no phone head."""
        if self.phone_head is not None:
            self.phone_weight, self.phone_head = 0.0, None
            self._architecture["phone_weight"] = 0.0

    # Labels.

    def clip_losses(self, logits: Tensor, times: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Loss (B,) of each clip from logits (B, T), and the frames' labels where there are any."""
        if self.labels == "max_pool":
            return max_pooling_loss(logits, batch["keyword"], round(self.first_s / self.frame_s)), None
        labels = frame_labels(times, batch["begin_s"], batch["end_s"], self.receptive_s, self.labels, self.late_s)
        if self.pooled:
            return pooled_label_loss(logits, labels), labels
        return label_loss(logits, labels, self.positive_weight), labels

    def loss(self, outputs: Tensor, times: Tensor, batch: Batch) -> Tensor:
        losses, _ = self.clip_losses(outputs[:, 0], times, batch)
        return self.mean(losses, batch) + self.phone_part(outputs, times, batch)

    def mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Over the clips that teach."""
        if self.hardest is None or self.trainer.global_step < self.warmup_steps:
            return losses.mean()
        return losses[hardest(losses, batch["keyword"], self.hardest)].mean()
