"""A recurrence that is a loop in PyTorch and one Scan node in an exported graph.

Unrolled, the exporter took ten minutes for a keyword of 48 phones; eagerly, ``scan`` would compile the step anew for
each length.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.utils._pytree import tree_map

Carry = TypeVar("Carry", Tensor, tuple[Tensor, Tensor])
Out = TypeVar("Out", Tensor, tuple[Tensor, Tensor])


def recur(
    step: Callable[[Carry, tuple[Tensor, ...]], tuple[Carry, Out]], carry: Carry, inputs: tuple[Tensor, ...]
) -> tuple[Carry, Out]:
    """``carry, out = step(carry, rows)`` over the first axis of ``inputs``; the last carry and the stacked outputs.

    Carry and output are a tensor or two. What ``step`` gives back must share no memory.
    """
    if torch.compiler.is_exporting():
        return scan(step, carry, inputs)
    outputs: list[Any] = []
    for rows in zip(*inputs, strict=True):
        carry, output = step(carry, rows)
        outputs.append(output)
    return carry, tree_map(lambda *each: torch.stack(each), *outputs)
