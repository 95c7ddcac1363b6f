"""What a wake-word network is trained on: labels of frames from the keyword's times, and the losses on them.

A frame's time is that of the newest sample it has seen; it sees ``receptive_s`` seconds back from there. The rules are
candidates for HEiMDaL's "alignment-based classification loss" (papers/heimdal 4), whose own could not be read; coverage
is that of a sister paper (Samragh et al., arXiv 2210.13567). Times are compared with a tolerance of a microsecond.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["end", "coverage", "iou"]
UNDEFINED = -1  # frames that teach nothing
TICK = 1e-6  # s

LATE_S = 0.2  # a frame this long after the keyword still answers for it (delta 1)
EARLY_S, OVER_S = 0.3, 0.4  # rule end: frames outside [end - EARLY_S, end + OVER_S] are negative (deltas 0 and 2)
WHOLE, PART = 0.95, 0.5  # rule coverage: share of the keyword seen, above which positive, below which negative
NEAR, FAR = 0.9, 0.5  # rule iou: the same for the overlap, as a share of the largest possible


def frame_labels(
    times: Tensor, begin: Tensor, end: Tensor, receptive_s: float, rule: Rule, late_s: float = LATE_S
) -> Tensor:
    """Labels (B, T): 1 the keyword was just said, 0 not, UNDEFINED in between.

    ``times`` (T,) of the frames; ``begin`` and ``end`` (B,) of the keyword, nan where there is none: all 0 then. All
    in seconds. end: a window behind the keyword's end. coverage: how much of the keyword lies in what the frame sees.
    iou: the overlap of both over their union. A keyword longer than ``receptive_s`` counts as its last part.
    """
    time = times.double()[None]  # (1, T)
    ends = end.double()[:, None]  # (B, 1)
    begins = torch.maximum(begin.double()[:, None], ends - receptive_s)
    after = time - ends
    on_time = after <= late_s + TICK
    if rule == "end":
        positive = (after >= -TICK) & on_time
        negative = (after < -EARLY_S - TICK) | (after > OVER_S + TICK)
    else:
        seen = (torch.minimum(ends, time) - torch.maximum(begins, time - receptive_s)).clamp(min=0)
        if rule == "coverage":
            share, most, least = seen / (ends - begins), WHOLE, PART
        elif rule == "iou":
            union = receptive_s + (ends - begins) - seen
            share, most, least = seen / union * receptive_s / (ends - begins), NEAR, FAR
        else:
            raise ValueError(f"rule must be end, coverage or iou; got {rule!r}")
        positive = (share > most + TICK) & on_time
        negative = share < least - TICK
    labels = torch.full(positive.shape, UNDEFINED, device=positive.device)
    labels[negative | ends.isnan()] = 0
    labels[positive] = 1
    return labels


def label_loss(logits: Tensor, labels: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy (B,) of each clip: the mean over its defined frames (B, T); 0 where there is none.

    ``positive_weight``: how much a positive frame counts beside a negative one.
    """
    weight = (labels != UNDEFINED) * torch.where(labels == 1, positive_weight, 1.0)
    loss = F.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
    return (loss * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def max_pooling_loss(logits: Tensor, keyword: Tensor, first: int = 0) -> Tensor:
    """Loss (B,) without alignment (WeKws): -log of the best frame of a keyword, of the worst frame of anything else.

    ``logits`` (B, T), ``keyword`` (B,) 0 or 1. The ``first`` frames of a keyword clip cannot be the best: nobody says
    it as fast as that.
    """
    if not 0 <= first < logits.shape[1]:
        raise ValueError(f"max pooling over {logits.shape[1]} frames cannot leave out the first {first}")
    said = F.softplus(-logits[:, first:].amax(1))
    return torch.where(keyword > 0, said, F.softplus(logits.amax(1)))


def pooled_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss (B,): only the best of a clip's positive frames is pushed up, only the worst negative one down."""
    low = torch.finfo(logits.dtype).min
    best = logits.masked_fill(labels != 1, low).amax(1)
    worst = logits.masked_fill(labels != 0, low).amax(1)
    up = torch.where((labels == 1).any(1), F.softplus(-best), 0.0)
    return up + torch.where((labels == 0).any(1), F.softplus(worst), 0.0)


def offset_targets(times: Tensor, begin: Tensor, receptive_s: float) -> Tensor:
    """How far back the keyword begins, (B, T), as a share of what a frame sees."""
    return (times.double()[None] - begin.double()[:, None]) / receptive_s


def offset_loss(offsets: Tensor, times: Tensor, begin: Tensor, labels: Tensor, receptive_s: float) -> Tensor:
    """Mean distance of ``offsets`` (B, T) from `offset_targets` over positive frames; 0 where there is none."""
    positive = labels == 1
    if not positive.any():
        return offsets.sum() * 0.0
    target = offset_targets(times, begin, receptive_s).to(offsets.dtype)
    return (offsets[positive] - target[positive]).abs().mean()
