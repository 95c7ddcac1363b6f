"""Round to nearest: weights on an even grid, without any training: what clustering has to beat at equal bits.

A group of weights (a tensor, an output channel, or so many inputs of one) gets 2^bits even steps from its least to its
largest weight. Both ends are kept in 16 bits and the grid is made of them, so the weights are exactly those of the
file. Which weights and how many bits is `EDKMClustering`'s own choice: embeddings have their own number.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from lightsleeper_callbacks.edkm import KINDS
from lightsleeper_callbacks.weights import find
from safetensors.torch import save_file
from torch import Tensor, nn

from lightsleeper.deploy.packed import pack_bits

Group = Literal["tensor", "channel"] | int
"""Weights with a scale of their own; a number: so many inputs of an output channel."""


@torch.no_grad()
def round_weights(module: nn.Module, bits: int, embedding_bits: int, group: Group) -> dict[str, Tensor]:
    """Round the weights of ``module`` in place; returns what a file of them holds, tied weights once.

    A rounded `x` is `x.codes` (``bits`` each, one after the other) and `x.ends` (groups, 2) in float16.
    """
    stored: dict[str, Tensor] = {}
    seen = set()
    for target in find(module, kinds=KINDS):
        weight = target.original
        embedding = any(isinstance(layer, nn.Embedding) for layer, _ in target.owners)
        width = embedding_bits if embedding else bits
        values, codes, ends = rounded(weight, width, group)
        weight.copy_(values)
        stored |= {f"{target.name}.codes": pack_bits(codes, width), f"{target.name}.ends": ends}
        seen.add(weight.data_ptr())
    for name, value in module.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            stored[name] = value.detach().clone()
    return stored


def rounded(weight: Tensor, bits: int, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """The weight on its grid, the codes (n,) uint8 of its numbers in order, the ends (groups, 2) of the grids."""
    channel = weight[0].numel()
    size = weight.numel() if group == "tensor" else channel if group == "channel" else int(group)
    if group != "tensor" and channel % size:
        raise ValueError(f"groups of {size} inputs do not divide a channel of {channel}")
    groups = weight.detach().float().reshape(-1, size)
    ends = torch.stack([groups.amin(1), groups.amax(1)], 1).half()
    low, high = ends.float().unbind(1)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)[:, None]
    codes = ((groups - low[:, None]) / step).round_().clamp_(0, 2**bits - 1)
    values = low[:, None] + codes * step
    return values.view_as(weight).to(weight.dtype), codes.to(torch.uint8).reshape(-1), ends


def write(stored: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Write what `round_weights` gave; returns its bytes without the header, as `packed.pack` does."""
    save_file(stored, path)
    return {"payload_bytes": sum(value.numel() * value.element_size() for value in stored.values())}
