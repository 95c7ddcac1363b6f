"""Does a clip say these phones? Small networks that read an alignment of frames and phones and answer with one score.

`AgreementVerifier` is published (papers/homogeneous_embedding 2.4): agreement matrix, GRU, linear layer.
`AlignedVerifier` is ours: it reads, phone by phone, how well the encoder's posteriors inside that phone's run explain
it, and a keyword is said only if each of its phones is.

Shapes: B rows (a clip with a text each), M phones, N frames, d width, C classes. ``cuts`` (B, M+1) as in
`nn.alignment`; padding phones have empty runs and count for nothing.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.alignment import monotone_cuts, runs
from lightsleeper.nn.gru import GRU
from lightsleeper.phones import BLANK, CLASSES

Pooling = Literal["product", "mean", "worst"]
SHARPNESS = 1.0  # of the soft minimum over phones, per unit of log-probability
FLOOR = -20.0  # log-probabilities below it are as good as impossible


def agreement_matrix(hidden: Tensor, cosine: Tensor, cuts: Tensor) -> Tensor:
    """A (B, M, d): row k is the sum over frames of run k of cosine[k, i] * hidden[i], not normalised (published)."""
    inside = runs(cuts, hidden.shape[1])
    return (cosine * inside) @ hidden


class AgreementVerifier(nn.Module):
    """Agreement matrix through one GRU; its state at the last phone through a linear layer. The GRU's width, its
    read-out and one output unit instead of two are not stated in the paper."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.gru = GRU(dim, width)
        self.logit = nn.Linear(width, 1)

    def forward(self, hidden: Tensor, cosine: Tensor, cuts: Tensor, counts: Tensor) -> Tensor:
        """Logits (B,) of hidden (B, N, d), cosine (B, M, N), cuts (B, M+1) and phone ``counts`` (B,)."""
        states = self.gru(agreement_matrix(hidden, cosine, cuts))
        last = (counts - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[-1])
        return self.logit(states.gather(1, last)[:, 0])[:, 0]


