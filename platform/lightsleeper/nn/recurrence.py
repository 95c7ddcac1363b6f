"""A recurrence that is a loop in PyTorch and one Scan node in an exported graph.

Unrolled, the exporter took ten minutes for a keyword of 48 phones; eagerly, ``scan`` would compile the step anew for
each length.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor]]


def recur(step: Step, carry: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """``carry, out = step(carry, rows)`` over the first axis of ``inputs``; the last carry and the stacked outputs.

    ``step`` may use no tensor from outside, and its two results must not share memory.
    """
    if torch.compiler.is_exporting():
        return scan(step, carry, inputs)
    outputs = []
    for rows in zip(*inputs, strict=True):
        carry, output = step(carry, rows)
        outputs.append(output)
    return carry, torch.stack(outputs)
