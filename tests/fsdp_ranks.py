"""A program for the tests of sharded weights: trains a small language model, compressed or not, on N processes.

Its arguments: the number of processes, how it is compressed (clustered, subcloned, plain), a file for the weights.
"""

import sys
from typing import Any

import lightning as L
import torch
from edkm_ranks import QUIET
from lightsleeper import sharding
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper_callbacks import EDKMClustering, PDPMasking, SubcloneInitialization
from tiny_transformers import VOCABULARY, llama
from torch.utils.data import DataLoader

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "tied": True}
EDKM: dict[str, Any] = {"small_below": 0, "embedding_bits": 3, "weight_dtype": "float32"}


class Learner(CausalLM):
    """Every step sees the same rows on any number of processes; no momentum to blow up the last bit."""

    def setup(self, stage: str) -> None:
        pass

    def train_dataloader(self) -> DataLoader:
        rows = torch.randint(VOCABULARY, (32, 17), generator=torch.Generator().manual_seed(1))
        count, rank = self.trainer.world_size, self.trainer.global_rank
        mine = [{"input_ids": row[:-1], "targets": row[1:]} for row in rows[rank::count]]
        return DataLoader(mine, batch_size=8 // count)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.02)


class Save(L.Callback):
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(trainer.strategy, sharding.FSDP2):
            held = sum(p.to_local().numel() for p in pl_module.parameters())  # type: ignore[operator]
            assert held < 0.6 * sum(p.numel() for p in pl_module.parameters())
        state = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            torch.save(state, sys.argv[3])


def callbacks(kind: str) -> list[L.Callback]:
    if kind == "subcloned":
        return [SubcloneInitialization(llama(**{**SIZES, "depth": 3}), order="random")]
    if kind == "clustered":
        return [PDPMasking(sparsity=0.5), EDKMClustering(backend="saved", **EDKM)]
    return []


if __name__ == "__main__":
    torch.set_num_threads(1)
    sharding.register()
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        **QUIET,
        accelerator="cpu",
        devices=int(sys.argv[1]),
        strategy=sharding.NAME if sys.argv[1] != "1" else "auto",
        callbacks=[*callbacks(sys.argv[2]), Save()],
        max_epochs=2,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(Learner(config=llama(**SIZES).config.to_dict()))
