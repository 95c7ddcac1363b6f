"""How likely typed phones are under a CTC encoder: the score that needs no matching training.

The score is the log-likelihood of the phones minus that of the unconstrained best path, per phone: 0 when the phones
are what the encoder hears, falling with every phone that does not fit. Dividing by the entropy of the clip's frames
instead was tried: 3 points of AUC more on hard synthetic pairs, 5 to 10 fewer on people (docs/results.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.nn.recurrence import recur
from lightsleeper.phones import BLANK

LOWEST = -10.0  # per phone, also for phones that do not fit into the frames: below it nothing is left to tell apart
IMPOSSIBLE = -1e5  # log-probability of states that cannot be reached; finite, so that differences stay numbers


def keyword_score(log_probs: Tensor, lengths: Tensor, phones: Tensor) -> Tensor:
    """Scores (B,), at most 0, of phones (B, P) 0-padded under log-probabilities (B, N, C) of ``lengths`` (B,)."""
    counts = (phones != BLANK).sum(1)
    log_likelihood = -F.ctc_loss(
        log_probs.transpose(0, 1), phones, lengths, counts, blank=BLANK, reduction="none", zero_infinity=False
    )
    time = torch.arange(log_probs.shape[1], device=log_probs.device)
    best = (log_probs.amax(-1) * (time < lengths[:, None])).sum(1)
    return ((log_likelihood - best) / counts.clamp(min=1)).clamp(min=LOWEST)


def keyword_score_static(log_probs: Tensor, phones: Tensor, counts: Tensor, frames: Tensor | None = None) -> Tensor:
    """`keyword_score` as a graph that exports with any number of rows and frames.

    log_probs (K, N, C), phones (K, P) 0-padded with ``counts`` (K,) valid; ``frames`` (K,) are valid of each row, None:
    all. Returns (K,). The recursion over frames is a scan over the 2 P + 1 states of the CTC graph.
    """
    states = torch.stack([torch.zeros_like(phones), phones], dim=2).flatten(1)  # blank, phone, blank, phone, ...
    states = F.pad(states, (0, 1))  # (K, S)
    time = torch.arange(log_probs.shape[1] + 1, device=states.device)
    length = torch.zeros_like(counts) + log_probs.shape[1] if frames is None else frames
    inside = (time < length[:, None])[..., None]  # (K, N+1, 1)
    # Behind its end a clip is silent, for one frame at least: every path then ends in the last blank.
    silence = torch.where(torch.arange(log_probs.shape[2], device=states.device) == BLANK, 0.0, IMPOSSIBLE)
    heard = torch.where(inside, F.pad(log_probs, (0, 0, 0, 1)), silence.to(log_probs))
    emissions = heard.gather(2, states[:, None].expand(-1, heard.shape[1], -1)).transpose(0, 1)  # (N+1, K, S)
    place = torch.arange(states.shape[1], device=states.device)
    before = torch.cat([states[:, :2], states[:, :-2]], dim=1)
    # Skipping the blank between two phones is allowed unless they are equal.
    skip = torch.where((place % 2 == 1) & (place > 1) & (states != before), 0.0, IMPOSSIBLE)
    start = torch.where(place < 1, 0.0, IMPOSSIBLE).expand_as(skip).clone()  # before frame 0: all of it lies ahead

    def step(alpha: Tensor, frame: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One frame of the forward recursion: log-probabilities (K, S) of all states, by staying, advancing, skipping.

        A scan must put something out; that is not used.
        """
        one = F.pad(alpha[:, :-1], (1, 0), value=IMPOSSIBLE)
        two = F.pad(alpha[:, :-2], (2, 0), value=IMPOSSIBLE) + skip
        return torch.stack([alpha, one, two]).logsumexp(0) + frame[0], frame[0].clone()

    alpha, _ = recur(step, start, (emissions,))
    likelihood = alpha.gather(1, 2 * counts[:, None])[:, 0]
    best = heard.amax(-1).sum(1)
    return ((likelihood - best) / counts.clamp(min=1)).clamp(min=LOWEST)


def greedy_phones(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best-path decode of (B, N, C): repeats merged, blanks removed."""
    decoded = []
    for row, length in zip(log_probs.argmax(-1).tolist(), lengths.tolist(), strict=True):
        frames = row[:length]
        decoded.append([p for p, before in zip(frames, [BLANK, *frames], strict=False) if p not in (BLANK, before)])
    return decoded
