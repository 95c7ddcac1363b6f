"""A conformer over windows whose modules can be skipped: feed-forward, attention, convolution and feed-forward of every
block have a gate each (nn/gates).

Blocks are those of nn/conformer, with half steps and a final LayerNorm; the LayerNorm lies outside the gates (the
paper does not say, dossier 3). With all gates open the numbers are those of the plain conformer, bit for bit.
"""

import torch
from torch import Tensor, nn

from lightsleeper.nn.conformer import Block
from lightsleeper.nn.gates import Branch, Gate, skipping
from lightsleeper.nn.ranges import above_zero, at_least, share

MODULES = ("feed_forward", "attention", "convolution", "feed_forward_2")


class GatedBlock(Block):
    """`Block` with a gate for each module, or without; ``gating`` False leaves all of them open."""

    def __init__(
        self, dim: int, heads: int, kernel: int, expansion: int, dropout: float, gated: bool, temperature: float
    ) -> None:
        super().__init__(dim, heads, kernel, expansion, None, None, False, dropout)
        self.gates = nn.ModuleList(Gate(dim, temperature) for _ in MODULES) if gated else None
        self.gating = gated

    def branches(self) -> tuple[Branch, ...]:
        """What each module adds to its input (M, N, d), in order."""
        return (
            lambda x: 0.5 * self.first(x),
            lambda x: self.attention(x, 0, x.shape[1], None),
            lambda x: self.convolution(x, 0, x.shape[1], None),
            lambda x: 0.5 * self.second(x),
        )

    def residual(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The residual stream (M, N, d) behind the modules, and the decisions (M, 1)."""
        decisions: list[Tensor] = []
        for number, branch in enumerate(self.branches()):
            if self.gates is None or not self.gating:
                x = x + branch(x)
                decisions.append(x.new_ones(len(x), 1))
                continue
            gate: Gate = self.gates[number]  # type: ignore[assignment]
            if self.training:
                opened = gate.sample(x)
                x = x + opened[..., None] * branch(x)  # closed too: the gate learns from what it missed
            else:
                opened = gate.open(x)
                x = skipping(x, opened, branch)
            decisions.append(opened)
        return x, decisions

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        x, decisions = self.residual(x)
        return self.norm(x), decisions


class GatedConformer(nn.Module):
    """Windows (M, N, d) to hidden (M, N, d) and which modules ran, (M, 4 blocks) of 0 and 1.

    Args:
        dim: width.
        blocks, heads, kernel, expansion, dropout: as those of `Conformer`.
        gated: whether modules have gates.
        temperature: of the Gumbel-softmax samples in training.
    """

    def __init__(
        self,
        dim: int,
        blocks: int = 3,
        heads: int = 4,
        kernel: int = 15,
        expansion: int = 2,
        dropout: float = 0.0,
        gated: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        at_least(1, dim=dim, blocks=blocks, heads=heads, kernel=kernel, expansion=expansion)
        above_zero(temperature=temperature)
        share(dropout=dropout, below_one=True)
        self.dim, self.kernel, self.expansion, self.gated = dim, kernel, expansion, gated
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            GatedBlock(dim, heads, kernel, expansion, dropout, gated, temperature) for _ in range(blocks)
        )

    def use_gates(self, used: bool) -> None:
        """Whether gates decide; without, every module runs."""
        for block in self.blocks:
            block.gating = used and self.gated  # type: ignore[assignment]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(x)
        decisions: list[Tensor] = []
        for block in self.blocks:
            x, made = block(x)
            decisions += made
        return x, torch.cat(decisions, 1).to(x.dtype)

    @property
    def modules_named(self) -> list[str]:
        """What the columns of the decisions stand for: ``1.feed_forward``, ``1.attention`` ..."""
        return [f"{number + 1}.{name}" for number in range(len(self.blocks)) for name in MODULES]

    def module_macs(self, steps: int) -> list[int]:
        """Multiply-accumulates of each module over a window of so many steps, in the order of the decisions.

        Matrix products and convolutions. Codes of relative positions depend on nothing but the weights: no part of
        a call, an exported graph holds them ready.
        """
        d, n = self.dim, steps
        feed_forward = 2 * self.expansion * d * d * n
        attention = 4 * d * d * n + 2 * d * n * n + d * n * (2 * n - 1)  # the last: queries by relative positions
        convolution = 3 * d * d * n + self.kernel * d * n
        return [feed_forward, attention, convolution, feed_forward] * len(self.blocks)
