"""Binary gates: whether a module of a residual network runs, decided from the module's own input (Bittar et al., ICASSP
2024, papers/dynamic_conformer 3; after I3D, Peng et al., ICASSP 2023).

    x + g(x) module(x),    g in {0, 1},    p_keep = softmax(W mean over time of x + b)[0]

One decision a window. In training g is drawn with Gumbel noise, hard forward and soft backward; at inference a module
with p_keep of at most 0.5 is not executed. Temperature (UNKNOWN in the paper, 1 as in I3D) and the start, nearly open
so that a trained network begins as it was, are ours.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Branch = Callable[[Tensor], Tensor]

START_OPEN = 0.9  # share of open gates before they learn; ours
KEEP, SKIP = 0, 1


class Gate(nn.Module):
    """The decision for one module: 2 d + 2 parameters."""

    def __init__(self, dim: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.logits, self.temperature = nn.Linear(dim, 2), temperature
        nn.init.zeros_(self.logits.weight)
        with torch.no_grad():
            self.logits.bias.copy_(torch.tensor([START_OPEN, 1 - START_OPEN]).log())

    def forward(self, x: Tensor) -> Tensor:
        """Logit (M, 1) of keeping over skipping, for windows x (M, N, d)."""
        weight, bias = self.logits.weight, self.logits.bias
        return F.linear(x.mean(1), (weight[KEEP] - weight[SKIP])[None], (bias[KEEP] - bias[SKIP])[None])

    def keep(self, x: Tensor) -> Tensor:
        """Probability (M, 1) that the module runs: the softmax of two is the sigmoid of their difference."""
        return self(x).sigmoid()

    def sample(self, x: Tensor) -> Tensor:
        """0 or 1 for each window (M, 1), drawn; the gradient is that of the relaxed sample."""
        return straight_through(self(x), self.temperature)

    def open(self, x: Tensor) -> Tensor:
        """What inference decides, (M, 1) bool: keeping is likelier than one half."""
        return self(x) > 0


def straight_through(margin: Tensor, temperature: float = 1.0) -> Tensor:
    """A Gumbel-softmax sample of the first of two classes whose logits differ by ``margin``: exactly 0 or 1, with the
    soft sample's gradient. Between two classes the difference of the noises is logistic.
    """
    uniform = torch.rand_like(margin).clamp(1e-6, 1 - 1e-6)
    soft = ((margin + uniform.logit()) / temperature).sigmoid()
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


def skipping(x: Tensor, opened: Tensor, branch: Branch) -> Tensor:
    """``x + branch(x)`` for the windows of x (M, N, d) that are ``opened`` (M, 1) and x for the others, not computed.

    In an exported graph, of one window, it is an If.
    """
    if torch.compiler.is_exporting():
        return torch.cond(opened, lambda x: x + branch(x), lambda x: x.clone(), (x.contiguous(),))
    if not opened.any():
        return x
    if opened.all():
        return x + branch(x)
    rows = opened[:, 0].nonzero()[:, 0]
    some = x[rows]
    return x.index_copy(0, rows, some + branch(some))


def open_rate(gates: Tensor) -> Tensor:
    """Share of open gates, of decisions (M, modules): the penalty's f_open."""
    return gates.mean()
