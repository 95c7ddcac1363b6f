"""eDKM's own route (Cho et al., arXiv 2309.00964): DKM as it is, but autograd keeps less for its backward pass.

Three techniques, each can be had alone, tried in this order when a tensor is saved:

- marshalling: a tensor that shares the memory of one saved before becomes a reference to it and its strides;
- uniquification: rows that depend on a 16-bit weight's value only become a table of rows and one list of 16-bit indices
  for all maps. Taken only where the table gives back the very rows, bit for bit;
- sharding: every process keeps its part of what all of them would keep, and collects the rest when it is needed.

The paper recognises duplicates by walking the autograd graph; here it is the storage itself that tells, held weakly so
that its address cannot be taken by another, together with the version that in-place changes raise. The result of the
forward pass stays as it is, gradients are those of plain autograd.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightsleeper_callbacks.dkm import dkm as plain_dkm

SMALL = 1 << 12
"""Tensors of fewer bytes are saved as they are."""
VERIFIED = 1 << 22  # values compared at a time when a table of rows is checked

Whole = Callable[[], Tensor]


class Shards(Protocol):
    """How a flat tensor that is equal on all processes is kept in parts."""

    def scatter(self, flat: Tensor, place: Callable[[Tensor], Tensor]) -> tuple[Tensor, Whole]:
        """The part to keep here, put where ``place`` says, and what gives the whole back."""


class ProcessShards:
    """One part a process of ``group`` (None: all of them). Every process has to unpack in the same order."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def scatter(self, flat: Tensor, place: Callable[[Tensor], Tensor]) -> tuple[Tensor, Whole]:
        count, rank = torch.distributed.get_world_size(self.group), torch.distributed.get_rank(self.group)
        part = place(_parts(flat, count)[rank])
        size, device, dtype = len(flat), flat.device, flat.dtype

        def whole() -> Tensor:
            # As bytes: not every back-end knows every type.
            here = part.to(device).view(torch.uint8)
            found = [torch.empty_like(here) for _ in range(count)]
            torch.distributed.all_gather(found, here, group=self.group)
            return torch.cat(found).view(dtype)[:size]

        return part, whole


class SimulatedShards:
    """``count`` processes in one: all parts are here, the first one counts."""

    def __init__(self, count: int) -> None:
        self.count = count

    def scatter(self, flat: Tensor, place: Callable[[Tensor], Tensor]) -> tuple[Tensor, Whole]:
        parts = [place(part) for part in _parts(flat, self.count)]
        size, device = len(flat), flat.device
        return parts[0], lambda: torch.cat(parts).to(device)[:size]


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Context of one forward pass; what is saved inside it is kept small until its graph is freed.

    Args:
        weight: the weights (n, 1) that decide the rows of the maps, for uniquification; all values 16-bit ones.
        marshal: whether views of one storage are kept once.
        uniquify: whether maps become tables.
        shards: how parts are spread over processes; None keeps all here. Inside the context everything has to depend on
            weights and centroids only, which are equal on all processes: never on data.
        device: where to copy what is kept, such as ``cpu`` for a model on a GPU; None keeps it where it is, without a
            copy where its memory is alive anyway.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        marshal: bool = True,
        uniquify: bool = True,
        shards: Shards | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(self._pack, _unpack)
        self._marshal, self._shards = marshal, shards
        self._device = None if device is None else torch.device(device)
        self.bytes = 0
        """Kept here for the backward pass; small tensors are not counted."""
        self._seen: dict[tuple[int, int], list[_Base]] = {}
        self._index = _index(weight.detach(), self) if uniquify and weight is not None else None
        self._slot: list[Any] = [None, None]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # Only what the graph holds lives on.
        self._seen, self._index, self._slot = {}, None, [None, None]

    def keep(self, flat: Tensor, sharded: bool = True) -> tuple[Tensor, Whole]:
        """Put ``flat`` where it is to wait: what counts here, and what gives it back."""
        device = flat.device

        def place(tensor: Tensor) -> Tensor:
            if self._device is not None:
                return tensor.to(self._device, copy=True)
            part = tensor.untyped_storage().nbytes() > _bytes(tensor)
            return tensor.clone() if part else tensor  # a part must not keep the whole alive

        if sharded and self._shards is not None:
            return self._shards.scatter(flat, place)
        kept = place(flat)
        return kept, lambda: kept.to(device)

    def _pack(self, tensor: Tensor) -> Any:
        tensor = tensor.detach()  # the saved one may be an output of its own node: a cycle
        if _bytes(tensor) < SMALL or not tensor.is_floating_point():
            return _Alias(tensor)
        low = int(tensor.storage_offset())
        reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        # Holes: its memory is not its own. An expanded tensor is one row of itself to marshalling only.
        if reach > tensor.numel() or (reach < tensor.numel() and not self._marshal):
            tensor, low, reach = tensor.contiguous(), 0, tensor.numel()
        storage = StorageWeakRef(tensor.untyped_storage())
        # As long as the weak reference is held, no other storage gets this address.
        known = self._seen.setdefault((storage.cdata, tensor._version), [])
        base = next((b for b in known if b.covers(low, reach, tensor)), None) if self._marshal else None
        if base is None:
            base = self._base(tensor.as_strided((reach,), (1,), low), low, storage)
            known.append(base)
        return _View(base, tuple(tensor.shape), tensor.stride(), low - base.low, self._slot)

    def _base(self, flat: Tensor, low: int, storage: StorageWeakRef) -> "_Base":
        index, dtype = self._index, flat.dtype
        if index is not None and len(flat) % index.rows == 0:
            rows = flat.view(index.rows, -1)
            table = rows[index.first]
            if len(table) < index.rows and index.gives(table, rows):
                self.bytes += 0 if index.used else index.bytes
                index.used = True
                codes = index.codes
                kept, back = self.keep(table, sharded=False)
                self.bytes += _bytes(kept)
                return _Base(storage, low, len(flat), dtype, lambda: back()[codes().long()].view(-1))
        if self._device is None and self._shards is None:
            alias = _Alias(flat)
            self.bytes += _bytes(flat)
            return _Base(storage, low, len(flat), dtype, alias.tensor)
        kept, back = self.keep(flat)
        self.bytes += _bytes(kept)
        return _Base(storage, low, len(flat), dtype, back)


