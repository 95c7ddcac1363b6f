"""A program for the test of several processes: starts a network from a parent and trains it, on N of them."""

import sys

import lightning as L
import torch
from edkm_ranks import QUIET, place
from lightsleeper_callbacks.subclone import SubcloneInitialization
from tiny_transformers import VOCABULARY, llama
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Learner(L.LightningModule):
    """No dropout, and every step sees all rows: the number of processes must not matter.

    ``own`` shares the data out itself, so that calibration, too, sees other batches on every process.
    """

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.model: nn.Module = llama(width=16, depth=2, heads=2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.model(input_ids=batch, labels=batch).loss

    def train_dataloader(self) -> DataLoader:
        rows = torch.randint(VOCABULARY, (32, 12), generator=torch.Generator().manual_seed(1))
        count, rank = self.trainer.world_size, self.trainer.global_rank
        return DataLoader(list(rows[rank::count] if self.own else rows), batch_size=32 // count)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


class Save(L.Callback):
    """The weights of every process, before and after."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        both = {"start": self.start, "end": pl_module.state_dict()}
        torch.save(both, f"{self.folder}/{trainer.world_size}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = sys.argv[3] == "own"
    callbacks = [SubcloneInitialization(llama(), calibration_batches=8), Save(sys.argv[2])]
    trainer = L.Trainer(
        **place(int(sys.argv[1])), **QUIET, callbacks=callbacks, max_epochs=4, use_distributed_sampler=not own
    )
    trainer.fit(Learner(own))
