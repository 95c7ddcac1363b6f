"""Fusions of sound and face over time that are recurrent: Light-ASD's two GRUs, and one that only looks back."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.nn.gru import GRU
from lightsleeper.nn.limited_attention import Limit


class ForwardGRU(nn.Module):
    """A GRU over (B, T, dim) and a GELU: all of the past in ``dim`` numbers, nothing of the future."""

    future: Limit = 0
    streams = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.state_size = dim, dim
        self.forward_gru = GRU(dim, dim)

    def forward(self, x: Tensor, past: Limit = None, future: Limit = None) -> Tensor:
        return F.gelu(self.forward_gru(x))

    def reach(self) -> tuple[Limit, Limit]:
        return None, 0

    def step(self, x: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next frame (B, dim); where ``present`` (B,) is 0 the state stays. See `LimitedLayer.step`."""
        gru = self.forward_gru
        # Written out: a cell exports as a few products, torch's own operator does not.
        inward, kept = (
            F.linear(of, getattr(gru, f"weight_{name}_l0"), getattr(gru, f"bias_{name}_l0")).chunk(3, -1)
            for name, of in (("ih", x), ("hh", state))
        )
        reset, update = torch.sigmoid(inward[0] + kept[0]), torch.sigmoid(inward[1] + kept[1])
        new = torch.tanh(inward[2] + reset * kept[2])
        new = new + update * (state - new)
        return F.gelu(new), present, torch.where(present[:, None] > 0.5, new, state)


class TwoWayGRU(nn.Module):
    """Light-ASD's detector: a GRU forward, a GELU, a GRU backward over that, a GELU. In series: one sees the other."""

    future: Limit = None
    streams = False
    state_size = 0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.forward_gru, self.backward_gru = GRU(dim, dim), GRU(dim, dim)

    def forward(self, x: Tensor, past: Limit = None, future: Limit = None) -> Tensor:
        x = F.gelu(self.forward_gru(x))
        return F.gelu(self.backward_gru(x.flip(1)).flip(1))

    def reach(self) -> tuple[Limit, Limit]:
        return None, None

    def step(self, x: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raises ValueError: the second GRU begins at the end."""
        raise ValueError("fusion bigru reads the clip from its end: it does not stream")
