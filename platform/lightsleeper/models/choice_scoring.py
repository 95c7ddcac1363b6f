"""The likelihood of each choice of a multiple-choice item under a causal language model.

The context is read once for all choices: its cache is handed to each. Batches: `data.choice_batches.ChoiceRows`.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from lightsleeper.models import hub

IGNORED = -100  # a target that is not scored
CACHES = ("cache", "past_key_values")  # what networks call it, from transformers 5.24 on and before


def log_likelihoods(net: nn.Module, batch: Mapping[str, Tensor], share: bool = True) -> Tensor:
    """Nats of each choice (R,): the sum over its scored tokens, float32.

    ``share=False`` reads each choice with a context of its own, as do networks whose cache is not one of keys and
    values; what they find differs by rounding.
    """
    logits = None
    name = next((name for name in CACHES if hub.takes(net, name)), None)
    if share and batch["prefix"].shape[1] and name is not None:
        logits = _with_shared_context(net, batch, name)
    if logits is None:
        logits = _each_by_itself(net, batch)
    losses = F.cross_entropy(logits.float().mT, batch["targets"], ignore_index=IGNORED, reduction="none")
    return -losses.sum(1)


def scored_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Tokens (R,) behind each log-likelihood."""
    return (batch["targets"] != IGNORED).sum(1)


def _with_shared_context(net: nn.Module, batch: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Logits (R, T, vocabulary), the cache an argument and an output of this ``name``; None where it cannot be handed
    to several rows."""
    prefix, lengths, item = batch["prefix"], batch["prefix_lengths"], batch["item"]
    width = prefix.shape[1]
    mask = torch.arange(width, device=prefix.device) >= width - lengths[:, None]  # padded on the left
    positions = mask.cumsum(1).sub(1).clamp_min(0)
    last = {"logits_to_keep": 1} if hub.takes(net, "logits_to_keep") else {}
    read = net(prefix, attention_mask=mask.long(), use_cache=True, **_places(net, positions), **last)
    cache = getattr(read, name)
    if not _of_keys_and_values(cache):
        return None
    cache.batch_select_indices(item)
    tails = batch["tails"]
    # Behind a tail's end no position may leave the window: what stands there is not scored.
    steps = torch.arange(tails.shape[1], device=tails.device).minimum(batch["tail_lengths"][:, None] - 1)
    seen = torch.cat([mask[item], torch.ones_like(tails, dtype=torch.bool)], 1).long()
    places = _places(net, lengths[item][:, None] + steps)
    return net(tails, attention_mask=seen, use_cache=True, **{name: cache}, **places).logits


def _places(net: nn.Module, positions: Tensor) -> dict[str, Tensor]:
    """Networks without this argument count positions by the mask."""
    return {"position_ids": positions} if hub.takes(net, "position_ids") else {}


def _of_keys_and_values(cache: Any) -> bool:
    return isinstance(cache, DynamicCache) and all(hasattr(layer, "keys") for layer in cache.layers)


def _each_by_itself(net: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Logits (R, T, vocabulary) of contexts and tails read together, padded on the right."""
    prefix, item, tails = batch["prefix"], batch["item"], batch["tails"]
    width, steps = prefix.shape[1], tails.shape[1]
    lengths = batch["prefix_lengths"][item][:, None]  # (R, 1)
    rows = torch.cat([prefix[item], tails], 1)
    places = torch.arange(width + steps, device=rows.device) + (width - lengths)  # to the left
    used = int((lengths[:, 0] + batch["tail_lengths"]).max())
    rows = rows.gather(1, places[:, :used].clamp_max(width + steps - 1))
    logits = net(rows, use_cache=False).logits
    ends = (lengths + torch.arange(steps, device=rows.device)).clamp_max(used - 1)
    return logits.gather(1, ends[..., None].expand(-1, -1, logits.shape[-1]))
