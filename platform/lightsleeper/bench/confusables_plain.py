"""The generator of confusable keywords in plain Python: one keyword, one place after the other, as it is published.

It takes its random numbers in the order of `data.confusables`, so that both must give the same keywords.
"""

from collections.abc import Sequence

import numpy as np

from lightsleeper.phones import CLASSES

Sound = tuple[list[int], list[int]]
"""Phones and the word number of each."""


def draw(
    keywords: Sequence[Sound],
    rng: np.random.Generator,
    edits: tuple[int, int] = (1, 3),
    weights: np.ndarray | None = None,
) -> list[Sound]:
    """A confusable of each keyword; ``weights`` (40, 40) of taking a phone for another, None: all alike."""
    rows, width = len(keywords), max(len(phones) for phones, _ in keywords)
    counts = rng.integers(edits[0], edits[1] + 1, rows)
    order = rng.random((rows, width))
    adds = rng.random((rows, edits[1])) < 0.5
    chances = rng.random((rows, edits[1]))
    found = []
    for row, (phones, words) in enumerate(keywords):
        by_chance = sorted(range(len(phones)), key=lambda place: order[row, place])  # noqa: B023 - used at once
        places = sorted(by_chance[: counts[row]], reverse=True)
        phones, words = list(phones), list(words)
        for edit, place in enumerate(places):
            phone = _pick(phones, place, chances[row, edit], weights)
            if adds[row, edit]:
                phones.insert(place, phone)
                words.insert(place, words[place])
            else:
                phones[place] = phone
        found.append((phones, words))
    return found


def _pick(phones: list[int], place: int, chance: float, weights: np.ndarray | None) -> int:
    """A phone unlike those at ``place`` and on either side of it."""
    around = phones[max(place - 1, 0) : place + 2]
    allowed = [phone for phone in range(1, CLASSES) if phone not in around]
    weight = [1.0 if weights is None else float(weights[phones[place], phone]) for phone in allowed]
    aim, passed = chance * sum(weight), 0.0
    for phone, share in zip(allowed, weight, strict=True):
        passed += share
        if passed > aim:
            return phone
    return allowed[-1]
