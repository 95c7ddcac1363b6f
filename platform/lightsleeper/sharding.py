"""Training with every weight in parts, one a process: PyTorch's fully sharded data parallel, its second form (FSDP2).

Lightning's strategy `fsdp` is the first form: it flattens the weights of a block into one vector, which no layer-wise
method can read, and refuses CPUs. FSDP2 cuts each weight by its rows; a block gathers its weights just before it
computes with them and lets go of them afterwards, so that a layer, and whatever is attached to it, sees whole weights.
Lightning drives it by ``ModelParallelStrategy``, which leaves the cutting to the model: `shard`.
"""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import nn

from lightsleeper.errors import UserError, did_you_mean

NAME = "fsdp2"
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
"""What Lightning's ``ModelParallelStrategy`` supports, without the precision that overflows in training."""


class FSDP2(ModelParallelStrategy):
    """Weights, gradients and optimizer state in as many parts as there are processes; batches as under DDP.

    A checkpoint is one file as of a run in one process: it resumes on another number of them.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **settings)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def check(strategy: Strategy, family: type, precision: str) -> None:
    """Raise UserError for a model or precision that cannot be trained in shards; other strategies are not looked at."""
    if not isinstance(strategy, FSDP2):
        return
    if getattr(family, "configure_model", None) in (None, L.LightningModule.configure_model):
        raise UserError(
            f"trainer.strategy: {NAME} needs a network of transformers, such as CausalLM's, whose blocks are known; "
            f"{family.__name__} has none. ddp trains it in several processes."
        )
    if precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision: {NAME} trains in {', '.join(PRECISIONS)}, not in {precision}."
            f"{did_you_mean(precision, PRECISIONS)}"
        )


def register() -> None:
    """Let Lightning's Trainer know the strategy by its name. May be called again."""
    if NAME not in StrategyRegistry.available_strategies():
        StrategyRegistry.register(NAME, FSDP2, description="Weights in shards (PyTorch's fully_shard)")


def shard(network: nn.Module, mesh: Any, precision: str = "32-true") -> None:
    """Cut the weights of ``network`` over the processes of a device mesh, in place: a unit for every block, one for
    the rest. Every process starts from what the first one holds, as under DDP.

    ``precision``: the Trainer's; under bf16-mixed weights are rounded before they are sent, and gradients added up in
    float32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    _share(network, mesh)
    mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16-mixed" else MixedPrecisionPolicy()
    for block in blocks(network):
        fully_shard(block, mesh=mesh, mp_policy=mixed)
    fully_shard(network, mesh=mesh, mp_policy=mixed)


@torch.no_grad()
def _share(network: nn.Module, mesh: Any) -> None:
    group = mesh.get_group()
    for tensor in [*network.parameters(), *network.buffers()]:
        sent = tensor.to(mesh.device_type, copy=True)
        torch.distributed.broadcast(sent, 0, group=group)
        tensor.copy_(sent)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of the same kind that a network is a pile of: the entries of its longest ModuleList."""
    piles = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    yield from max(piles, key=len, default=nn.ModuleList())
