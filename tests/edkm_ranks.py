"""What the tests of several processes run in each of them. As a program: trains a clustered network on N processes."""

import sys
from typing import Any

import lightning as L
import torch
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.edkm_saved import ProcessShards, SavedTensors
from lightsleeper_callbacks.edkm_saved import dkm as saved_dkm
from torch import Tensor, nn

ROUNDS = (0.02, 5, 0.0)
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def weights(n: int = 5003, duplicates: bool = True) -> Tensor:
    values = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    return (values.bfloat16().float() if duplicates else values).requires_grad_()


def centroids(d: int = 1) -> Tensor:
    return torch.linspace(-2, 2, 8)[:, None].expand(8, d).contiguous()


def gradient(result: Tensor, weight: Tensor, **settings: bool) -> Tensor:
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(result, weight, upstream, **settings)[0]


def saved(rank: int, count: int, folder: str) -> None:
    """Result, gradient and bytes kept, with each process keeping its part."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    w = weights()
    kept = SavedTensors(w, shards=ProcessShards())
    result, _ = saved_dkm(w, centroids(), *ROUNDS, saved=kept)
    torch.save((result.detach(), gradient(result, w), kept.bytes), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


class Net(L.LightningModule):
    """No batch statistics, no dropout, data in a fixed order: the number of processes must not matter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.layers(batch) - batch).square().mean()

    def train_dataloader(self) -> Any:
        data = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
        count, rank = self.trainer.world_size, self.trainer.global_rank
        return torch.utils.data.DataLoader(list(data[rank::count]), batch_size=8 // count)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Save(L.Callback):
    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            torch.save(pl_module.state_dict(), self.path)


def place(count: int) -> dict[str, Any]:
    """Trainer arguments for ``count`` processes."""
    return {"accelerator": "cpu", "devices": count, "strategy": "ddp_spawn" if count > 1 else "auto"}


def fit(count: int, backend: str, path: str) -> None:
    # Weights of 32 bits: in 16 the last bit of a sum decides which way a weight is rounded.
    edkm = EDKMClustering(small_below=0, backend=backend, weight_dtype="float32", start=0.25)  # type: ignore[arg-type]
    callbacks = [edkm, Save(path)]
    trainer = L.Trainer(**place(count), **QUIET, callbacks=callbacks, max_epochs=2, use_distributed_sampler=False)
    trainer.fit(Net())


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(int(sys.argv[1]), sys.argv[2], sys.argv[3])
