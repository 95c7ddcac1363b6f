"""Which parts of a trained transformer a smaller one is made of, and their transfer."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lightsleeper_callbacks.subclone_scores import Scores
from lightsleeper_callbacks.subclone_wiring import (
    OWN,
    UNTIED,
    Sizes,
    Wire,
    check_blocks,
    family_of,
    is_tied,
    matches,
    weights_below_base,
    wiring,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Blocks = Literal["middle", "first", "strided", "score"]


@dataclass(frozen=True)
class Kept:
    """What of the parent the destination is made of; indices into the parent, most important first."""

    blocks: tuple[int, ...]
    """The parent's block behind each of the destination's."""
    stream: Tensor
    """(width,)"""
    heads: tuple[Tensor, ...]
    """Per block of the destination (heads * head width,): neurons of whole query heads."""
    groups: tuple[Tensor, ...]
    """The same of key and value heads."""
    hidden: tuple[Tensor, ...]
    """Per block (hidden,)"""

    def index(self, axis: str, block: int | None, before: int, after: int) -> Tensor:
        """Which of ``before`` entries along an axis become the ``after`` ones of the destination's ``block``."""
        if axis == "stream":
            return self.stream
        if axis in ("all", "positions"):
            return torch.arange(after)
        assert block is not None, f"axis '{axis}' outside a block"
        if axis == "qkv":
            return torch.cat([self.heads[block] + part * (before // 3) for part in range(3)])
        return getattr(self, axis)[block]


def choose_blocks(before: int, after: int, how: Blocks = "middle", shares: Tensor | None = None) -> tuple[int, ...]:
    """Which of ``before`` blocks stay, rising.

    "middle" keeps the first ceil(after / 2) and the last floor(after / 2). "score" needs ``shares`` (before,), how much
    each block changes the stream; the first block always stays, and the last one unless one block is all that stays.
    """
    if not 1 <= after <= before:
        raise ValueError(f"{after} blocks cannot be kept of {before}")
    if how == "first":
        return tuple(range(after))
    if how == "strided":
        return tuple(i * (before - 1) // max(after - 1, 1) for i in range(after))
    start, dropped = (after + 1) // 2, before - after
    if how == "score" and dropped:
        assert shares is not None
        starts = range(1, max(after, 2))
        start = min(starts, key=lambda s: float(shares[s : s + dropped].double().sum()))
    return (*range(start), *range(start + dropped, before))


def keep(before: Sizes, after: Sizes, scores: Scores, blocks: tuple[int, ...]) -> Kept:
    """The highest scores first: residual neurons, and in each kept block heads and hidden neurons.

    Grouped queries: the key and value heads whose best queries score most stay, each with equally many of its queries.
    """
    heads, groups = zip(*(_choose_heads(before, after, scores.heads[block]) for block in blocks), strict=True)
    return Kept(
        blocks=blocks,
        stream=_top(scores.stream, after.width),
        heads=heads,
        groups=groups,
        hidden=tuple(_top(scores.hidden[block], after.hidden) for block in blocks),
    )


def _choose_heads(before: Sizes, after: Sizes, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Neurons of the kept query heads and of the key and value heads; a group's queries stay side by side."""
    size, kept = before.heads // before.groups, after.heads // after.groups
    by_group = scores.reshape(before.groups, size)
    ranked, members = by_group.sort(dim=1, descending=True, stable=True)
    groups = _top(ranked[:, :kept].sum(1), after.groups)
    heads = (groups[:, None] * size + members[groups, :kept]).flatten()
    return _neurons(heads, before.head_width), _neurons(groups, before.head_width)


def _neurons(heads: Tensor, width: int) -> Tensor:
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _top(scores: Tensor, count: int) -> Tensor:
    return scores.argsort(descending=True, stable=True)[:count]


def cut(weight: Tensor, wire: Wire, kept: Kept, shape: Collection[int]) -> Tensor:
    """The part of the parent's ``weight`` that has ``shape`` in the destination, entries in their new order."""
    for axis, (word, after) in enumerate(zip(wire.axes, shape, strict=True)):
        index = kept.index(word, wire.block, weight.shape[axis], after)
        weight = weight.index_select(axis, index.to(weight.device))
    return weight


@torch.no_grad()
def transfer(
    parent: "PreTrainedModel",
    destination: "PreTrainedModel",
    kept: Kept,
    scaled: bool = True,
    absent: Collection[str] = (),
) -> tuple[str, ...]:
    """Copy what is ``kept``; returns the names of weights that the parent cannot fill (heads of another task).

    A weight that sums over fewer inputs is multiplied by sqrt(before / after). An output layer tied to the embedding
    has two roles and cannot be: the norm before it takes the factor, which multiplies the logits just the same.
    Buffers are the destination's own. Nothing is written before all is checked; raises ValueError.
    """
    if is_tied(destination) and parent.get_output_embeddings() is not None and not is_tied(parent):
        raise ValueError(UNTIED)
    check_blocks(parent.config, destination.config, kept.blocks)
    family, parts = family_of(parent.config), list(destination.named_parameters())
    sources, wires = weights_below_base(parent), wiring(destination)
    known = {wire.pattern for wire in wires.values()}
    for name, wire in wiring(parent).items():
        if wire.body and wire.pattern not in known and not matches(wire.pattern, OWN):
            raise ValueError(f"the parent has '{name}', the destination has no such weight")
    fresh = tuple(name for name, part in parts if not _can_fill(name, part, wires[name], kept, sources, absent))
    for name, part in parts:
        if name in fresh:
            continue
        wire, source = wires[name], sources[source_of(wires[name], kept)]
        piece = cut(source, wire, kept, part.shape).to(part.dtype)
        factor = 1.0
        if wire.summed is not None:
            factor = math.sqrt(source.shape[wire.summed] / part.shape[wire.summed])
        elif is_tied(destination) and matches(wire.pattern, (family.last_norm,)):
            factor = math.sqrt(parent.config.hidden_size / destination.config.hidden_size)
        part.copy_(piece * factor if scaled and factor != 1.0 else piece)
    return fresh


def source_of(wire: Wire, kept: Kept) -> str:
    return wire.of(None if wire.block is None else kept.blocks[wire.block])


def _can_fill(
    name: str, part: Tensor, wire: Wire, kept: Kept, sources: Mapping[str, Tensor], absent: Collection[str]
) -> bool:
    """Whether the parent has this weight; a weight of the body that it must have raises ValueError."""
    source = source_of(wire, kept)
    found = sources.get(source) if source not in absent else None
    if found is None:
        if wire.body and not matches(wire.pattern, OWN):
            raise ValueError(f"the parent has no weight for the destination's '{name}'")
        return False
    for word, before, after in zip(wire.axes, found.shape, part.shape, strict=True):
        if after > before or (word == "all" and after != before):
            if not wire.body:
                return False
            raise ValueError(
                f"'{name}' is {tuple(part.shape)}: it cannot be cut from the parent's {tuple(found.shape)}"
            )
    return True
