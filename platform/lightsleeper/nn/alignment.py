"""Which phone each frame belongs to: a monotone alignment of frames and phones by the values of a matrix.

Every frame i gets one phone k(i), starting with the first, ending with the last, advancing by 0 or 1; the sum of the
chosen values is the largest possible (monotonic alignment search, O(M N)). It equals Dynamic Sequence Partitioning on
a matrix instead of on vectors: "variant B" of papers/homogeneous_embedding 2.5; ``nn.partition`` is variant A.

Shapes: B rows (a clip with a text each), M phones, N frames. Cuts are as in ``nn.partition``: (B, M+1), start 0, rising
to the row's frames, which padding repeats; all 0 where a row has fewer frames than phones, or no phone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.nn.recurrence import recur

IMPOSSIBLE = -1e5  # of states that cannot be reached; finite, so that differences stay numbers


@torch.no_grad()
def monotone_cuts(values: Tensor, frames: Tensor, counts: Tensor) -> Tensor:
    """Cuts (B, M+1) of the best alignment of values (B, M, N), ``frames`` (B,) and ``counts`` (B,) of them real.

    One loop in PyTorch, one Scan node in an exported graph. Of equally good alignments it takes the one whose later
    phones are longest.
    """
    with torch.autocast(values.device.type, enabled=False):
        values = values.detach().float()
        order = torch.arange(values.shape[1], device=values.device)
        time = torch.arange(values.shape[2], device=values.device)
        start = (time == 0) & (order[:, None] > 0)  # only the first phone may begin
        rows = values.masked_fill(start, IMPOSSIBLE).permute(2, 0, 1)  # (N, B, M)
        _, advanced = recur(_best, torch.zeros_like(rows[0]), (rows,))
    last = (counts - 1).clamp_min(0)[:, None]
    inside = time[:, None] < frames  # (N, B)
    _, owner = recur(_back, last, ((advanced & inside[..., None]).flip(0).to(last.dtype),))
    owner = torch.where(inside, owner.flip(0)[..., 0], values.shape[1])  # (N, B); padding belongs to nobody
    edges = torch.arange(values.shape[1] + 1, device=values.device)
    cuts = (owner.T[:, None, :] < edges[:, None]).sum(-1)  # (B, M+1)
    return cuts * ((counts >= 1) & (counts <= frames))[:, None]


def _best(total: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One frame on: best totals (B, M), and whether each came from the phone before."""
    before = F.pad(total[:, :-1], (1, 0), value=IMPOSSIBLE)
    advanced = before > total
    return rows[0] + torch.maximum(total, before), advanced


def _back(phone: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One frame back: the phone (B, 1) of this frame is put out, that of the frame before is carried on."""
    return phone - rows[0].gather(1, phone), phone.clone()


def runs(cuts: Tensor, frames: int) -> Tensor:
    """(B, M, N) whether frame i lies in run k, of cuts (B, M+1)."""
    time = torch.arange(frames, device=cuts.device)
    return (time >= cuts[:, :-1, None]) & (time < cuts[:, 1:, None])


def cosines(tokens: Tensor, frames: Tensor) -> Tensor:
    """Cosine (B, M, N) of each token (B, M, d) with each frame (B, N, d); 0 beside a vector of zeros (padding)."""
    return F.normalize(tokens, dim=-1) @ F.normalize(frames, dim=-1).mT