class _Alias:
    """A tensor kept as it is; refuses to give back what was changed in place since."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version

    def tensor(self) -> Tensor:
        if self._tensor._version != self._version:
            raise RuntimeError("a tensor needed for the gradient was modified by an in-place operation")
        return self._tensor


class _Base:
    """A range of memory that was saved."""

    def __init__(self, storage: StorageWeakRef, low: int, size: int, dtype: torch.dtype, whole: Whole) -> None:
        self.storage, self.low, self.size, self.dtype, self.whole = storage, low, size, dtype, whole

    def covers(self, low: int, size: int, tensor: Tensor) -> bool:
        return self.low <= low and low + size <= self.low + self.size and tensor.dtype == self.dtype


class _View:
    """A saved tensor as a view of saved memory."""

    def __init__(self, base: _Base, shape: Sequence[int], stride: Sequence[int], offset: int, slot: list[Any]) -> None:
        self._base, self._view, self._slot = base, (shape, stride, offset), slot

    def tensor(self) -> Tensor:
        # The maps of a round are asked for one after the other: the last one rebuilt is enough.
        if self._slot[0] is not self._base:
            self._slot[:] = [self._base, self._base.whole()]
        return self._slot[1].as_strided(*self._view)


class _Index:
    """Which row of a table each of ``rows`` weights has: 16 bits a weight."""

    def __init__(self, codes: Tensor, first: Tensor, context: SavedTensors) -> None:
        self.rows, self.first, self.used = len(codes), first, False
        self._here = codes  # all of them, until the forward pass ends
        kept, self.codes = context.keep(codes)
        self.bytes = _bytes(kept)

    def gives(self, table: Tensor, rows: Tensor) -> bool:
        """Whether the table has all rows, bit for bit but for the sign of zero."""
        step = max(1, VERIFIED // max(1, rows.shape[1]))
        codes = self._here
        return all(
            torch.equal(table[codes[at : at + step].long()], rows[at : at + step]) for at in range(0, self.rows, step)
        )


def dkm(
    vectors: Tensor,
    centroids: Tensor,
    tau: Tensor | float,
    iterations: int = 5,
    eps: float = 1e-4,
    fixed: Tensor | None = None,
    saved: SavedTensors | None = None,
) -> tuple[Tensor, Tensor]:
    """``dkm.dkm`` with all techniques that apply on one process, or with those of ``saved``."""
    with saved or SavedTensors(vectors if vectors.shape[1] == 1 else None):
        return plain_dkm(vectors, centroids, tau, iterations, eps, fixed)


def _index(weight: Tensor, context: SavedTensors) -> _Index | None:
    values, codes = weight.reshape(-1).unique(return_inverse=True)  # -0.0 and 0.0 are one value
    if len(values) > 1 << 16:
        return None
    first = torch.empty_like(values, dtype=torch.long)
    first[codes] = torch.arange(len(codes), device=codes.device)  # any of them
    return _Index(codes.to(torch.uint16), first, context)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _unpack(packed: Any) -> Tensor:
    return packed.tensor()


def _parts(flat: Tensor, count: int) -> list[Tensor]:
    """``count`` parts of equal size, the last filled up with zeros."""
    size = -(-len(flat) // count)
    return list(torch.nn.functional.pad(flat.view(torch.uint8), (0, (size * count - len(flat)) * flat.element_size()))
                .view(flat.dtype).split(size))  # fmt: skip
