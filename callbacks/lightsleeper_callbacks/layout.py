"""How a clustered weight is cut: into groups of output channels, a table each; these into vectors and a raw tail."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """One table of 2**bits vectors of ``dim`` numbers for every ``group_size`` output channels (None: for all)."""

    bits: int
    dim: int = 1
    group_size: int | None = None
    transposed: bool = False
    """Whether output channels are the second axis."""

    @property
    def entries(self) -> int:
        return 1 << self.bits

    def sizes(self, shape: Sequence[int]) -> list[int]:
        """Numbers in each group."""
        rows = shape[self.transposed]
        step = self.group_size or rows
        return [min(step, rows - at) * (math.prod(shape) // rows) for at in range(0, rows, step)]

    def split(self, weight: Tensor) -> list[Tensor]:
        """The groups of a weight, each flat (n,): its output channels one after the other."""
        if self._in_memory_order:
            return [weight.reshape(-1)]
        rows = (weight.transpose(0, 1) if self.transposed else weight).flatten(1)
        return [part.reshape(-1) for part in rows.split(self.group_size or len(rows))]

    def join(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The weight that ``split`` took apart."""
        flat = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        if self._in_memory_order or not self.transposed:
            return flat.view(*shape)
        return flat.view(shape[1], shape[0], *shape[2:]).transpose(0, 1).contiguous()

    def stored_bytes(self, shape: Sequence[int], number: int = 4) -> int:
        """Indices of N / d vectors, ``bits`` each, rounded up to a byte; tables of 2^bits d numbers; the raw tails.

        ``number``: bytes of a number.
        """
        sizes = self.sizes(shape)
        vectors, tail = sum(size // self.dim for size in sizes), sum(size % self.dim for size in sizes)
        return -(-vectors * self.bits // 8) + (len(sizes) * self.entries * self.dim + tail) * number

    @property
    def _in_memory_order(self) -> bool:
        return self.group_size is None and (self.dim == 1 or not self.transposed)
