"""HEiMDaL (Kundu et al., ICASSP 2023, arXiv 2210.15425): a small CNN that tells the wake word and where it began.

Of the paper only abstract and introduction could be read: an alignment-based classification loss tells the occurrence,
an offset loss the start of the keyword; layers, label rule and weights are ours, consistent with those (papers/heimdal
3 to 6). The offset is one more output a frame, so the footprint stays: the frame that fires is the end, and the start
lies offset * receptive field before it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from lightsleeper.models.bc_resnet import need_mels
from lightsleeper.models.family import Batch
from lightsleeper.models.wakeword_cnn import separable_layers
from lightsleeper.models.wakeword_labels import LabelledWakeWord
from lightsleeper.nn.bc_resnet import trunk, trunk_width
from lightsleeper.nn.ranges import at_least
from lightsleeper.nn.wake_labels import frame_labels, offset_loss

CATALOG = ("HEiMDaL",)


class HEiMDaL(LabelledWakeWord):
    """Detection and localisation of a wake word, frame by frame.

    Args:
        encoder: 1d, separable convolutions over time, or bc, a causal BC-ResNet.
        width: Channels of the 1d encoder.
        kernels: Taps of its depthwise convolutions, one block each, in frames of 20 ms.
        dilations: Distance of those taps, one a block.
        branches: Branches of its convolutions in training, as in RepCNN; 0 is plain.
        tau: Width of the bc encoder in units of 8 channels.
        offset: Whether there is an offset output.
        offset_weight: Weight of the offset loss (lambda), a mean over positive frames; the classification loss is one
            over all: at 1 it drowned the latter in the first few hundred steps (measured once, on a small corpus).
        phone_weight: How much the phones count that a head behind block ``phone_block`` of the 1d encoder learns
            (nn/phone_head); it serves training only. 0: there is none. Ours, not the paper's.
        phone_block: Behind which block, from 1.
        settings: Arguments of `LabelledWakeWord`.
    """

    def __init__(
        self,
        encoder: Literal["1d", "bc"] = "1d",
        width: int = 32,
        kernels: Sequence[int] = (7, 9, 11, 13),
        dilations: Sequence[int] = (1, 1, 2, 2),
        branches: int = 0,
        tau: float = 1.0,
        offset: bool = True,
        offset_weight: float = 0.1,
        phone_weight: float = 0.0,
        phone_block: int = 2,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        at_least(1, width=width)
        at_least(0, branches=branches, offset_weight=offset_weight)
        if phone_weight and encoder == "bc":
            raise ValueError("phone_weight must be 0 for the bc encoder: phones are for blocks of the 1d one")
        self.offset, self.offset_weight = offset, offset_weight
        if encoder == "bc":
            need_mels(self.n_mels)
            layers: list[nn.Module] = [trunk(tau, causal=True)]
            hidden = trunk_width(tau)
        else:
            layers, hidden = separable_layers(self.n_mels, width, kernels, dilations, branches=branches), width
        self.build(
            *layers,
            nn.Conv1d(hidden, self._outputs(), 1),
            encoder=encoder,
            width=width,
            kernels=list(kernels),
            dilations=list(dilations),
            branches=branches,
            tau=tau,
            offset=offset,
            phone_weight=phone_weight,
            phone_block=phone_block,
        )
        self.learn_phones(phone_weight, phone_block, len(kernels), width)

    def _outputs(self) -> int:
        return 2 if self.offset else 1

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        score = outputs[:, 0].sigmoid()
        return (score, outputs[:, 1].clamp(min=0) * self.receptive_s) if self.offset else (score, None)

    def loss(self, outputs: Tensor, times: Tensor, batch: Batch) -> Tensor:
        losses, labels = self.clip_losses(outputs[:, 0], times, batch)
        loss = self.mean(losses, batch) + self.phone_part(outputs, times, batch)
        if not self.offset:
            return loss
        if labels is None:  # max_pool needs no alignment, an offset does
            labels = frame_labels(times, batch["begin_s"], batch["end_s"], self.receptive_s, "coverage", self.late_s)
        distance = offset_loss(outputs[:, 1], times, batch["begin_s"], labels, self.receptive_s)
        self.log("train/offset", distance, batch_size=len(outputs))
        return loss + self.offset_weight * distance
