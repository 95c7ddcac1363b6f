"""One clustering step of one weight, in a process of its own so that its peak is its own:
`python -m lightsleeper.bench.edkm_step JSON` prints a Row.

The step is what clustering adds to a layer: the soft weight from the weight, and the weight's gradient from the soft
one's. Layers' products are not in it.
"""

import ctypes
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightsleeper_callbacks import dkm as plain
from lightsleeper_callbacks import edkm_saved, edkm_table
from torch import Tensor

from lightsleeper.bench.edkm import PAPER_SHARDS, Clustering
from lightsleeper.deploy.peak_memory import peak, reset_peak

TECHNIQUES = ("dense", "M", "U", "S", "M+U+S", "table")
"""Autograd as it is; the paper's marshalling, uniquification and sharding alone and together; the default."""
M_MMAP_THRESHOLD = -3  # of glibc's mallopt


@dataclass(frozen=True)
class Row:
    """What one step took, in bytes and seconds."""

    kept: int
    """Held between forward and backward, without the weight itself and the soft weight."""
    peak: int
    """Most memory at a time, above what weight and upstream gradient need: the soft weight, the gradient, the maps."""
    seconds: float


class FiledShards:
    """``count`` processes in one, of which the others' parts lie in files: memory is that of one process."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder, self.files = count, folder, 0

    def scatter(self, flat: Tensor, place: Callable[[Tensor], Tensor]) -> tuple[Tensor, edkm_saved.Whole]:
        size, device = len(flat), flat.device
        length = -(-size // self.count)
        part, path = place(flat[:length]), self.folder / f"{self.files}.pt"
        self.files += 1
        torch.save(flat[length:].clone(), path)

        def whole() -> Tensor:
            return torch.cat([part.to(device), torch.load(path).to(device)])[:size]

        return part, whole


class Counted(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of the storages that autograd keeps, each once, but for those at the addresses ``without``."""

    def __init__(self, without: Collection[int]) -> None:
        self._found: dict[int, int] = {}
        self._without = without
        super().__init__(self._pack, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(self._found.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._without:
            self._found[storage.data_ptr()] = storage.nbytes()
        return tensor


def measure(rows: int, columns: int, bits: int, technique: str, device: str) -> Row:
    """One step of weights (rows, columns) in bfloat16 values, held in float32, after one of a small layer."""
    _step(Clustering(64, 64, bits=bits), technique, device)
    return _step(Clustering(rows, columns, bits=bits), technique, device)


def _step(problem: Clustering, technique: str, device: str) -> Row:
    weight = problem.weight.detach().to(device).requires_grad_()
    start, upstream = problem.start.to(device), problem.upstream.to(device)
    problem.weight = problem.upstream = weight  # the copies of the CPU go
    with tempfile.TemporaryDirectory() as folder:
        before = reset(device)
        began = time.perf_counter()
        flat = weight.view(-1, 1)
        hooks = _hooks(technique, weight, flat, Path(folder), device)
        if technique == "table":
            with hooks:
                soft, _ = edkm_table.dkm(weight, start, *problem.settings)
            upstream = upstream.view_as(weight)
        else:
            with hooks:
                soft, _ = plain.dkm(flat, start, *problem.settings)
        torch.autograd.grad(soft, weight, upstream)
        if device == "cuda":
            torch.cuda.synchronize()
        return Row(int(hooks.bytes), max(0, peak_of(device) - before), time.perf_counter() - began)


def _hooks(technique: str, weight: Tensor, flat: Tensor, folder: Path, device: str) -> Any:
    if technique in ("dense", "table"):
        return Counted({weight.untyped_storage().data_ptr()})
    parts = technique.split("+")
    return edkm_saved.SavedTensors(
        flat,
        marshal="M" in parts,
        uniquify="U" in parts,
        shards=FiledShards(PAPER_SHARDS, folder) if "S" in parts else None,
        device="cpu" if device == "cuda" else None,
    )


def reset(device: str) -> int:
    """Start a new peak; bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library has neither
        libc = ctypes.CDLL(None)
        # What is freed goes back to the system at once: else the peak is what the allocator has hoarded.
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 17)
        libc.malloc_trim(0)
    return reset_peak()


def peak_of(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked.pop("threads"))
    print(json.dumps(asdict(measure(**asked))))
