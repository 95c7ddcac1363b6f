"""A model for several processes: its code and structure pickled, its tensors once in shared memory.

torch shares a model tensor by tensor, each with a file descriptor of its own: hundreds, more than a forkserver passes
on. Here all tensors lie in one buffer and the pickle refers to places in it; tied ones stay tied.
"""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes, a cache line


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the buffer."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    parameter: bool


@dataclass(frozen=True)
class SharedModel:
    """What a process needs to have the model; picklable by `multiprocessing`, without a copy of the weights."""

    structure: bytes
    places: Mapping[int, _Place]
    buffer: Tensor

    def open(self) -> Any:
        """The model, whose tensors are the shared ones: not to be trained."""
        return _Opener(self).load()


def share(model: nn.Module) -> SharedModel:
    """Copy ``model``'s tensors into shared memory."""
    stream = io.BytesIO()
    packer = _Packer(stream)
    packer.dump(model)
    buffer = torch.zeros(max(packer.size, 1), dtype=torch.uint8).share_memory_()
    for index, place in packer.places.items():
        _view(buffer, place).copy_(packer.tensors[index].detach())
    return SharedModel(stream.getvalue(), packer.places, buffer)


class _Packer(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.size = 0
        self.places: dict[int, _Place] = {}
        self.tensors: dict[int, Tensor] = {}
        self._index: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, Tensor):
            return None
        if id(thing) not in self._index:
            index = self._index[id(thing)] = len(self.places)
            self.tensors[index] = thing
            parameter = isinstance(thing, nn.Parameter)
            self.places[index] = _Place(self.size, tuple(thing.shape), thing.dtype, parameter)
            self.size += -(-thing.numel() * thing.element_size() // ALIGNMENT) * ALIGNMENT
        return self._index[id(thing)]


class _Opener(pickle.Unpickler):
    def __init__(self, shared: SharedModel) -> None:
        super().__init__(io.BytesIO(shared.structure))
        self._shared = shared
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, index: int) -> Tensor:
        if index not in self._made:
            place = self._shared.places[index]
            tensor = _view(self._shared.buffer, place)
            self._made[index] = nn.Parameter(tensor, requires_grad=False) if place.parameter else tensor
        return self._made[index]


def _view(buffer: Tensor, place: _Place) -> Tensor:
    count = torch.Size(place.shape).numel() * place.dtype.itemsize
    return buffer[place.offset : place.offset + count].view(place.dtype).view(place.shape)
