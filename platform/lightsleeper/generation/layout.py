"""Which models a chain of ranks can prefill, and the shape of what they hand over.

A model qualifies when everything that a token needs of earlier ones is their keys and values in transformers' cache,
and when these depend on earlier tokens only. What the config says is refused first, by name; then three tokens go
through the model, which also tells the heads and widths of every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from lightsleeper.errors import UserError

HANDED_OVER = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)  # DummyLayer: uses another layer's keys
CAPACITY = ("expert_capacity", "moe_expert_capacity", "moe_capacity_factor", "capacity_factor")
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the largest key; narrower types: 5e-2


@dataclass(frozen=True)
class LayerShape:
    """Keys (B, key_heads, n, key_width) and values (B, value_heads, n, value_width) of one layer's cache."""

    key_heads: int
    key_width: int
    value_heads: int
    value_width: int
    dtype: torch.dtype
    window: int | None
    """Tokens that a query sees, its own among them; None: all."""

    def kept(self, tokens: int) -> int:
        """Of a prefix of ``tokens``, those whose keys are still needed."""
        return tokens if self.window is None else min(tokens, self.window - 1)

    def bytes(self, tokens: int) -> int:
        """Of one sequence's keys and values after ``tokens``."""
        width = self.key_heads * self.key_width + self.value_heads * self.value_width
        return self.kept(tokens) * width * self.dtype.itemsize


Layout = tuple[LayerShape | None, ...]
"""One entry a layer; None for a layer without a cache of its own."""


def last_layer(layout: Layout) -> int:
    """The last layer with keys and values of its own: the last thing that later ranks wait for."""
    return max(index for index, shape in enumerate(layout) if shape is not None)


def link_bytes(layout: Layout, tokens: int, rows: int = 1) -> int:
    """What a link carries behind which ``tokens`` tokens lie, in ``rows`` sequences."""
    return rows * sum(shape.bytes(tokens) for shape in layout if shape is not None)


def contents(cache: DynamicCache, index: int) -> tuple[Tensor, Tensor]:
    """Keys and values (B, heads, n, width) of a layer that has some."""
    layer: Any = cache.layers[index]
    return layer.keys, layer.values


def passed(model: PreTrainedModel, cache: DynamicCache) -> dict[str, Any]:
    """Arguments that hand ``cache`` to ``model``: `cache` from transformers 5.24 on, `past_key_values` before."""
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    return {name: cache, "use_cache": True}


@torch.no_grad()
def inspect(model: PreTrainedModel) -> Layout:
    """The layout of ``model``'s cache. Raises UserError, by name, for a model that a chain would get wrong."""
    name = f"{type(model).__name__} ({model.config.model_type})"
    _refuse_by_config(model, name)
    if model.training:
        raise ValueError("a model in training mode drops units at random: call model.eval() first")
    first, other = _probe(model, name, [[1, 2, 3], [1, 2, 4]])
    shapes = tuple(_shape(layer, index, name) for index, layer in enumerate(first.layers))
    if not any(shapes):
        raise UserError(f"{name} put nothing into the cache: a chain of ranks has nothing to hand over.")
    continued = _probe(model, name, [[1, 2]])[0]
    model(input_ids=_ids(model, [3]), **passed(model, continued))
    for index, shape in enumerate(shapes):
        if shape is None:
            continue
        keys = contents(first, index)[0]
        if not _same(keys[:, :, :2], contents(other, index)[0][:, :, :2]):
            raise UserError(
                f"{name}: keys of layer {index} depend on later tokens (bidirectional or prefix attention), so that no "
                "rank can make its part before the whole prompt is known."
            )
        if not _same(keys, contents(continued, index)[0]):
            raise UserError(
                f"{name}: keys of layer {index} differ when the prompt comes in two parts: something besides the cache "
                "is carried from token to token."
            )
    return shapes


def _refuse_by_config(model: PreTrainedModel, name: str) -> None:
    config = model.config.get_text_config(decoder=True)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder: its encoder reads the whole prompt at once.")
    for field in CAPACITY:
        if getattr(config, field, None) is not None:
            raise UserError(
                f"{name}: experts have a capacity ({field}), which each rank would fill by itself: it would drop other "
                "tokens than one process does."
            )
    try:
        layers = DynamicCache(config=config).layers
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{name}: transformers has no growing cache for it ({error}).") from error
    for index, layer in enumerate(layers):
        if type(layer) not in HANDED_OVER:
            raise UserError(
                f"{name}: layer {index} keeps a {type(layer).__name__}, a state that is not one key and value a token "
                "(Mamba, linear attention, convolution)."
            )


def _probe(model: PreTrainedModel, name: str, prompts: Sequence[Sequence[int]]) -> list[DynamicCache]:
    caches = []
    for prompt in prompts:
        cache = DynamicCache(config=model.config)
        try:
            model(input_ids=_ids(model, prompt), **passed(model, cache))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{name} does not work with transformers' cache: {error}") from error
        caches.append(cache)
    return caches


def _ids(model: PreTrainedModel, prompt: Sequence[int]) -> Tensor:
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    return torch.tensor([[token % vocabulary for token in prompt]], device=model.device)


def _shape(layer: object, index: int, name: str) -> LayerShape | None:
    if not isinstance(layer, DynamicLayer) or not layer.is_initialized:
        return None
    keys, values = layer.keys, layer.values
    if keys is None or values is None or keys.dim() != 4 or keys.shape[:1] + keys.shape[2:3] != (1, 3):
        raise UserError(f"{name}: the cache of layer {index} is not (batch, heads, tokens, width).")
    window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[1], values.shape[3], keys.dtype, window)


def _same(these: Tensor, those: Tensor) -> bool:
    if these.shape != those.shape:
        return False
    limit = TOLERANCE.get(these.dtype, 5e-2) * float(these.abs().max())
    return bool((these - those).abs().max() <= limit)
