"""Does a clip say these phones? Small networks that read an alignment of frames and phones and answer with one score.

`AgreementVerifier` is published (papers/homogeneous_embedding 2.4): agreement matrix, GRU, linear layer.
`AlignedVerifier` and `EditVerifier` are ours, and ask whether each phone of a keyword was said. The first reads how
well the encoder's posteriors inside a phone's run explain it; the second, the stronger one, by how much the keyword is
ahead of every other text that differs in this phone (`nn.edits`).

Shapes: B rows (a clip with a text each), M phones, N frames, d width, C classes. ``cuts`` (B, M+1) as in
`nn.alignment`; padding phones have empty runs and count for nothing.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.alignment import monotone_cuts, runs
from lightsleeper.nn.ctc import LOWEST
from lightsleeper.nn.edits import MARGINS, margins
from lightsleeper.nn.gru import GRU
from lightsleeper.phones import BLANK, CLASSES

Pooling = Literal["product", "root", "mean", "worst"]
"""Of log-probabilities of phones: their sum (all were said), that over the root of their number, their mean, or a soft
minimum. A sum makes long keywords score low whoever speaks, a mean lets one wrong phone of many pass."""
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


class PhoneJudge(nn.Module):
    """What both of ours end in: each phone hears its neighbours, gets one logit, and all phones make one score."""

    def __init__(self, width: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.forward_gru, self.backward_gru = GRU(width, width), GRU(width, width)
        self.logit = nn.Linear(2 * width, 1)

    def judge(self, x: Tensor, counts: Tensor) -> Tensor:
        """Scores (B,), at most 0, of phones (B, M, width), ``counts`` (B,) of them real."""
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = (counts[:, None] - 1 - place).clamp_min(0)[:, :, None].expand_as(x)
        back = self.backward_gru(x.gather(1, mirrored)).gather(1, mirrored)
        both = self.dropout(torch.cat([self.forward_gru(x), back], dim=-1))
        return self.pool(F.logsigmoid(self.logit(both)[..., 0]), place < counts[:, None])

    def pool(self, said: Tensor, real: Tensor) -> Tensor:
        """A keyword's score (B,) from log-probabilities of its phones (B, M), ``real`` (B, M) of them no padding."""
        if self.pooling == "worst":
            weight = (-said).masked_fill(~real, -1e4).softmax(1)
            return (weight * said).sum(1)
        total, count = (said * real).sum(1), real.sum(1).clamp_min(1).to(said.dtype)
        return total / {"product": torch.ones_like(count), "root": count.sqrt(), "mean": count}[self.pooling]


class EditVerifier(PhoneJudge):
    """Phone by phone: what the keyword is ahead of the texts one phone away, which phone that is, and its strongest
    rival; beside them how well the whole text fits.

    Names of phones let it weigh what the encoder often confuses. They could also teach it which texts are likely, but
    with recordings swapped its AUC on hard pairs is 0.51, with their own 0.91 (measured on validation). Wide ones (64
    and more) fit the synthesiser: a point better on its hard pairs, two to four worse on people.
    """

    def __init__(self, width: int, pooling: Pooling, dropout: float = 0.0) -> None:
        super().__init__(width, pooling, dropout)
        self.margins = nn.Linear(MARGINS + 2, width)
        self.phone, self.rival = nn.Embedding(CLASSES, width), nn.Embedding(CLASSES, width)
        self.phone_pair, self.rival_pair = nn.Embedding(CLASSES, width), nn.Embedding(CLASSES, width)
        for names, spread in ((self.phone, 0.1), (self.rival, 0.1), (self.phone_pair, 0.3), (self.rival_pair, 0.3)):
            nn.init.normal_(names.weight, std=spread)

    def forward(self, log_probs: Tensor, frames: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
        """Scores (B,), at most 0, of log_probs (B, N, C), ``frames`` (B,) of them valid, and phones (B, M)."""
        ahead, rival, fit = margins(log_probs, frames, phones)
        fit = fit.clamp_min(LOWEST)
        fit = torch.stack([fit, fit * counts.clamp_min(1).sqrt() / 3], -1)  # per phone, and as a sum half does
        x = self.margins(torch.cat([ahead / SPREAD, fit[:, None].expand(-1, phones.shape[1], -1)], -1))
        x = x + self.phone(phones) + self.rival(rival) + self.phone_pair(phones) * self.rival_pair(rival)
        return self.judge(self.dropout(F.silu(x)), counts)


class AlignedVerifier(PhoneJudge):
    """Phone by phone: how well its run explains it, both neighbours heard, one logit; then all phones as one score.

    It sees no phone's name, so it cannot learn which texts are likely: made-up confusables are always wrong in
    training, real keywords half of the time. It sees no encoder frames, which fit the voices of training.
    """

    def __init__(self, width: int, pooling: Pooling, dropout: float = 0.0) -> None:
        super().__init__(width, pooling, dropout)
        self.evidence = nn.Linear(EVIDENCE, width)

    def forward(self, log_probs: Tensor, phones: Tensor, cuts: Tensor, counts: Tensor) -> Tensor:
        """Scores (B,), at most 0, of log_probs (B, N, C) and phones (B, M)."""
        inside = runs(cuts, log_probs.shape[1]).to(log_probs.dtype)
        x = self.dropout(F.silu(self.evidence(evidence(log_probs, phones, inside) / SPREAD)))
        return self.judge(x, counts)


def spoken_cuts(log_probs: Tensor, frames: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
    """Cuts (B, M+1) by the phones' own posteriors without blank, log_probs (B, N, C), damped where blank is likely:
    frames that say nothing may belong to any phone."""
    spoken, own = _without_blank(log_probs, phones)
    return monotone_cuts(own * spoken[:, None, :], frames, counts)


EVIDENCE = 3
SPREAD = 5.0  # of evidence, in nats: brings it near one


def evidence(log_probs: Tensor, phones: Tensor, inside: Tensor) -> Tensor:
    """What a run says of its phone: (B, M, EVIDENCE), of log_probs (B, N, C), phones (B, M), runs (B, M, N) as 0 / 1.

    A run explains phone q with probability prod(p_q + p_blank) - prod(p_blank): each frame is q or blank, one at least
    is q. In logs: the phone against its best rival (a substitution), and against the run's best path (all else that
    could be wrong); beside them its mean posterior where blank is not. Others were tried (deletion, peak, mass, length)
    and gained nothing.
    """
    log_probs = log_probs.clamp_min(FLOOR)
    blank = log_probs[..., :1]
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
    mean = (weight * posterior).sum(-1) / weight.sum(-1).clamp_min(1e-3)
    return torch.stack([own - rival, own - best, mean], dim=-1).clamp(-30.0, 30.0)


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
