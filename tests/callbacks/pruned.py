"""Networks and a Trainer that the tests of the pruning callbacks share."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def trainer(*callbacks: Callback, **settings: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(callbacks=list(callbacks), enable_model_summary=False, **{**quiet, **settings})


class Regression(L.LightningModule):
    """Any network, trained on squared error; a batch is (inputs, targets)."""

    def __init__(self, network: nn.Module, example: Any, lr: float = 0.05) -> None:
        super().__init__()
        self.network, self.example_input_array, self.lr = network, example, lr

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def mlp(seed: int = 0, width: int = 16) -> Regression:
    torch.manual_seed(seed)
    return Regression(nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 4)), torch.randn(2, 8))


def batches(count: int = 8, rows: int = 4, inputs: Iterable[int] = (8,), outputs: Iterable[int] = (4,)) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count * rows, *inputs, generator=generator)
    y = torch.randn(count * rows, *outputs, generator=generator)
    return DataLoader(TensorDataset(x, y), rows)


class Residual(nn.Module):
    """Stem, two residual blocks with a stride, pooling and a head; batch norms carry random statistics."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(2 * width)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.norm4 = nn.BatchNorm2d(2 * width)
        self.skip = nn.Conv2d(width, 2 * width, 1, 2)
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        x = F.relu(self.skip(x) + self.norm4(self.conv4(F.relu(self.norm3(self.conv3(x))))))
        return self.head(x.mean((2, 3)))


def residual(seed: int = 0, width: int = 8) -> Regression:
    torch.manual_seed(seed)
    network = Residual(width)
    scramble(network)
    return Regression(network, torch.randn(2, 1, 8, 8), lr=0.02)


def scramble(network: nn.Module) -> None:
    """Biases and statistics as after a training: fresh ones are zeros that hide mistakes."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
