"""The two networks that `bench pdp` prunes: a residual CNN on spectrograms and a byte-level transformer."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Trained(L.LightningModule):
    """AdamW, its rate falling linearly after a short rise; a batch is (inputs, targets)."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = self(batch[0])
        return F.cross_entropy(logits.flatten(0, -2), batch[1].flatten())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        # Budgets are fixed at 16 % of the training: by then the weights have to be more than their initial values.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, steps, pct_start=0.05, anneal_strategy="linear"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.skip(x))


class ResidualCNN(Trained):
    """(B, 1, mel, frames) to (B, 10)."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64), lr: float = 3e-3) -> None:
        super().__init__(lr)
        self.stem = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip((widths[0], *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], 10)
        self.example_input_array = torch.zeros(1, 1, 40, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


class Layer(nn.Module):
    """Causal attention and a feed-forward part, of plain linear layers: Lightning's ModelPruning acts when a layer is
    called, and nn.MultiheadAttention never calls its output projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inward, self.outward = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.inward(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.outward(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ByteLM(Trained):
    """Bytes (B, T) to logits of the next one (B, T, 256)."""

    def __init__(self, dim: int = 256, layers: int = 6, heads: int = 4, length: int = 128, lr: float = 2e-3) -> None:
        super().__init__(lr)
        self.embedding = nn.Embedding(256, dim)
        self.position = nn.Parameter(torch.randn(length, dim) / math.sqrt(dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 256)
        self.example_input_array = torch.zeros(1, length, dtype=torch.long)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.embedding(tokens) + self.position)))
