"""What a word spotter predicts at each output step, and what it is taught: detection, classification, localisation
(Bittar et al., ICASSP 2024, papers/dynamic_conformer 4 and 5; after Samragh et al., ICASSP 2023).

Shapes: M windows, N encoder steps and P output steps of one, C words; class C is "no keyword". Times in seconds; a step
that begins to see at ``at`` sees R seconds from there.

Decided here, where the paper is silent (its points are in dossier 13):
- Class logits are pooled, the steps of their maxima re-used, and the softmax follows: so a word competes with "no
  keyword" over the whole of what an output step sees.
- The mask of undetected words belongs to inference. In training it would take away the gradient that lifts a word.
- Boxes come from the encoder step that was selected, as a distance from that step. Several output steps select the same
  one, and their distances to the word differ: only relative to the selected step there is one answer.
- Detection losses are summed over words, so that a thousand of them teach each as ten do; means are over steps.
- Where a step sees several words whole, the one nearest to the middle of what it sees is its class.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.windows import Windowing

WHOLE, PART = 0.95, 0.5
"""Share of a word seen from which it is there, and below which it is not; in between nothing is taught."""
NOTHING = 0.05
"""Share of every word seen below which a step's class is "no keyword"."""
UNDEFINED = -1
TICK = 1e-6  # by which times and shares may miss a bound

PRIOR = 0.01  # probability of a word before training


def intersection_over_word(begin: Tensor, end: Tensor, at: Tensor, receptive_s: float) -> Tensor:
    """Share of each word that lies in [at, at + R] (IOG), 0 for one with nan times; all broadcast."""
    seen = torch.minimum(end, at + receptive_s) - torch.maximum(begin, at)
    return (seen.clamp(min=0) / (end - begin)).nan_to_num(0.0)


def encode_box(begin: Tensor, end: Tensor, at: Tensor, receptive_s: float, step_s: float) -> tuple[Tensor, Tensor]:
    """Width as a share of R, and distance of the word's middle from the middle of what the step sees, in steps."""
    return (end - begin) / receptive_s, ((begin + end) / 2 - at - receptive_s / 2) / step_s


def decode_box(width: Tensor, offset: Tensor, at: Tensor, receptive_s: float, step_s: float) -> tuple[Tensor, Tensor]:
    """Begin and end; the inverse of `encode_box`."""
    middle = at + receptive_s / 2 + offset * step_s
    return middle - width * receptive_s / 2, middle + width * receptive_s / 2


@dataclass(frozen=True)
class Targets:
    """What M windows of P steps are taught."""

    detection: Tensor
    """(M, P, C) 1 the word is there, 0 it is not, UNDEFINED."""
    word: Tensor
    """(M, P) class, C for no keyword, UNDEFINED."""
    places: Tensor
    """(K, 3) window, step and word of each box."""
    width: Tensor
    """(K,)"""
    offset: Tensor
    """(K,)"""


def targets(
    word: Tensor,
    begin: Tensor,
    end: Tensor,
    at: Tensor,
    classes: int,
    windowing: Windowing,
    nothing: float = NOTHING,
) -> Targets:
    """Targets of steps that begin to see at ``at`` (M, P), with the words of their recordings.

    ``word`` (M, E) class ids, UNDEFINED where there is none, ``begin`` and ``end`` (M, E), nan there. A word that
    lasts longer than R / WHOLE is never whole, so its middle teaches nothing.
    """
    receptive_s, step_s = windowing.receptive_s, windowing.step_s
    real = word >= 0
    begin, end = (time.double().where(real, torch.nan)[:, None] for time in (begin, end))  # (M, 1, E)
    start = at.double()[..., None]  # (M, P, 1)
    seen = intersection_over_word(begin, end, start, receptive_s)  # (M, P, E)
    width, offset = encode_box(begin, end, start, receptive_s, step_s)
    width = width.expand_as(offset)
    whole = seen > WHOLE + TICK
    shape = (*at.shape, classes)
    index = word.clamp(min=0)[:, None].expand_as(seen)
    share = torch.zeros(shape, dtype=seen.dtype, device=seen.device).scatter_reduce(2, index, seen, "amax")
    detection = torch.full(shape, float(UNDEFINED), device=seen.device)
    detection[share > WHOLE + TICK] = 1.0
    detection[share < PART - TICK] = 0.0

    distance = offset.abs().where(whole, torch.inf)
    most = seen.amax(2, keepdim=True) if seen.shape[2] else start * 0
    classed = torch.full(at.shape, UNDEFINED, device=seen.device)
    classed[most[..., 0] < nothing - TICK] = classes
    if seen.shape[2]:
        nearest = distance.where(seen > most - TICK, torch.inf).argmin(2)  # (M, P)
        chosen = word.gather(1, nearest)
        classed = torch.where(whole.any(2), chosen, classed)
    # Said twice within what a step sees: the nearer one.
    same = word[:, None, :] == word[:, :, None]  # (M, E, E)
    nearer = (distance[:, :, None, :] < distance[..., None]) & same[:, None]  # (M, P, E, E)
    window, step, event = (whole & ~nearer.any(3)).nonzero(as_tuple=True)
    places = torch.stack([window, step, word[window, event]], 1)
    dtype = torch.get_default_dtype()
    return Targets(
        detection,
        classed,
        places,
        width[window, step, event].to(dtype),
        offset[window, step, event].to(dtype),
    )


