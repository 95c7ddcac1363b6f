"""Work and traffic of a prefill, counted from shapes, and what they allow at most.

A product is one query with one key, a head. Bounds count floating-point operations of matrix products at one rate for
all of them, so they compare methods, not machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from lightsleeper.generation.layout import Layout
from lightsleeper.generation.split import Split, ends, even

Method = Literal["one", "chunked", "gather", "gather-skip", "chain"]


def chain_products(split: Sequence[int]) -> list[int]:
    """Query-key products that attention is given on each rank: c_i P_i, the masked ones of the own block included."""
    return [own * end for own, end in zip(split, ends(split), strict=True)]


def chain_moved(split: Sequence[int]) -> int:
    """Vectors of keys and values that a chain moves, a layer and head: twice the prefixes of all but the last."""
    return 2 * sum(ends(split)[:-1])


def gather_products(split: Sequence[int]) -> list[int]:
    """The same of a dense all-gather: every rank's queries meet all keys."""
    return [own * sum(split) for own in split]


def gather_moved(split: Sequence[int]) -> int:
    """Every rank's keys and values go to all others."""
    return 2 * (len(split) - 1) * sum(split)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a model: two for a multiplication and its addition."""

    linear: float
    """Of all blocks, a token."""
    product: float
    """Of all blocks, a query-key product with all heads: the score and the weighted value."""
    head: float
    """Of the last token's logits."""
    layers: int

    def of(self, tokens: int, pairs: float) -> float:
        """Of ``tokens`` through all blocks, with ``pairs`` query-key products."""
        return self.linear * tokens + self.product * pairs


def flops_of(model: PreTrainedModel, layout: Layout) -> Flops:
    """Counted from the weights of the blocks; experts count as if all were used."""
    config = model.config.get_text_config(decoder=True)
    head = model.get_output_embeddings()
    outside = {id(parameter) for parameter in (model.get_input_embeddings().weight, getattr(head, "weight", None))}
    weights = sum(
        parameter.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() >= 2 and id(parameter) not in outside
    )
    shapes = [shape for shape in layout if shape is not None]
    pair = sum(2 * config.num_attention_heads * (shape.key_width + shape.value_width) for shape in shapes)
    final = 0 if head is None else 2 * head.weight.numel()
    return Flops(2.0 * weights, float(pair), float(final), len(shapes))


def causal(tokens: int, before: int = 0) -> float:
    """Products of ``tokens`` that see ``before`` others and each other causally, no masked pair among them."""
    return tokens * before + tokens * (tokens + 1) / 2


def critical(flops: Flops, method: Method, tokens: int, ranks: int, split: Split | None = None) -> float:
    """Operations of the busiest process until the first token.

    A chain without a ``split`` is counted with its best one. Its ranks before the last need no last block beyond keys
    and values, which is left out here as (L - 1) / L of a block's work.
    """
    if method in ("one", "chunked"):
        return flops.of(tokens, causal(tokens)) + flops.head
    if method == "chain":
        if split is None:
            return _best_chain(flops, tokens, ranks)
        return max(_chain_work(flops, split))
    pieces = even(tokens, ranks)
    if method == "gather":
        return max(flops.of(own, own * tokens) for own in pieces) + flops.head
    starts = [end - own for own, end in zip(pieces, ends(pieces), strict=True)]
    return max(flops.of(own, causal(own, start)) for own, start in zip(pieces, starts, strict=True)) + flops.head


def _chain_work(flops: Flops, split: Sequence[int]) -> list[float]:
    work = []
    for rank, (own, end) in enumerate(zip(split, ends(split), strict=True)):
        whole = flops.of(own, causal(own, end - own))
        last = rank == len(split) - 1
        work.append(whole + flops.head if last else whole * (flops.layers - 1) / flops.layers)
    return work


def _best_chain(flops: Flops, tokens: int, ranks: int) -> float:
    """The least that the busiest rank can have: work is shared out without a remainder, by bisection on the limit.

    A rank's work grows with its own tokens, so that the longest pieces within a limit reach furthest.
    """
    low, high = 0.0, flops.of(tokens, causal(tokens)) + flops.head
    for _ in range(60):
        limit = (low + high) / 2
        if _reach(flops, limit, ranks) >= tokens:
            high = limit
        else:
            low = limit
    return high


def _reach(flops: Flops, limit: float, ranks: int) -> float:
    """Tokens that ``ranks`` cover when none works longer than ``limit``."""
    covered = 0.0
    for rank in range(ranks):
        budget = limit - flops.head if rank == ranks - 1 else limit * flops.layers / max(flops.layers - 1, 1)
        # linear c + product (c covered + c^2 / 2) = budget
        slope = flops.linear + flops.product * (covered + 0.5)
        root = (slope**2 + 2 * flops.product * max(budget, 0.0)) ** 0.5
        covered += (root - slope) / flops.product if flops.product else budget / slope
    return covered
