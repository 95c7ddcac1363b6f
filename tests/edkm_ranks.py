"""What the tests of several processes run in each of them."""

import torch
from lightsleeper_callbacks.edkm_saved import ProcessShards, SavedTensors
from lightsleeper_callbacks.edkm_saved import dkm as saved_dkm
from torch import Tensor

ROUNDS = (0.02, 5, 0.0)


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
