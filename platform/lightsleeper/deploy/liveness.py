"""Peak memory of activations, counted on the graph: what a runtime that frees each tensor after its last use must hold.

No tensor is overwritten in place and nothing is reused early: while an operation runs, its inputs and its output are
there, with everything that a later one still needs. Weights and what the runtime itself takes are not counted. Views
share the bytes of what they show.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node


def peak_activation_bytes(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Largest sum of live activation bytes while ``module``, in eval mode, runs on ``inputs``, which count as well."""
    with torch.no_grad():
        program = torch.export.export(module.eval(), tuple(inputs))
    signature = program.graph_signature
    weights = {
        *signature.inputs_to_parameters,
        *signature.inputs_to_buffers,
        *signature.inputs_to_lifted_tensor_constants,
    }
    nodes = list(program.graph.nodes)
    shown: dict[Node, Node] = {}  # a view -> the node whose bytes it shows
    last: dict[Node, int] = {}
    for at, node in enumerate(nodes):
        shown[node] = shown[node.all_input_nodes[0]] if _is_view(node) else node
        for used in node.all_input_nodes:
            last[shown[used]] = at
        last.setdefault(shown[node], at)
    live, peak = dict[Node, int](), 0
    for at, node in enumerate(nodes):
        if node.op != "output" and shown[node] is node and node.name not in weights:
            live[node] = _bytes(node.meta.get("val"))
        peak = max(peak, sum(live.values()))
        live = {held: size for held, size in live.items() if last[held] > at}
    return peak


def _is_view(node: Node) -> bool:
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    return node.op == "call_function" and any(value.alias_info is not None for value in returns)


def _bytes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    return math.prod(value.shape) * value.element_size() if isinstance(value, Tensor) else 0
