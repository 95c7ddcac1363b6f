"""Attention of the last tokens over a longer prefix, without the masked half of their own block.

transformers hands a cached prefix and several new tokens to torch with a written-out mask, because torch aligns its
causal flag to the upper left. The kernels then work on masked pairs as on others: half of the block of new tokens for
nothing. Here the prefix is attended to without a mask and the block with the causal flag, and the two results are
merged by their log-sum-exp. On CUDA, torch's lower-right causal bias reaches the flash kernel, which skips by itself;
on the CPU that bias is a written-out mask again (torch 2.13; a one-off beside other work: 508 ms against 335 ms merged,
2048 queries over 4096 keys, 9 heads of 64).

Both are registered with transformers by name and switched on for one model at a time, so its code stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

STOCK = "sdpa"
LOWER_RIGHT = "lightsleeper_lower_right"
WRITTEN_OUT = "lightsleeper_written_out"  # every mask as a tensor, no pair skipped: the dense baseline
_UNUSUAL = ("position_bias", "softcap", "cache", "s_aux")  # arguments that change what attention computes


def can_skip(model: PreTrainedModel) -> bool:
    """Whether the model takes its attention from transformers' registry, and torch's kernel from there now.

    Others (Falcon, BLOOM, eager ones) keep their own code and its mask.
    """
    return bool(model.is_backend_compatible()) and model.config._attn_implementation == STOCK


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let ``model`` use the registered attention ``name`` inside, where `can_skip` allows it."""
    if not can_skip(model):
        yield
        return
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = STOCK


def lower_right(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of the last ``c`` tokens over all ``n``: query a sees keys up to ``n - c + a``.

    ``query`` (B, H, c, e), ``key`` and ``value`` (B, G, n, e) with H a multiple of G; (B, H, c, e).
    """
    new, total = query.shape[2], key.shape[2]
    if new == total:
        return _attend(query, key, value, None, scale, is_causal=True)
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return _merged(query, key, value, total - new, scale)
    if query.device.type == "cuda":
        groups = query.shape[1] // key.shape[1]
        return F.scaled_dot_product_attention(
            query,
            repeat_kv(key, groups),
            repeat_kv(value, groups),
            attn_mask=causal_lower_right(new, total),
            scale=scale,
        )
    mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    return _attend(query, key, value, mask, scale)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, **more: Any) -> Tensor:
    groups = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=groups, **more)


def _merged(query: Tensor, key: Tensor, value: Tensor, prefix: int, scale: float | None) -> Tensor:
    """Softmax over two sets of keys: each one's result weighs by the share of its exponentials."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    before, before_lse = kernel(query, key[:, :, :prefix], value[:, :, :prefix], 0.0, False, scale=scale)
    own, own_lse = kernel(query, key[:, :, prefix:], value[:, :, prefix:], 0.0, True, scale=scale)
    return before.lerp_(own, torch.sigmoid(own_lse - before_lse).unsqueeze(-1).to(own.dtype))


def _lower_right_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """transformers' attention: (B, H, c, e) to (B, c, H, e). A mask that is left does not allow to skip."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = (
        attention_mask is None
        and causal
        and dropout == 0.0
        and not any(more.get(name) is not None for name in _UNUSUAL)
    )
    if not plain or query.shape[2] in (1, key.shape[2]):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **more
        )
    return lower_right(query, key, value, scaling).transpose(1, 2).contiguous(), None


def _lower_right_mask(
    *,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **more: Any,
) -> Tensor | None:
    """None where the mask is plainly causal with every key in sight, else transformers' mask."""
    in_sight = local_size is None or kv_length < local_size
    whole = kv_offset == 0 and q_offset + q_length == kv_length
    padded = attention_mask is not None and not bool(attention_mask[:, :kv_length].all())
    if allow_is_causal_skip and in_sight and whole and not padded:
        return None
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        **more,
    )


def _written_out_mask(**arguments: Any) -> Tensor | None:
    return sdpa_mask(**{**arguments, "allow_is_causal_skip": False})


AttentionInterface.register(LOWER_RIGHT, _lower_right_forward)
AttentionMaskInterface.register(LOWER_RIGHT, _lower_right_mask)
AttentionInterface.register(WRITTEN_OUT, sdpa_attention_forward)
AttentionMaskInterface.register(WRITTEN_OUT, _written_out_mask)
