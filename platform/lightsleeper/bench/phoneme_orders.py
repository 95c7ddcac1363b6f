"""Any word of a spoken order against all orders without it: typed keywords in running speech of people.

`coffee_orders` names words that occur in each recording (column ``contains``). Every keyword is sought in every
recording: the best stretch of frames, then the match graph on it, as `lightning listen` does.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.data.audio import read_audio
from lightsleeper.data.lexicon import Lexicon, split_words
from lightsleeper.deploy.keyword import Keyword
from lightsleeper.deploy.many_keywords import ManyKeywords
from lightsleeper.metrics.ranking import measure

LEAST = 10  # recordings that hold a keyword


@dataclass(frozen=True)
class Order:
    """One recording."""

    file: Path
    contains: tuple[tuple[str, ...], ...]
    """Phrases that occur, word by word."""

    def holds(self, words: Sequence[str]) -> bool:
        """Whether ``words`` occur one after the other inside one of its phrases."""
        size = len(words)
        return any(
            tuple(words) == phrase[at : at + size] for phrase in self.contains for at in range(len(phrase) - size + 1)
        )


def read_orders(folder: Path) -> list[Order]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [
            Order(folder / row["path"], tuple(tuple(split_words(part)) for part in row["contains"].split(";") if part))
            for row in csv.DictReader(file)
        ]


def keywords_of(orders: Sequence[Order]) -> list[str]:
    """Phrases that ``LEAST`` orders or more name, the commonest first."""
    named = Counter(" ".join(phrase) for order in orders for phrase in set(order.contains) if phrase)
    return [text for text, count in named.most_common() if count >= LEAST]


def judge(model: Path, orders: Sequence[Order], texts: Sequence[str], threads: int) -> dict[str, Any]:
    """AUC and EER of the exported ``model`` over all keywords together, and AUC of each, by scorer.

    Recordings are drawn for the intervals.
    """
    matcher = ManyKeywords.open(model, threads)
    enrolled = matcher.enroll([[typed(text)] for text in texts])
    scored: dict[str, list[NDArray]] = {}
    for order in orders:
        frames = matcher.encode(read_audio(order.file, matcher.sample_rate))
        _, stretches = matcher.segments(frames, enrolled)
        outputs = matcher.match(frames, enrolled, stretches)
        for name, values in outputs.items():
            if values.ndim == 1:
                scored.setdefault("shipped" if name == "score" else name, []).append(values)
    labels = torch.tensor([[order.holds(text.split()) for text in texts] for order in orders]).int()
    clip = torch.arange(len(orders))[:, None].expand_as(labels)
    found: dict[str, Any] = {"recordings": len(orders), "positives": int(labels.sum()), "scores": {}}
    for name, rows in scored.items():
        scores = torch.from_numpy(np.stack(rows))
        pooled = measure(scores.flatten(), labels.flatten(), clip.flatten())
        each = {text: measure(scores[:, k], labels[:, k], resamples=0)["auc"].value for k, text in enumerate(texts)}
        found["scores"][name] = {"auc": pooled["auc"].to_dict(), "eer": pooled["eer"].to_dict(), "each": each}
    return found


def typed(text: str) -> Keyword:
    said = Lexicon.default().pronounce(text)
    return Keyword(text, np.array(said.phones, np.int64), np.array(said.words, np.int64), tuple(text.split()), "", ())


def mean_auc(found: Mapping[str, Any]) -> float:
    """Mean over keywords of one scorer's AUC."""
    values = [value for value in found["each"].values() if value == value]
    return float(np.mean(values)) if values else float("nan")
