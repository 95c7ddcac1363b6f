"""Caches through which ranks exchange keys and values: transformers' own, which a model updates once a layer.

`RunaheadCache` starts with the prefix in place: receive buffers of its length, filled while the rank computes. The
first thing that needs a layer's prefix is `update`, so that is where it is waited for, appended to and sent on, before
the layer's attention begins. Lengths and masks follow from the buffers, by transformers' own rules.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lightsleeper.generation.layout import Layout, contents, last_layer
from lightsleeper.generation.transport import Receipt, Transport


@dataclass
class Step:
    """One layer on one rank, in seconds of the machine's monotonic clock."""

    layer: int
    asked: float
    """The rank's own keys and values are there."""
    present: float
    """Those of the prefix are, too."""
    left: float
    """Appended, and sent on where a rank follows."""
    products: int
    """Query-key pairs that its attention is given, masked ones included, a head and sequence."""

    @property
    def waited(self) -> float:
        return self.present - self.asked


@dataclass
class Trace:
    """What a rank did in one prefill."""

    steps: list[Step] = field(default_factory=list)
    begin: float = 0.0
    end: float = 0.0

    @property
    def waited(self) -> float:
        """Seconds in which the rank had nothing to do but to wait for its prefix."""
        return sum(step.waited for step in self.steps)


class HandedOverError(Exception):
    """Raised out of a model's forward: the last layer's keys and values have left, nobody needs the rest."""


class RunaheadCache(DynamicCache):
    """One rank's cache in a chain: a prefix from the rank before (or ``past``), its own tokens, a rank behind.

    Args:
        before, after: Neighbours' ranks; None at the ends of the chain.
        prefix: Tokens before this rank's own, an existing cache among them.
        past: The existing cache, on the first rank.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        layout: Layout,
        transport: Transport | None,
        rows: int,
        device: torch.device,
        prefix: int = 0,
        before: int | None = None,
        after: int | None = None,
        past: DynamicCache | None = None,
    ) -> None:
        super().__init__(config=config)
        self.trace = Trace()
        self._transport, self._after = transport, after
        self._last = last_layer(layout)
        self._coming: dict[int, tuple[Receipt, Receipt]] = {}
        while len(self.layers) < len(layout):  # a config without layer types: the cache grows by its own
            self.layers.append(DynamicLayer())
        for index, shape in enumerate(layout):
            layer = self.layers[index]
            if shape is None or not isinstance(layer, DynamicLayer) or prefix == 0:
                continue
            if before is None:
                assert past is not None
                keys, values = contents(past, index)
            else:
                count = shape.kept(prefix)
                keys = torch.empty(rows, shape.key_heads, count, shape.key_width, dtype=shape.dtype, device=device)
                values = torch.empty(
                    rows, shape.value_heads, count, shape.value_width, dtype=shape.dtype, device=device
                )
                assert transport is not None
                self._coming[index] = (
                    transport.receive(keys, before, 2 * index),
                    transport.receive(values, before, 2 * index + 1),
                )
            start_with(layer, keys, values, prefix)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to the prefix, once it has come, and send on; keys and values (B, G, n, e) for the attention.

        Raises HandedOverError after the last layer where a rank follows.
        """
        asked = time.monotonic()
        for receipt in self._coming.pop(layer_idx, ()):
            receipt.wait()
        present = time.monotonic()
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self._after is not None:
            assert self._transport is not None
            for part, tensor in enumerate(contents(self, layer_idx)):
                self._transport.send(tensor, self._after, 2 * layer_idx + part)
        products = key_states.shape[-2] * keys.shape[-2]
        self.trace.steps.append(Step(layer_idx, asked, present, time.monotonic(), products))
        if self._after is not None and layer_idx == self._last:
            raise HandedOverError
        return keys, values

    def plain(self) -> DynamicCache:
        """The same layers as transformers' own cache, for `generate`."""
        cache = DynamicCache()
        cache.layers, cache.layer_class_to_replicate = self.layers, self.layer_class_to_replicate
        return cache


class GatherCache(DynamicCache):
    """One rank's cache in sequence parallelism: every layer's keys and values are gathered by all ranks at once.

    ``dense``: attention is given all tokens, later ones to be masked; else those up to the rank's own.
    """

    def __init__(self, split: tuple[int, ...], rank: int, group: Any, dense: bool) -> None:
        super().__init__()
        self.trace = Trace()
        self._split, self._rank, self._group, self._dense = split, rank, group, dense
        self._before = sum(split[:rank])
        self.gathered_bytes = 0
        """That this rank sent to all others."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._before

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return (sum(self._split) if self._dense else self._before + query_length), 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Gather; keys and values (B, G, n, e) for the attention."""
        asked = time.monotonic()
        pieces = self._gather(key_states, value_states)
        present = time.monotonic()
        keys, values = (torch.cat(parts, dim=-2) for parts in zip(*pieces, strict=True))
        keys, values = super().update(keys, values, layer_idx, *args, **kwargs)
        seen = sum(self._split) if self._dense else self._before + key_states.shape[-2]
        self.trace.steps.append(Step(layer_idx, asked, present, time.monotonic(), key_states.shape[-2] * seen))
        return keys[:, :, :seen], values[:, :, :seen]

    def _gather(self, keys: Tensor, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every rank's (keys, values); pieces travel padded to the longest, as the collective wants."""
        longest = max(self._split)
        own = torch.cat([keys, values], dim=-1)  # (B, G, c, 2 e)
        padded = own.new_zeros(*own.shape[:2], longest, own.shape[-1])
        padded[:, :, : own.shape[2]] = own
        landing = [torch.empty_like(padded) for _ in self._split]
        dist.all_gather(landing, padded, group=self._group)
        self.gathered_bytes += (len(self._split) - 1) * padded.numel() * padded.element_size()
        width = keys.shape[-1]
        cut = [piece[:, :, :count] for piece, count in zip(landing, self._split, strict=True)]
        return [(piece[..., :width], piece[..., width:]) for piece in cut]


def start_with(layer: DynamicLayer, keys: Tensor, values: Tensor, tokens: int) -> None:
    """Let ``layer`` hold a prefix of ``tokens``, of which ``keys`` and ``values`` are those still needed."""
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = tokens
