"""The tiny family with branches to fold, and a pruning callback that wants the folded layer."""

from typing import Any

import torch
from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.repconv import RepConv1d
from tiny_family import Mask, TinyFamily
from torch import nn
from torch.nn.utils import parametrize


class TinyRep(TinyFamily):
    """A re-parameterisable convolution, a plain one with its norm, and a linear layer that folding leaves alone."""

    def __init__(self, width: int = 4, scheduler: str = "epoch"):
        super().__init__(width, scheduler=scheduler)
        self.net = nn.Sequential(
            nn.Unflatten(1, (1, 4)),
            RepConv1d(1, width, 3, branches=2),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, bias=False),
            nn.BatchNorm1d(width),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(2 * width, 1),
        )


class FoldedPrune(Compression):
    """Zeroes weights of the folded convolution, up to half of them by the end of its ramp."""

    phase = Phase.PRUNE

    def __init__(self, start: float = 0.5, end: float = 0.8) -> None:
        super().__init__()
        self.start, self.end = start, end

    def prepare(self, module: Any) -> None:
        parametrize.register_parametrization(module.net[1], "weight", Mask(module.net[1].weight))

    def step(self, module: Any, progress: float) -> None:
        layer = module.net[1].parametrizations.weight
        share = 0.5 * min(max((progress - self.start) / (self.end - self.start), 0.0), 1.0)
        order = layer.original.abs().flatten().argsort()
        layer[0].mask.fill_(1).view(-1)[order[: int(share * len(order))]] = 0

    def settled(self, progress: float) -> bool:
        return progress >= self.end

    def finalize(self, module: Any) -> Any:
        if parametrize.is_parametrized(module.net[1]):
            parametrize.remove_parametrizations(module.net[1], "weight")
        return module

    def report(self, module: Any) -> dict[str, float]:
        return {"compress/sparsity": float((module.net[1].weight == 0).float().mean())}


class SelfFolding(nn.Module):
    """A block in the manner of MobileOne, which folds itself in place."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm1d(channels))
        self.second = nn.Sequential(nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels))
        self.gate = nn.Conv1d(channels, channels, 1)
        self.folded: nn.Conv1d | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) + self.second(x) if self.folded is None else self.folded(x)
        return torch.relu(y) * torch.sigmoid(self.gate(y))

    def fuse(self) -> None:
        if self.folded is not None:
            return
        weights, biases = [], []
        for pad, (conv, norm) in ((0, self.first), (1, self.second)):
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            weights.append(nn.functional.pad(conv.weight, (pad, pad)) * factor[:, None, None])
            biases.append(norm.bias - norm.running_mean * factor)
        channels = len(biases[0])
        self.folded = nn.Conv1d(channels, channels, 3, padding=1)
        self.folded.weight.data = weights[0] + weights[1]
        self.folded.bias.data = biases[0] + biases[1]
        del self.first, self.second
