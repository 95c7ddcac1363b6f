"""Clustered weights as a table and packed indices, all of a model in one safetensors file.

What is clustered is read off the weights: any tensor that a table of at most 256 vectors describes in fewer bytes is
stored that way, bit for bit, whatever method made it so; the rest as it is. A clustered tensor `x` becomes `x.codes`
(uint8, indices of 1 to 8 bits one after the other, lowest bits first), `x.tables` (groups, entries, dim) and, where its
groups do not divide into vectors, `x.tail`. The file's metadata holds as JSON how to put them together and, of a whole
model, how to build it, which `packed_model` does.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightsleeper_callbacks.layout import Layout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightsleeper.deploy.palette import BITS_OF, palette
from lightsleeper.errors import UserError
from lightsleeper.files import replacing

FORMAT = "lightsleeper.packed/1"
M = TypeVar("M", bound=nn.Module)


def pack(module: nn.Module, path: str | Path, description: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the state of ``module`` to ``path``, and with it ``description``, JSON that says how to build the module.

    Returns ``payload_bytes`` (without the header), ``clustered`` (name -> bits, dim, group_size) and the ``share`` of
    the plain bytes that those are. Raises UserError when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    clustered: dict[str, dict[str, Any]] = {}
    shared: dict[str, str] = {}
    names: dict[Any, str] = {}
    total = packed = 0
    for name, value in module.state_dict().items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
        if names.setdefault(key, name) != name:
            shared[name] = names[key]
            continue
        value = value.detach().cpu().contiguous()
        total += value.numel() * value.element_size()
        if (found := palette(value)) is None:
            tensors[name] = value.clone()  # safetensors takes no views
            continue
        packed += value.numel() * value.element_size()
        layout = found.layout
        tensors |= {f"{name}.codes": pack_bits(found.codes, layout.bits), f"{name}.tables": found.tables}
        if found.tail.numel():
            tensors[f"{name}.tail"] = found.tail
        clustered[name] = {"shape": list(value.shape), **layout._asdict()}
    metadata = {"format": FORMAT, "clustered": json.dumps(clustered), "shared": json.dumps(shared)}
    if description is not None:
        metadata["model"] = json.dumps(description)
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata)
    payload = sum(value.numel() * value.element_size() for value in tensors.values())
    return {"payload_bytes": payload, "clustered": clustered, "share": packed / max(total, 1)}


def describe(path: str | Path) -> dict[str, Any] | None:
    """The description that `pack` was given; None where there is none. Raises UserError for any other file."""
    with _opened(path) as file:
        text = _metadata(file, path).get("model")
    return None if text is None else json.loads(text)


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a packed file, weights as they were. Raises UserError for any other file."""
    try:
        with _opened(path) as file:
            metadata = _metadata(file, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        for name, entry in json.loads(metadata["clustered"]).items():
            shape = entry.pop("shape")
            codes, tables = tensors.pop(f"{name}.codes"), tensors.pop(f"{name}.tables")
            tensors[name] = unpalette(Layout(**entry), codes, tables, tensors.pop(f"{name}.tail", None), shape)
        for name, source in json.loads(metadata["shared"]).items():
            tensors[name] = tensors[source]
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"packed model {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return tensors


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"packed model {path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _metadata(file: Any, path: str | Path) -> dict[str, str]:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a packed model: its format is {metadata.get('format')!r}, not {FORMAT}.")
    return metadata


def unpack(path: str | Path, module: M) -> M:
    """Load a packed file into ``module`` (built as the packed one was), strictly; returns it.

    Raises UserError for a file that cannot be read or does not fit.
    """
    try:
        module.load_state_dict(read(path), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"packed model {path} does not fit {type(module).__name__}: {reason}") from error
    return module


def unpalette(layout: Layout, codes: Tensor, tables: Tensor, tail: Tensor | None, shape: list[int]) -> Tensor:
    """The tensor of packed ``codes``. Raises ValueError where sizes do not fit."""
    sizes = layout.sizes(shape)
    counts, rests = [size // layout.dim for size in sizes], [size % layout.dim for size in sizes]
    rest = tables.new_zeros(0) if tail is None else tail
    if len(codes) != -(-sum(counts) * layout.bits // 8) or len(rest) != sum(rests):
        raise ValueError(f"a tensor of shape {shape} has {len(codes)} bytes of codes and {len(rest)} left over")
    parts = []
    found = unpack_bits(codes, layout.bits, sum(counts)).split(counts)
    for table, part, end in zip(tables, found, rest.split(rests), strict=True):
        parts.append(torch.cat([table[part.long()].view(-1), end]))
    return layout.join(parts, shape).clone()


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes (n,) uint8 below 2**bits as ceil(n bits / 8) bytes, lowest bits first; eight codes fill ``bits`` bytes."""
    size = -(-len(codes) * bits // 8)
    eights = nn.functional.pad(codes, (0, -len(codes) % 8)).view(-1, 8)
    words = torch.zeros(len(eights), dtype=torch.int64)
    for place in range(8):
        words |= eights[:, place].long() << (place * bits)
    return torch.stack([(words >> (8 * byte) & 255).to(torch.uint8) for byte in range(bits)], 1).view(-1)[:size].clone()


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The ``count`` codes (uint8) of ``pack_bits``."""
    bytes_ = nn.functional.pad(packed, (0, -len(packed) % bits)).view(-1, bits)
    words = torch.zeros(len(bytes_), dtype=torch.int64)
    for place in range(bits):
        words |= bytes_[:, place].long() << (8 * place)
    codes = [(words >> (place * bits) & ((1 << bits) - 1)).to(torch.uint8) for place in range(8)]
    return torch.stack(codes, 1).view(-1)[:count].clone()


def check_equal(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming a tensor that a packed file does not give back."""
    found = read(path)
    wrong = [name for name, value in state.items() if name not in found or not _same(found[name], value.cpu())]
    if wrong or found.keys() != state.keys():
        raise ValueError(f"{path.name} does not give back {', '.join(wrong[:3]) or 'the same tensors'}")


def _same(found: Tensor, value: Tensor) -> bool:
    """Whether two tensors are one bit for bit: a threshold not yet fitted is NaN, and NaN is equal to nothing."""
    if found.dtype != value.dtype or not value.is_floating_point():
        return torch.equal(found, value)
    bits = BITS_OF[value.element_size()]
    return torch.equal(found.contiguous().view(bits), value.contiguous().view(bits))
