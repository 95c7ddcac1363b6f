"""Wake-word detectors with one logit a frame, trained on labels of frames (nn/wake_labels)."""

from typing import Any, Literal

from torch import Tensor

from lightsleeper.models.family import Batch
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.mining import hardest
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
        return self.mean(losses, batch)

    def mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Over the clips that teach."""
        if self.hardest is None or self.trainer.global_step < self.warmup_steps:
            return losses.mean()
        return losses[hardest(losses, batch["keyword"], self.hardest)].mean()
