"""Phoneme-to-vector table: for every phone, the mean of what an audio encoder emits while it hears that phone.

Nishu et al., ICASSP 2024 (papers/homogeneous_embedding 2.3): a local vector is the mean of the frames of one
occurrence, the global one the mean over all occurrences, in clips whose greedy decode has no error. Published: 74
symbols, ARPAbet with stress; ours: the encoder's 39 phones without stress. Not stated there, decided here:
- an occurrence is a run of frames whose likeliest class is that phone; blank frames belong to nobody, and two runs
  of a phone with blank between them are two occurrences (as CTC reads them);
- a local vector is the plain mean of its run (the printed divisor is one less than the terms of the sum);
- a phone that no clip said well has the vector of `fallback`, never zeros, beside which a cosine has no meaning.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightsleeper.phones import BLANK, CLASSES

FOLLOW = 0.98
"""Share of the past that stays at each step in `PhoneTable.follow`: a memory of some 50 batches."""


class PhoneTable(nn.Module):
    """Vectors (CLASSES, d) by phone id; row 0, blank and padding, is zero.

    >>> table = PhoneTable(144)
    >>> table.add(hidden, log_probs, frames, phones)  # any number of batches
    >>> table.build(head.weight)
    >>> tokens = table(phones)  # (B, P, 144)
    """

    vectors: Tensor
    counts: Tensor
    """(CLASSES,) occurrences behind each vector; 0: it is a fallback."""
    probe: Tensor
    """(d,) how the encoder answered to a fixed sound when the table was built: whose table it is."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(CLASSES, dim))
        self.register_buffer("counts", torch.zeros(CLASSES))  # float, as `follow` lets them fade
        self.register_buffer("probe", torch.zeros(dim))
        self.clear()

    @property
    def built(self) -> bool:
        return bool(self.vectors.any())

    def forward(self, phones: Tensor) -> Tensor:
        """Tokens (..., d) of phone ids (...)."""
        return self.vectors[phones]

    def clear(self) -> None:
        """Forget what was added; the table stays as it was built."""
        self._sums: Tensor | None = None
        self._seen: Tensor | None = None
        self.clips = self.exact = 0

    @torch.no_grad()
    def add(self, hidden: Tensor, log_probs: Tensor, frames: Tensor, phones: Tensor) -> None:
        """Count in the clips that were decoded without error.

        hidden (B, N, d) and log_probs (B, N, CLASSES) with ``frames`` (B,) valid; phones (B, P) said, 0-padded.
        """
        sums, seen, exact = occurrences(hidden, log_probs, frames, phones)
        self._sums = sums if self._sums is None else self._sums + sums
        self._seen = seen if self._seen is None else self._seen + seen
        self.clips += len(frames)
        self.exact += int(exact.sum())

    @torch.no_grad()
    def build(self, head: Tensor) -> None:
        """Make the table of all that was added, on every process of a distributed training.

        ``head`` (CLASSES, d): weights of the encoder's phone classifier, for the fallback. Raises ValueError when
        nothing was added.
        """
        if self._sums is None or self._seen is None:
            raise ValueError("the phoneme table was given no clip")
        sums, seen = self._sums.clone(), self._seen.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
            dist.all_reduce(seen)
        means = sums / seen.clamp_min(1)[:, None]
        vectors = torch.where(seen[:, None] > 0, means, fallback(means, seen > 0, head.to(means)))
        vectors[BLANK] = 0
        self.vectors.copy_(vectors)
        self.counts.copy_(seen)

    @torch.no_grad()
    def follow(self, hidden: Tensor, log_probs: Tensor, frames: Tensor, phones: Tensor) -> None:
        """Let the table follow an encoder in training: a fading mean over batches, arguments as in `add`."""
        sums, seen, _ = occurrences(hidden, log_probs, frames, phones)
        past = FOLLOW * self.counts.double()
        total = past + seen
        mixed = (past[:, None] * self.vectors.double() + sums) / total.clamp_min(1e-9)[:, None]
        self.vectors.copy_(torch.where(seen[:, None] > 0, mixed, self.vectors))
        self.counts.copy_(torch.where(seen > 0, total, self.counts))


def occurrences(hidden: Tensor, log_probs: Tensor, frames: Tensor, phones: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (CLASSES, d) of local vectors and their numbers (CLASSES,), float64, of the clips decoded without error,
    and which clips those are (B,). Shapes as in `PhoneTable.add`."""
    batch, longest = log_probs.shape[:2]
    valid = torch.arange(longest, device=frames.device) < frames[:, None]
    best = log_probs.argmax(-1).masked_fill(~valid, BLANK)  # (B, N)
    before = torch.cat([torch.zeros_like(best[:, :1]), best[:, :-1]], dim=1)
    begins = (best != BLANK) & (best != before)
    run = begins.cumsum(1) - 1  # number of the run that a frame lies in, from 0
    exact = _equals(best, begins, run, phones)

    kept = (best != BLANK) & exact[:, None]  # (B, N) frames that count
    clip = torch.arange(batch, device=best.device)[:, None].expand_as(best)
    index = (clip * longest + run.clamp_min(0))[kept]  # of the run, among those of all clips
    values = hidden[kept].double()
    locals_ = values.new_zeros(batch * longest, hidden.shape[-1]).index_add_(0, index, values)
    lengths = values.new_zeros(batch * longest).index_add_(0, index, torch.ones_like(values[:, 0]))
    phone = best.new_zeros(batch * longest)
    phone[index] = best[kept]
    real = lengths > 0
    means = locals_[real] / lengths[real, None]
    sums = values.new_zeros(CLASSES, hidden.shape[-1]).index_add_(0, phone[real], means)
    seen = torch.bincount(phone[real], minlength=CLASSES).double()
    return sums, seen, exact


def _equals(best: Tensor, begins: Tensor, run: Tensor, phones: Tensor) -> Tensor:
    """(B,) whether the runs of ``best`` (B, N), which ``begins`` and ``run`` describe, spell phones (B, P)."""
    wanted = (phones != BLANK).sum(1)
    same_count = begins.sum(1) == wanted
    expected = phones.gather(1, run.clamp(0, phones.shape[1] - 1))
    return same_count & ((best == expected) | ~begins).all(1) & (wanted > 0)


def fallback(means: Tensor, seen: Tensor, head: Tensor) -> Tensor:
    """Vectors (CLASSES, d) for phones that were not ``seen`` (CLASSES,): where the classifier looks for them.

    The mean of all known vectors, moved along the phone's row of ``head`` (CLASSES, d) as far as known vectors lie
    along theirs (one factor, by least squares). It differs from phone to phone and is never zero; where no phone is
    known it is the row itself.
    """
    if not bool(seen.any()):
        return head
    center, rows = means[seen].mean(0), head - head[seen].mean(0)
    known = rows[seen]
    scale = ((means[seen] - center) * known).sum() / known.square().sum().clamp_min(1e-12)
    # With one known phone both differences are zero; the row alone still tells phones apart.
    return center + torch.where(scale > 0, scale, torch.ones_like(scale)) * rows
