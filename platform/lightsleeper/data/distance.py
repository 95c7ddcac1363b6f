"""Edit distances between pronunciations: the textbook one, and the published one of LibriPhrase.

The published distance (Shin et al., Interspeech 2022, arXiv 2206.15400; its public recipe) compares phone symbols
joined into one character string and drops an insertion or deletion whose resulting cost would be 1 or less. So
"cat"/"cats" are 5 apart, not 1, and plural-like neighbours never become hard negatives. Both run here over blocks of
pairs at once. The search for nearest texts is exact: a pair is skipped only where the symbols that one side lacks
already outnumber the distance reached.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Sequences = Sequence[str] | Sequence[Sequence[int]]
"""Character strings, or lists of phone ids below 256."""

BLOCK_PAIRS = 32_768  # pairs per block: the rows of its table stay in cache (8 k and 256 k measured slower)
QUERY_ROWS = 64  # queries searched together, fewer where candidates are many:
SEARCH_PAIRS = 8_000_000  # bounds held in memory at a time
_COPIES = 4  # repeated symbols of one sequence that the lower bound counts


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Least number of substitutions, insertions and deletions of phones that turn ``a`` into ``b``."""
    return int(distances([a], [b])[0, 0])


def libriphrase_distance(a: str, b: str) -> int:
    """The published distance of two joined pronunciations such as ``"FREHND"`` (words separated by a blank)."""
    return int(distances([a], [b], published=True)[0, 0])


def distances(queries: Sequences, candidates: Sequences, published: bool = False) -> NDArray[np.int64]:
    """All distances between two lists of sequences: (queries, candidates)."""
    rows, columns = np.indices((len(queries), len(candidates)))
    flat = _Table(queries, candidates, published).pairs(rows.ravel(), columns.ravel())
    return flat.reshape(rows.shape)


