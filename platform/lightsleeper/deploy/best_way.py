"""Evaluation over several pronunciations of each typed text, as `lightning detect` tries them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightsleeper.data.arpabet import parse
from lightsleeper.data.batch import pad
from lightsleeper.data.pronunciation import Phonemizer, pronunciations

Score = Callable[[dict[str, Any]], dict[str, Tensor]]


class BestWay:
    """A scoring function that keeps, of each scorer and row, the highest score over pronunciations of the row's text.

    Args:
        score: scores (B,) by scorer of a batch with ``phones``, ``words`` and ``text``.
        most: pronunciations of a text, the likeliest first; the first is what the batch holds.
        own: words and the ARPAbet that the user gave them, instead of what the phonemizer knows.
    """

    def __init__(self, score: Score, phonemizer: Phonemizer, most: int, own: Mapping[str, str] | None = None) -> None:
        self.score, self.phonemizer, self.most = score, phonemizer, most
        self.own = {word: [parse(word, spelled)] for word, spelled in (own or {}).items()}
        self._known: dict[str, list[tuple[list[int], list[int]]]] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        rows, phones, words = [], [], []
        for row, text in enumerate(batch["text"]):
            own = batch["phones"][row], batch["words"][row]
            held = int((own[0] != 0).sum())
            ways = [tuple(part[:held].tolist() for part in own)]
            ways += [way for way in self._ways(text) if way[0] != ways[0][0]][: self.most - 1]
            for way in ways:
                rows.append(row)
                phones.append(way[0])
                words.append(way[1])
        chosen = torch.tensor(rows)
        tried = {name: _repeated(value, chosen) for name, value in batch.items()}
        scores = self.score(tried | {"phones": pad(phones, 0), "words": pad(words, -1)})
        return {name: _highest(values.cpu(), chosen, len(batch["text"])) for name, values in scores.items()}

    def _ways(self, text: str) -> list[tuple[list[int], list[int]]]:
        if text not in self._known:
            said = pronunciations(text, self.phonemizer, self.own, self.most)
            self._known[text] = [(way.phones, way.words) for way in said]
        return self._known[text]


def _repeated(value: Any, rows: Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) else [value[row] for row in rows.tolist()]


def _highest(scores: Tensor, rows: Tensor, count: int) -> Tensor:
    start = torch.full((count,), -torch.inf, dtype=scores.dtype)
    return start.scatter_reduce(0, rows, scores, "amax")
