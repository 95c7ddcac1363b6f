"""A GRU that exports to the ONNX operator with any length.

torch 2.13's exporter converts ``nn.GRU`` correctly once per process; a second export, of any GRU, comes out with the
sample's length fixed or fails. So the operator is written into the graph directly.
"""

import torch
from torch import Tensor, nn


class GRU(nn.GRU):
    """``nn.GRU`` with ``batch_first=True``, forward only; the same weights and state dict.

    >>> states = GRU(40, 128, num_layers=2)(torch.randn(4, 50, 40))  # (4, 50, 128)
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__(input_size, hidden_size, num_layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """States (B, T, hidden_size) of the last layer for x (B, T, input_size); the first state is zero."""
        if not torch.onnx.is_in_onnx_export():
            return super().forward(x)[0]
        x = x.transpose(0, 1)
        for layer in range(self.num_layers):
            x = self._onnx(x, layer)
        return x.transpose(0, 1)

    def _onnx(self, x: Tensor, layer: int) -> Tensor:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [_reorder(getattr(self, f"{name}_l{layer}")) for name in names]
        inputs = (x, weights[0][None], weights[1][None], torch.cat(weights[2:])[None])
        attributes: dict = {
            "hidden_size": self.hidden_size,
            "linear_before_reset": 1,
        }  # as torch applies the reset gate
        shape = (x.shape[0], 1, x.shape[1], self.hidden_size)  # (T, directions, B, hidden)
        return torch.onnx.ops.symbolic("GRU", inputs, attributes, dtype=x.dtype, shape=shape, version=14)[:, 0]


def _reorder(weight: Tensor) -> Tensor:
    """Gates from torch's order reset, update, new to ONNX's update, reset, new."""
    reset, update, new = weight.chunk(3)
    return torch.cat([update, reset, new])