def nearest(
    queries: Sequences, candidates: Sequences, k: int, published: bool = False, limit: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ``k`` nearest candidates of each query whose distance is above 0 (homophones do not count).

    Returns indices and distances, both (queries, k); ties keep the candidates' order, missing places hold -1.
    ``limit`` is the largest distance allowed.
    """
    indices = np.full((len(queries), k), -1, np.int64)
    found = np.full((len(queries), k), -1, np.int64)
    table = _Table(queries, candidates, published)
    by_length = np.argsort(table.a_lengths, kind="stable")
    together = max(1, min(QUERY_ROWS, SEARCH_PAIRS // max(1, len(candidates))))
    for start in range(0, len(by_length), together):
        rows = by_length[start : start + together]
        for row, line in zip(rows, _near_lines(table, rows, k, limit), strict=True):
            picked = _smallest(line, k)
            indices[row, : len(picked)] = picked
            found[row, : len(picked)] = line[picked]
    return indices, found


_UNKNOWN = np.iinfo(np.int16).max


def _near_lines(table: "_Table", rows: NDArray[np.intp], k: int, limit: int | None) -> NDArray[np.int16]:
    """Distances (rows, candidates), exact wherever they can be among a row's ``k`` smallest, else ``_UNKNOWN``."""
    bounds = table.lower_bounds(rows)  # (rows, candidates)
    lines = np.full(bounds.shape, _UNKNOWN, np.int16)
    highest = int(bounds.max(initial=0)) if limit is None else limit
    open_rows = np.arange(len(rows))
    first = 2  # most words have enough neighbours at distance 2: one round instead of three
    for reach in range(min(first, highest), highest + 1):
        shell = bounds[open_rows] <= reach if reach <= first else bounds[open_rows] == reach
        local, column = np.nonzero(shell)
        exact = table.pairs(rows[open_rows[local]], column)
        if limit is not None:
            exact = np.where(exact > limit, _UNKNOWN, exact)
        lines[open_rows[local], column] = np.where(exact == 0, _UNKNOWN, exact)
        # What is still unknown is further away than ``reach``.
        open_rows = open_rows[(lines[open_rows] <= reach).sum(axis=1) < k]
        if not len(open_rows):
            break
    return lines


def _smallest(line: NDArray[np.int16], k: int) -> NDArray[np.intp]:
    """Positions of the ``k`` smallest known values, smallest first, earlier position first among equals."""
    bound = int(np.partition(line, k - 1)[k - 1]) if k <= len(line) else _UNKNOWN
    near = np.flatnonzero((line <= bound) & (line < _UNKNOWN))
    return near[np.argsort(line[near], kind="stable")][:k]


class _Table:
    """Two lists of sequences as padded arrays, and the dynamic programme over any list of their pairs."""

    def __init__(self, queries: Sequences, candidates: Sequences, published: bool) -> None:
        self.published = published
        self.a, self.a_lengths = _padded(queries)
        self.b, self.b_lengths = (self.a, self.a_lengths) if candidates is queries else _padded(candidates)
        longest = int(max(self.a_lengths.max(initial=0), self.b_lengths.max(initial=0)))
        self.dtype: type[np.unsignedinteger] = np.uint8 if longest < 100 else np.uint16
        self._bags: tuple[list[NDArray[np.uint64]], list[NDArray[np.uint64]]] | None = None

    def lower_bounds(self, rows: NDArray[np.intp]) -> NDArray[np.int16]:
        """What no distance can fall below: the symbols of either side that the other lacks, repeats counted."""
        if self._bags is None:
            self._bags = _bags(self.a, self.b)
        missing = np.zeros((len(rows), len(self.b)), np.int16)
        surplus = np.zeros_like(missing)
        for a, b in zip(*self._bags, strict=True):
            mine, other = a[rows, None], b[None, :]
            common = np.bitwise_count(mine & other)
            missing += np.bitwise_count(mine) - common.astype(np.int16)
            surplus += np.bitwise_count(other) - common.astype(np.int16)
        return np.maximum(missing, surplus)

    def pairs(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int64]:
        """The distance of every (query, candidate) pair given by position."""
        result = np.empty(len(rows), np.int64)
        order = np.argsort(self.b_lengths[columns], kind="stable")  # similar lengths together: little padding
        for start in range(0, len(order), BLOCK_PAIRS):
            chosen = order[start : start + BLOCK_PAIRS]
            result[chosen] = self._block(rows[chosen], columns[chosen])
        return result

    def _block(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.unsignedinteger]:
        """Each cell of the programme's table is one array over the pairs."""
        dtype = self.dtype
        a_lengths, b_lengths = self.a_lengths[rows], self.b_lengths[columns]
        height, width = int(a_lengths.max(initial=0)), int(b_lengths.max(initial=0))
        a = np.ascontiguousarray(self.a[rows, :height].T)  # (height, pairs)
        b = np.ascontiguousarray(self.b[columns, :width].T)
        previous = np.empty((width + 1, len(rows)), dtype)
        previous[:] = np.arange(width + 1, dtype=dtype)[:, None]
        current = np.empty_like(previous)
        step = np.empty(len(rows), dtype)
        differs = np.empty(len(rows), np.bool_)
        result = b_lengths.astype(dtype)  # right for an empty query; the others are read below
        one, two = dtype(1), dtype(2)
        for i in range(1, height + 1):
            current[0] = i
            for j in range(1, width + 1):
                if self.published:
                    # An insertion or deletion from a cell of cost 0 would cost 1, which the rule drops: 0 - 1 wraps to
                    # the largest value, so that cell loses. Both cells are never 0: two prefixes of different length
                    # cannot each equal the other's.
                    np.minimum(previous[j] - one, current[j - 1] - one, out=step)
                    step += two
                else:
                    np.minimum(previous[j], current[j - 1], out=step)
                    step += one
                np.not_equal(a[i - 1], b[j - 1], out=differs)
                np.add(previous[j - 1], differs, out=current[j])
                np.minimum(current[j], step, out=current[j])
            ends = np.flatnonzero(a_lengths == i)
            result[ends] = current[b_lengths[ends], ends]
            previous, current = current, previous
        return result


def _padded(sequences: Sequences) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Symbols as a (n, longest) array of bytes, and the lengths (n,). Padding is never compared."""
    coded = [s.encode("ascii") if isinstance(s, str) else bytes(s) for s in sequences]
    lengths = np.array([len(s) for s in coded], np.int64)
    longest = int(lengths.max(initial=0))
    table = np.frombuffer(b"".join(s.ljust(longest, b"\0") for s in coded), np.uint8)
    return table.reshape(len(coded), longest), lengths


def _bags(*tables: NDArray[np.uint8]) -> tuple[list[NDArray[np.uint64]], list[NDArray[np.uint64]]]:
    """Each sequence's symbols as bits, one for the first, second, ... copy of a symbol; 64 bits to an array."""
    symbols = [symbol for symbol in np.unique(np.concatenate([np.unique(t) for t in tables])) if symbol]
    if not symbols:
        return [], []
    counts = [np.stack([(t == symbol).sum(axis=1) for symbol in symbols], axis=1) for t in tables]
    bits = [np.concatenate([c > copy for copy in range(_COPIES)], axis=1) for c in counts]  # (n, symbols * copies)
    used = np.logical_or.reduce([part.any(axis=0) for part in bits])
    first, second = ([_packed(part[:, used][:, at : at + 64]) for at in range(0, used.sum(), 64)] for part in bits)
    return first, second


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return (bits.astype(np.uint64) << np.arange(bits.shape[1], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
