"""Rotary frequencies that depend on the length of the whole prompt (dynamic NTK, LongRoPE).

transformers takes the length from the largest position it is given, which on a rank is not the prompt's. While a chain
runs, the rotary modules of such a model are shown one more position, the prompt's last, whose result is dropped. They
also remember the longest text they have seen, which differs between ranks: that is forgotten before each prefill.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BY_LENGTH = ("dynamic", "longrope")


def by_length(model: nn.Module) -> list[nn.Module]:
    """The rotary modules whose frequencies depend on the length."""
    return [module for module in model.modules() if _kinds(module) & set(BY_LENGTH)]


@contextmanager
def whole_length(model: nn.Module, last_position: int) -> Iterator[None]:
    """Inside, such modules see ``last_position`` besides their own positions."""
    handles = []
    forget(model)
    for module in by_length(model):
        handles.append(module.register_forward_pre_hook(_appending(last_position), with_kwargs=True))
        handles.append(module.register_forward_hook(lambda module, inputs, output: _without_last(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forget(model: nn.Module) -> None:
    """Back to the frequencies of a model that has not read anything yet: it keeps those of its longest text."""
    for module in by_length(model):
        _forget(module)


def _forget(module: nn.Module) -> None:
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
    for name, buffer in list(module.named_buffers(recurse=False)):
        original = getattr(module, f"{name.removesuffix('inv_freq')}original_inv_freq", None)
        if name.endswith("inv_freq") and "original" not in name and original is not None:
            module.register_buffer(name, original.to(buffer.device).clone(), persistent=False)


def _kinds(module: nn.Module) -> set[str]:
    kind = getattr(module, "rope_type", None)
    return set(kind.values()) if isinstance(kind, dict) else {kind} if isinstance(kind, str) else set()


def _appending(last: int) -> Any:
    def hook(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "position_ids" in named:
            return inputs, {**named, "position_ids": _with(named["position_ids"], last)}
        return (inputs[0], _with(inputs[1], last), *inputs[2:]), named

    return hook


def _with(positions: Tensor, last: int) -> Tensor:
    """(B, T) to (B, T + 1)."""
    return torch.cat([positions, positions.new_full((*positions.shape[:-1], 1), last)], dim=-1)


def _without_last(output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cosines and sines (B, T + 1, e) to (B, T, e)."""
    return tuple(part[..., :-1, :] for part in output)
