"""For each word of a list its nearest others by phone edit distance: the raw material of hard negatives."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.distance import nearest
from lightsleeper.files import cache_folder, content_hash, replacing


@dataclass
class NearWords:
    """``neighbours[i, :]`` are positions in ``others``, nearest first, earlier first among equals; -1: none left."""

    words: list[str]
    others: list[str]
    neighbours: NDArray[np.int64]
    distances: NDArray[np.int64]
    _position: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._position = {word: index for index, word in enumerate(self.words)}

    def __contains__(self, word: str) -> bool:
        return word in self._position

    def of(self, word: str) -> list[str]:
        """Neighbours of ``word``, nearest first; none has the same phones. Empty for a word not in the list."""
        if word not in self._position:
            return []
        return [self.others[other] for other in self.neighbours[self._position[word]] if other >= 0]

    def confuse(self, text: Sequence[str], rng: np.random.Generator, reach: int = 3) -> list[str] | None:
        """``text`` with one word replaced by one of its ``reach`` nearest; None when no word has a neighbour."""
        places = [place for place, word in enumerate(text) if self.of(word)]
        if not places:
            return None
        place = places[int(rng.integers(len(places)))]
        near = self.of(text[place])[:reach]
        return [*text[:place], near[int(rng.integers(len(near)))], *text[place + 1 :]]

    @classmethod
    def build(
        cls,
        words: Sequence[str],
        phones: Sequence[Sequence[int]],
        others: Sequence[str],
        other_phones: Sequence[Sequence[int]],
        k: int = 10,
        cached: bool = True,
    ) -> "NearWords":
        """Exact search over all pairs; 20,000 words take about 8 s on one core, read from the cache afterwards."""
        words, others = list(words), list(others)
        if not cached:
            return cls(words, others, *nearest(phones, other_phones, k))
        content = [words, [list(p) for p in phones], others, [list(p) for p in other_phones], k]
        path = cache_folder("near_words") / f"{content_hash(['near words 1', *content])}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(words, others, stored["neighbours"], stored["distances"])
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            pass  # missing or damaged: built anew
        table = cls(words, others, *nearest(phones, other_phones, k))
        with replacing(path) as temporary:
            np.savez(temporary, neighbours=table.neighbours, distances=table.distances)
        return table
