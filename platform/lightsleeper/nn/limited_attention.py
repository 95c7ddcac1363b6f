"""A transformer whose frames see a stated number of past and future frames, in clips and in streams.

Query i of a layer attends to keys j with i - past <= j <= i + future; what lies outside the clip is absent, it is not
zero. Positions are a learned bias by i - j: absolute ones would differ between a clip and a long stream. Layers add up:
``past`` counts per layer, so L of them see L * past frames; ``future`` is the total, and by default the first layer has
all of it (the second needs no look-ahead of its own then, and no queue), or it is spread evenly.

Every mask is the one that was asked for: attention shortcuts that trust a flag "is_causal" over a mask given beside it
are not used. The streaming paper leaves layers, heads and positions open; ours are those of the dossier (section 4.2):
pre-norm, 8 heads, feed-forward of four times the width, dropout 0.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, EXPANSION, DROPOUT = 8, 4, 0.1
POSITIONS = 64
"""Distance from which on positions look alike, where a side is unlimited."""
ABSENT = -1e30  # in place of -inf: a row without any key stays finite, and exp of it is 0 in any precision

Limit = int | None


def context_mask(frames: int, past: Limit, future: Limit, device: torch.device | None = None) -> Tensor:
    """(frames, frames), True where row i may attend to column j. None is unlimited.

    >>> context_mask(3, past=1, future=0).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    distance = _distances(frames, device)
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if past is not None:
        allowed &= distance <= past
    if future is not None:
        allowed &= distance >= -future
    return allowed


def _distances(frames: int, device: torch.device | None) -> Tensor:
    at = torch.arange(frames, device=device)
    return at[:, None] - at[None, :]  # i - j


