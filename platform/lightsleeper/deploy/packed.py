"""Clustered weights as a table and packed indices, all of a model in one safetensors file.

What is clustered is read off the weights: any tensor that a table of at most 256 vectors describes in fewer bytes is
stored that way, bit for bit, whatever method made it so; the rest as it is. A clustered tensor `x` becomes `x.codes`
(uint8, indices of 1 to 8 bits one after the other, lowest bits first), `x.tables` (groups, entries, dim) and, where its
groups do not divide into vectors, `x.tail`. The file's metadata holds as JSON how to put them together and, of a whole
model, how to build it, which `packed_model` does.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lightsleeper_callbacks.layout import Layout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightsleeper.errors import UserError
from lightsleeper.files import replacing

FORMAT = "lightsleeper.packed/1"
DIMS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
"""Lengths of vectors that are looked for."""
SAMPLE = 4096
MIX = 0x5851F42D4C957F2D  # odd, as in a congruential generator; products wrap
M = TypeVar("M", bound=nn.Module)
BITS_OF = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Palette(NamedTuple):
    """A tensor as codes and tables."""

    layout: Layout
    codes: Tensor
    """(vectors,) uint8, the groups one after the other."""
    tables: Tensor
    """(groups, 2**bits, dim)."""
    tail: Tensor
    """What fills no vector, the groups one after the other."""


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


def palette(weight: Tensor) -> Palette | None:
    """The smallest description of a floating-point tensor by tables, exact bit for bit; None where none is smaller."""
    if not weight.is_floating_point() or weight.dim() < 2 or not weight.numel():
        return None
    layout = _smallest(weight.view(BITS_OF[weight.element_size()]))  # as numbers, -0.0 is 0.0 and NaN is nothing
    return None if layout is None else _encode(weight, layout)


def _smallest(bits: Tensor) -> Layout | None:
    """The layout with the fewest bytes for integers of at least two axes; of equal ones that of the shorter vectors.

    Groups of several output channels are looked for where a channel divides into vectors.
    """
    number = bits.element_size()
    size, chosen = bits.numel() * number, None
    ranks, different = None, 0
    for transposed in (False, True):
        rows = _rows(bits, transposed)
        for dim in DIMS:
            if rows.numel() < 2 * dim or (transposed and dim == 1 and rows.shape[1] == 1):
                continue
            whole = rows.shape[1] % dim == 0
            least = _entries_at_least(_vectors(rows, dim), rows.shape[1] // dim if whole else None)
            if least is None or rows.numel() // dim * _bits(least) // 8 >= size:
                continue
            if ranks is None:
                numbers, ranks = bits.unique(return_inverse=True)
                different = len(numbers)
            codes, values = _coded(_vectors(_rows(ranks, transposed), dim), different)
            found = [Layout(_bits(values), dim, None, transposed)] if values <= 256 else []
            if whole and len(rows) * values <= 1 << 26:
                found += _grouped(codes.view(len(rows), -1), values, dim, transposed)
            for layout in found:
                stored = layout.stored_bytes(bits.shape, number)
                if stored < size or (chosen is not None and stored == size and dim < chosen.dim):
                    size, chosen = stored, layout
    return chosen


def _rows(numbers: Tensor, transposed: bool) -> Tensor:
    """Numbers by output channel, (channels, numbers of one)."""
    return (numbers.transpose(0, 1) if transposed else numbers).flatten(1)


def _vectors(rows: Tensor, dim: int) -> Tensor:
    """The vectors (n, dim) of all rows; numbers at the end that fill none are left out."""
    return rows.reshape(-1)[: rows.numel() // dim * dim].view(-1, dim)


def _coded(vectors: Tensor, different: int) -> tuple[Tensor, int]:
    """For vectors (n, dim) of numbers below ``different``: which of the distinct ones each is (n,), and their count.

    A vector becomes one number first: `unique` of rows took 15 times as long (measured, 884,736 weights).
    """
    keys, span = vectors[:, 0], different
    if vectors.shape[1] == 1:
        return keys, different
    for column in vectors.unbind(1)[1:]:
        if span * different >= 1 << 62:
            found, keys = keys.unique(return_inverse=True)
            span = len(found)
        keys, span = keys * different + column, span * different
    found, codes = keys.unique(return_inverse=True)
    return codes, len(found)


def _grouped(codes: Tensor, values: int, dim: int, transposed: bool) -> Iterator[Layout]:
    """Groups of output channels, each with at most 256 of all vectors; ``codes`` (channels, vectors)."""
    present = torch.zeros(len(codes), values, dtype=torch.bool).scatter_(1, codes, True)
    limit = len(codes)
    for size in range(1, len(codes)):
        if len(codes) % size and size & (size - 1) and len(codes) > 256:
            continue  # of large layers only divisors and powers of two
        if size >= limit:
            return
        groups = nn.functional.pad(present, (0, 0, 0, -len(codes) % size)).view(-1, size, values)
        most = int(groups.any(1).sum(1).max())
        if most <= 256:
            yield Layout(_bits(most), dim, size, transposed)
        else:
            limit = min(limit, 2 * size - 1)  # groups so large hold a whole one of these


def _entries_at_least(vectors: Tensor, of_row: int | None) -> int | None:
    """Entries that any table needs, by the first vectors; None where they are too many distinct ones for tables to pay.

    ``of_row``: vectors of an output channel, which no group cuts; None where they do not fill it.
    """
    sample = vectors[:SAMPLE].long()
    keys = sample[:, 0]
    for column in sample.unbind(1)[1:]:
        keys = keys * MIX + column  # a hash: two that fall together only make it look further
    if len(keys.unique()) > max(256, len(sample) // 2):
        return None
    step = min(of_row or len(keys), len(keys))
    channels = keys[: len(keys) // step * step].view(-1, step).sort(1).values
    return 1 + int((channels.diff(dim=1) != 0).sum(1).max())


def _distinct(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (u, dim) of integers (n, dim), and the row of each."""
    if vectors.shape[1] == 1:
        values, codes = vectors[:, 0].unique(return_inverse=True)
        return values[:, None], codes
    return vectors.unique(dim=0, return_inverse=True)


def _encode(weight: Tensor, layout: Layout) -> Palette:
    """``weight`` by tables of a layout that fits it; unused entries are zero."""
    codes, tables, tails = [], [], []
    for flat in layout.split(weight):
        size = len(flat) // layout.dim * layout.dim
        values, found = _distinct(flat[:size].contiguous().view(BITS_OF[weight.element_size()]).view(-1, layout.dim))
        table = flat.new_zeros(layout.entries, layout.dim)
        table[: len(values)] = values.contiguous().view(weight.dtype)
        codes.append(found.to(torch.uint8))
        tables.append(table)
        tails.append(flat[size:])
    return Palette(layout, torch.cat(codes), torch.stack(tables), torch.cat(tails))


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


def _bits(entries: int) -> int:
    return max(1, math.ceil(math.log2(entries)))


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
