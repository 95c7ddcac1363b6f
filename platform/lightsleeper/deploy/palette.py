"""The smallest table and indices of a weight: looked for in its numbers, exact bit for bit.

Vectors of several lengths, along both axes, one table for all or one for each group of output channels; at most 256
entries a table. Most layouts are ruled out by the first few thousand vectors.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from lightsleeper_callbacks.layout import Layout
from torch import Tensor, nn

DIMS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16)
"""Lengths of vectors that are looked for."""
SAMPLE = 4096
MIX = 0x5851F42D4C957F2D  # odd, as in a congruential generator; products wrap
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


def _bits(entries: int) -> int:
    return max(1, math.ceil(math.log2(entries)))