class AlignedVerifier(nn.Module):
    """Phone by phone: what the posteriors say of it and of its rivals, both neighbours heard, one logit.

    A keyword's score is the log-probability that all of its phones were said (``product``), its mean over phones
    (``mean``), or that of the worst one (``worst``, a soft minimum).
    """

    def __init__(self, dim: int, width: int, pooling: Pooling, use_hidden: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.pooling, self.use_hidden = pooling, use_hidden
        self.norm = nn.LayerNorm(EVIDENCE)
        self.evidence = nn.Linear(EVIDENCE + (dim if use_hidden else 0), width)
        self.phone = nn.Embedding(CLASSES, width)
        self.dropout = nn.Dropout(dropout)
        self.forward_gru, self.backward_gru = GRU(3 * width, width), GRU(3 * width, width)
        self.logit = nn.Linear(2 * width, 1)

    def align(self, log_probs: Tensor, frames: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
        """Cuts (B, M+1) by the phones' own posteriors without blank, log-probs (B, N, C), damped where blank is
        likely: frames that say nothing may belong to any phone."""
        spoken, own = _without_blank(log_probs, phones)
        return monotone_cuts(own * spoken[:, None, :], frames, counts)

    def forward(self, hidden: Tensor, log_probs: Tensor, phones: Tensor, cuts: Tensor, counts: Tensor) -> Tensor:
        """Scores (B,), at most 0, of hidden (B, N, d), log_probs (B, N, C) and phones (B, M)."""
        inside = runs(cuts, hidden.shape[1]).to(hidden.dtype)
        found = self.norm(evidence(log_probs, phones, inside))
        if self.use_hidden:
            weight = inside * (1 - log_probs[..., BLANK].exp())[:, None, :]
            mean = (weight @ hidden) / weight.sum(-1, keepdim=True).clamp_min(1e-3)
            found = torch.cat([found, mean], dim=-1)
        x, phone = F.silu(self.evidence(found)), self.phone(phones)
        x = self.dropout(torch.cat([x, phone, x * phone], dim=-1))
        real = torch.arange(phones.shape[1], device=phones.device) < counts[:, None]
        back = (counts[:, None] - 1 - torch.arange(phones.shape[1], device=phones.device)).clamp_min(0)
        back = back[:, :, None]
        reversed_ = self.backward_gru(x.gather(1, back.expand(-1, -1, x.shape[-1])))
        both = torch.cat([self.forward_gru(x), reversed_.gather(1, back.expand(-1, -1, reversed_.shape[-1]))], dim=-1)
        said = F.logsigmoid(self.logit(self.dropout(both))[..., 0])  # (B, M)
        return self.pool(said, real)

    def pool(self, said: Tensor, real: Tensor) -> Tensor:
        """A keyword's score (B,) from log-probabilities of its phones (B, M), ``real`` (B, M) of them no padding."""
        if self.pooling == "worst":
            weight = (-SHARPNESS * said).masked_fill(~real, -1e4).softmax(1)
            return (weight * said).sum(1)
        total = (said * real).sum(1)
        return total / real.sum(1).clamp_min(1) if self.pooling == "mean" else total


EVIDENCE = 8


def evidence(log_probs: Tensor, phones: Tensor, inside: Tensor) -> Tensor:
    """What a run says of its phone: (B, M, EVIDENCE), of log_probs (B, N, C), phones (B, M), runs (B, M, N) as 0 / 1.

    A run explains phone q with probability prod(p_q + p_blank) - prod(p_blank): each frame is q or blank, one at least
    is q. Against it stand the same for the best other phone (a substitution), blank alone (a deletion), and the best
    path (all else). Beside these log-ratios: mean and highest log-posterior, non-blank mass, length.
    """
    log_probs = log_probs.clamp_min(FLOOR)
    blank = log_probs[..., :1]
    length = inside.sum(-1)
    silent = inside @ blank  # (B, M, 1)
    explained = inside @ torch.logaddexp(log_probs, blank)  # (B, M, C)
    explained = explained + torch.log1p(-(silent - explained).clamp(max=-1e-4).exp())
    index = phones[..., None]
    own = explained.gather(2, index)[..., 0]
    classes = torch.arange(log_probs.shape[-1], device=phones.device)
    rival = explained.masked_fill((classes == index) | (classes == BLANK), -1e4).amax(-1)
    best = (inside @ log_probs.amax(-1, keepdim=True))[..., 0]
    spoken, posterior = _without_blank(log_probs, phones)
    weight = inside * spoken[:, None, :]
    mass = weight.sum(-1)
    mean = (weight * posterior).sum(-1) / mass.clamp_min(1e-3)
    peak = torch.where(inside > 0, log_probs.mT.gather(1, index.expand(-1, -1, inside.shape[2])), FLOOR).amax(-1)
    columns = [own - rival, own - silent[..., 0], own - best, rival - best, mean, peak, mass, length.log1p()]
    return torch.stack([column.clamp(-30.0, 30.0) for column in columns], dim=-1)


def _without_blank(log_probs: Tensor, phones: Tensor) -> tuple[Tensor, Tensor]:
    """Probability (B, N) that a frame is no blank, and log-posteriors (B, M, N) of phones given that."""
    spoken = (1 - log_probs[..., BLANK].exp()).clamp_min(1e-6)
    own = log_probs.mT.gather(1, phones[..., None].expand(-1, -1, log_probs.shape[1]))
    return spoken, (own - spoken.log()[:, None, :]).clamp(FLOOR, 0.0)


def verification_loss(scores: Tensor, label: Tensor, solvable: Tensor, logits: bool) -> Tensor:
    """Cross-entropy of scores (B,) that are ``logits`` or else log-probabilities of a match; ``label`` (B,) 1 or 0.

    Rows that are not ``solvable`` (B,), with fewer frames than phones, teach nothing.
    """
    said = (F.logsigmoid(scores) if logits else scores).clamp(max=-1e-6)
    not_said = F.logsigmoid(-scores) if logits else torch.log(-torch.expm1(said))
    loss = -torch.where(label == 1, said, not_said)
    return torch.where(solvable, loss, 0.0).sum() / solvable.sum().clamp_min(1)
