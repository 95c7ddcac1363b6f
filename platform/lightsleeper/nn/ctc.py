"""How likely typed phones are under a CTC encoder: the score that needs no matching training.

The score is the log-likelihood of the phones minus that of the unconstrained best path, per phone: 0 when the phones
are what the encoder hears, falling with every phone that does not fit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.phones import BLANK

IMPOSSIBLE = -1e4  # log-likelihood of phones that do not fit into the frames; finite, so that scores stay rankable


def keyword_score(log_probs: Tensor, lengths: Tensor, phones: Tensor) -> Tensor:
    """Scores (B,), at most 0, of phones (B, P; 0-padded) under log-probabilities (B, N, C) of ``lengths`` (B,) frames."""
    counts = (phones != BLANK).sum(1)
    log_likelihood = -F.ctc_loss(
        log_probs.transpose(0, 1), phones, lengths, counts, blank=BLANK, reduction="none", zero_infinity=False
    )
    time = torch.arange(log_probs.shape[1], device=log_probs.device)
    best = (log_probs.amax(-1) * (time < lengths[:, None])).sum(1)
    return ((log_likelihood - best) / counts.clamp(min=1)).clamp(min=IMPOSSIBLE)


def keyword_score_static(log_probs: Tensor, phones: Tensor, count: Tensor) -> Tensor:
    """`keyword_score` of one clip without padding, as a graph that exports with any number of frames.

    The forward recursion runs over label states, not over frames: within a state, staying on is a cumulative sum, so
    each state is one (N, N) masked log-sum-exp. log_probs (N, C), phones (P,) 0-padded with ``count`` valid; P is
    unrolled. Returns (1,).
    """
    frames = log_probs.shape[0]
    time = torch.arange(frames, device=log_probs.device)
    earlier = time[:, None] <= time[None, :]  # (enter, leave)
    start = (time == 0).to(log_probs.dtype)  # a clip may start in the first blank or the first phone

    def stay(entering: Tensor, emission: Tensor) -> Tensor:
        """Log-probability (N,) of being in a state at t, from that of entering it at t."""
        total = emission.cumsum(0)
        paths = entering[:, None] + emission[:, None] + (total[None, :] - total[:, None])
        return paths.masked_fill(~earlier, IMPOSSIBLE * 10).logsumexp(0)

    def after(state: Tensor) -> Tensor:
        """Log-probability (N,) of having been in ``state`` one frame before."""
        return torch.cat([torch.full_like(state[:1], IMPOSSIBLE * 10), state[:-1]])

    at_start = (start - 1.0) * (-IMPOSSIBLE * 10)  # 0 at the first frame, impossible elsewhere
    blank_emission = log_probs[:, BLANK]
    blank = stay(at_start, blank_emission)
    phone = torch.full_like(blank, IMPOSSIBLE * 10)
    ends = []
    for index in range(phones.shape[0]):
        label = phones[index]
        emission = log_probs.index_select(1, label[None])[:, 0]
        entering = torch.logaddexp(after(blank), at_start) if index == 0 else after(blank)
        if index:
            repeated = (label == phones[index - 1]).to(log_probs.dtype)  # equal neighbours need a blank between
            entering = torch.logaddexp(entering, after(phone) + repeated * IMPOSSIBLE * 10)
        phone = stay(entering, emission)
        blank = stay(after(phone), blank_emission)
        ends.append(torch.logaddexp(phone[-1], blank[-1]))
    log_likelihood = torch.stack(ends).gather(0, (count - 1).clamp(min=0))
    best = log_probs.amax(-1).sum()
    return ((log_likelihood - best) / count.clamp(min=1)).clamp(min=IMPOSSIBLE)


def greedy_phones(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best-path decode of (B, N, C): repeats merged, blanks removed."""
    decoded = []
    for row, length in zip(log_probs.argmax(-1).tolist(), lengths.tolist(), strict=True):
        frames = row[:length]
        decoded.append([p for p, before in zip(frames, [BLANK, *frames], strict=False) if p not in (BLANK, before)])
    return decoded