@dataclass(frozen=True)
class Pooled:
    """Max-pooled outputs of M windows."""

    classes: Tensor
    """(M, P, C + 1) logits."""
    detection: Tensor
    """(M, P, C) logits, from the steps where the classes had their maxima."""
    index: Tensor
    """(M, P, C + 1) those encoder steps."""


@dataclass(frozen=True)
class Found:
    """The likeliest word of each output step, (M, P) each."""

    score: Tensor
    word: Tensor
    width: Tensor
    offset: Tensor


class SpottingHeads(nn.Module):
    """Detection, classification and localisation of hidden (M, N, d); each one linear layer.

    Args:
        dim: d.
        classes: C.
        pool: encoder steps behind an output step (K); N = P + K - 1.
    """

    def __init__(self, dim: int, classes: int, pool: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be 1 or more; got {classes}")
        self.classes, self.pool = classes, pool
        self.detection = nn.Linear(dim, classes)
        self.classification = nn.Linear(dim, classes + 1)
        self.box = nn.Linear(dim, 2 * classes)  # widths, then offsets
        nn.init.constant_(self.detection.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, hidden: Tensor) -> Pooled:
        classes, index = max_pool(self.classification(hidden), self.pool)
        detection = self.detection(hidden).gather(1, index[..., : self.classes])
        return Pooled(classes, detection, index)

    def boxes(self, hidden: Tensor, index: Tensor, window: Tensor, step: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """Width and offset (K,) of ``word`` at output ``step`` of ``window``, each (K,).

        Of the layer only the rows that are asked for are computed: 2 C N of them would cost more than the encoder.
        """
        selected = index[window, step, word]
        at = hidden[window, selected]  # (K, d)
        weight = self.box.weight.unflatten(0, (2, self.classes))[:, word]  # (2, K, d)
        bias = self.box.bias.unflatten(0, (2, self.classes))[:, word]
        width, offset = ((weight * at).sum(-1) + bias).unbind(0)
        return width, offset + (selected - step - (self.pool - 1) / 2).to(offset.dtype)

    def find(self, hidden: Tensor) -> Found:
        """Words whose detection is below one half are masked out; the best of the others, with its box."""
        pooled = self(hidden)
        score, word = probabilities(pooled)[..., : self.classes].max(-1)
        count, steps = word.shape
        window = torch.arange(count, device=word.device)[:, None].expand(-1, steps).flatten()
        step = torch.arange(steps, device=word.device).repeat(count)
        width, offset = self.boxes(hidden, pooled.index, window, step, word.flatten())
        return Found(score, word, width.view(count, steps), offset.view(count, steps))

    def macs(self, steps: int) -> int:
        """Multiply-accumulates of `find` over a window of so many encoder steps."""
        dim = self.detection.in_features
        return (2 * self.classes + 1) * dim * steps + 2 * dim * (steps - self.pool + 1)


def max_pool(logits: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Maxima (M, N - kernel + 1, C) of ``kernel`` neighbouring steps of logits (M, N, C), and the steps they are at."""
    if torch.compiler.is_exporting():
        starts = range(logits.shape[1] - kernel + 1)
        found = [logits[:, start : start + kernel].max(1) for start in starts]
        values = torch.stack([best.values for best in found], 1)
        return values, torch.stack([best.indices + start for start, best in zip(starts, found, strict=True)], 1)
    values, index = F.max_pool1d(logits.transpose(1, 2), kernel, 1, return_indices=True)
    return values.transpose(1, 2), index.transpose(1, 2)


def probabilities(pooled: Pooled) -> Tensor:
    """(M, P, C + 1): the softmax over the detected words and "no keyword"."""
    words = pooled.classes[..., :-1].masked_fill(pooled.detection < 0, -torch.inf)
    return torch.cat([words, pooled.classes[..., -1:]], -1).softmax(-1)


def detection_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each word (M, P, C), summed over the words, mean over steps; undefined ones give nothing."""
    loss = F.binary_cross_entropy_with_logits(logits, target.clamp(min=0).to(logits.dtype), reduction="none")
    return (loss * (target != UNDEFINED)).sum(-1).mean()


def class_loss(logits: Tensor, word: Tensor) -> Tensor:
    """Cross-entropy of the steps' classes, mean over those that have one; 0 where none has."""
    if not (word != UNDEFINED).any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits.flatten(0, 1), word.flatten(), ignore_index=UNDEFINED)


def box_loss(width: Tensor, offset: Tensor, target: Targets) -> Tensor:
    """Mean distance of widths and of offsets (K,) from their targets, added; 0 where there is no word."""
    if not len(width):
        return width.sum() * 0.0
    return (width - target.width).abs().mean() + (offset - target.offset).abs().mean()