def placed(future: Limit, layers: int, spread: bool = False) -> list[Limit]:
    """The total look-ahead of ``future`` frames layer by layer: all in the first, or evenly with the rest in the first.

    >>> placed(5, 2), placed(5, 2, spread=True)
    ([5, 0], [3, 2])
    """
    if future is None:
        return [None] * layers
    if not spread:
        return [future, *([0] * (layers - 1))]
    return [future // layers + (layer < future % layers) for layer in range(layers)]


class LimitedLayer(nn.Module):
    """Pre-norm attention and feed-forward over (B, T, dim), residuals included.

    Args:
        dim: Width, a multiple of ``heads``.
        past, future: Frames that a query sees on either side; None is unlimited.
        heads: Attention heads.
        dropout: Of attention and of both residual branches.
    """

    def __init__(
        self,
        dim: int,
        past: Limit,
        future: Limit,
        heads: int = HEADS,
        dropout: float = DROPOUT,
        expansion: int = EXPANSION,
    ) -> None:
        super().__init__()
        self.dim, self.past, self.future, self.heads = dim, past, future, heads
        self.before = POSITIONS if past is None else past  # distances with a position of their own
        self.after = POSITIONS if future is None else future
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inward, self.outward = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, expansion * dim), nn.Linear(expansion * dim, dim)
        self.positions = nn.Parameter(torch.zeros(heads, self.before + self.after + 1))  # of i - j from -after on
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Limit = None, future: Limit = None) -> Tensor:
        """``past`` and ``future`` narrow the layer's own limits for this call."""
        frames = x.shape[1]
        past, future = narrower(past, self.past), narrower(future, self.future)
        query, key, value = (self._split(part) for part in self.inward(self.attention_norm(x)).chunk(3, -1))
        distance = _distances(frames, x.device).clamp(-self.after, self.before) + self.after
        mask = context_mask(frames, past, future, x.device)
        bias = self.positions[:, distance].masked_fill(~mask, ABSENT)  # (heads, T, T)
        rate = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, bias[None].to(x.dtype), rate)
        return self.finish(x, mixed)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, dim / heads)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention: ``mixed`` (B, heads, T, dim / heads) joins ``x``, then the feed-forward branch."""
        x = x + self.dropout(self.outward(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(self.dropout(F.gelu(self.widen(self.norm(x))))))

    # Frame by frame.

    @property
    def columns(self) -> int:
        """Frames whose keys and values are kept: past + future + 1. Raises ValueError where a side is unlimited."""
        if self.past is None or self.future is None:
            raise ValueError("a layer that sees all of the past or of the future does not stream")
        return self.past + self.future + 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers kept: keys, values, inputs that wait for their look-ahead, marks of the columns that are there."""
        ring = self.columns * self.dim
        return ring, ring, int(self.future or 0) * self.dim, self.columns

    def by_age(self, age: Tensor) -> Tensor:
        """Bias (heads, columns) of columns that arrived ``age`` (columns,) frames ago, for the query that is due."""
        return self.positions[:, age]  # i - j = age - future, and the table begins at -future

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, there: Tensor) -> Tensor:
        """One query (B, dim) over columns (B, columns, dim); ``there`` (B, columns) is 0 for absent ones."""
        key, value = self._split(keys), self._split(values)
        scores = (self._split(query[:, None]) * (self.dim // self.heads) ** -0.5) @ key.transpose(2, 3)
        scores = (scores + bias[None, :, None]).masked_fill(there[:, None, None] < 0.5, ABSENT)
        return scores.softmax(-1) @ value  # (B, heads, 1, dim / heads)

    def step(self, x: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next frame ``x`` (B, dim) of streams at ``state``; ``present`` (B,) is 0 where there is none.

        Gives the frame that is now complete, which arrived ``future`` steps ago, whether there was one, and the state.
        """
        kept = state.split(self.sizes, 1)
        query, key, value = self.inward(self.attention_norm(x)).chunk(3, -1)
        keys, values = (
            torch.cat([part.unflatten(1, (-1, self.dim))[:, 1:], new[:, None]], 1)
            for part, new in zip(kept[:2], (key, value), strict=True)
        )
        there = torch.cat([kept[3][:, 1:], present[:, None]], 1)
        waiting = torch.cat([kept[2].unflatten(1, (-1, self.dim)), x[:, None]], 1) if self.future else x[:, None]
        due = waiting[:, 0]
        if self.future:
            query = self.inward(self.attention_norm(due))[:, : self.dim]
        bias = self.by_age(torch.arange(self.columns - 1, -1, -1, device=x.device))
        y = self.finish(due[:, None], self.attend(query, keys, values, bias, there))[:, 0]
        state = torch.cat([keys.flatten(1), values.flatten(1), waiting[:, 1:].flatten(1), there], 1)
        return y, there[:, self.past], state


def narrower(asked: Limit, own: Limit) -> Limit:
    """The smaller of two limits, of which None is unlimited."""
    return own if asked is None else asked if own is None else min(asked, own)


class LimitedTransformer(nn.Module):
    """Layers with limited context over (B, T, dim), and a norm behind them.

    Args:
        dim: Width.
        layers: How many.
        past: Frames that each layer sees behind a query; None is unlimited.
        future: Frames that all layers together see ahead; None is unlimited.
        spread: Whether the look-ahead is spread over the layers; else the first has it all.
        heads: Attention heads.
        dropout: In training.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 1,
        past: Limit = 32,
        future: Limit = 0,
        spread: bool = False,
        heads: int = HEADS,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        self.dim, self.past, self.future, self.spread = dim, past, future, spread
        ahead = placed(future, layers, spread)
        self.layers = nn.ModuleList(LimitedLayer(dim, past, each, heads, dropout) for each in ahead)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: Limit = None, future: Limit = None) -> Tensor:
        """``past`` and ``future`` narrow the budget for this call (one model for several budgets)."""
        ahead = placed(narrower(future, self.future), len(self.layers), self.spread)
        for layer, each in zip(self.layers, ahead, strict=True):
            x = layer(x, past, each)
        return self.norm(x)

    def reach(self) -> tuple[Limit, Limit]:
        """Frames that an output sees behind and ahead, all layers together."""
        return None if self.past is None else self.past * len(self.layers), self.future

    @property
    def streams(self) -> bool:
        return None not in (self.past, self.future)

    @property
    def sizes(self) -> list[int]:
        return [sum(layer.sizes) for layer in self.layers]  # type: ignore[arg-type]

    @property
    def state_size(self) -> int:
        """Numbers kept between two frames; the rings are 2 * (past + future + 1) * dim of them in each layer."""
        return sum(self.sizes)

    def step(self, x: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`LimitedLayer.step` through all layers; ready after ``future`` steps."""
        new = []
        for layer, kept in zip(self.layers, state.split(self.sizes, 1), strict=True):
            x, present, kept = layer.step(x, present, kept)  # type: ignore[operator]
            new.append(kept)
        return self.norm(x), present, torch.cat(new, 1)


def narrowed(table: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Positions (heads, before + after + 1) of a layer with ``old`` (before, after) for one that sees no further.

    Raises ValueError for one that sees further.
    """
    cut = [had - wanted for had, wanted in zip(old, new, strict=True)]
    if min(cut) < 0:
        raise ValueError(f"positions for {old[0]} frames back and {old[1]} ahead; {new[0]} and {new[1]} were asked for")
    return table[:, cut[1] : table.shape[1] - cut[0]]
