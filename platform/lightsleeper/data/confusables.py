"""Keywords that nearly sound like a given one: phone sequences with one to three phones replaced or added.

The generator of "Flexible Keyword Spotting based on Homogeneous Audio-Text Embedding" (Nishu et al., ICASSP 2024,
section on confusable keywords, figure 4): D places of the keyword are drawn, at each a phone is replaced, or one put
before it, by a phone unlike those at the place and on either side of it; nothing is ever left out. Text only: the
recording of the true keyword is paired with it as a negative.

Not stated there, decided here: D and the phones are drawn evenly, places differ, edits go from right to left. Ours,
not published: phones weighted by how near they are articulated (`data.articulation`).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lightsleeper.errors import UserError
from lightsleeper.phones import CLASSES, PHONES

Weighting = Literal["uniform", "articulatory"]
EDITS = (1, 3)
_TRIES = 100  # a draw is refused for sounding like a text that is kept apart, which fewer than 1 in 50 do
_LONGEST = 1024  # phones of a keyword that can be kept apart
_MARKS = np.random.default_rng(0).integers(1, 2**64, (_LONGEST, CLASSES), np.uint64)
"""A random number for each phone at each place: a sequence is known by the sum of its own."""


class Confuser:
    """Draws confusable keywords, a whole batch at once.

    Args:
        edits: Fewest and most places that change. Suggested by the paper: 1 to 3. A keyword of fewer phones changes in
            at most as many.
        weighting: ``uniform`` over the phones, as published; ``articulatory``, ours: a replacing phone by its distance
            to the one it replaces, an added one by its distance to the one it precedes. Needs the extra ``phonology``.
        never: Phone sequences that no draw may be: what is kept for the tests.
        never_words: Phone sequences that no word of a draw may be.

    Raises:
        UserError: ``edits`` are no range from 1, the weighting is unknown, or panphon is missing.

    Example::

        confuser = Confuser()
        phones, words = confuser.draw(phones, words, np.random.default_rng(0))  # (B, P) -> (B, P + 3)
    """

    def __init__(
        self,
        edits: Sequence[int] = EDITS,
        weighting: Weighting = "uniform",
        never: Iterable[Sequence[int]] = (),
        never_words: Iterable[Sequence[int]] = (),
    ) -> None:
        if len(edits) != 2 or not 1 <= edits[0] <= edits[1]:
            raise UserError(f"edits are the fewest and the most, such as [1, 3]; got {list(edits)}.")
        if weighting not in ("uniform", "articulatory"):
            raise UserError(f"weighting is 'uniform' or 'articulatory', got '{weighting}'.")
        self.fewest, self.most = int(edits[0]), int(edits[1])
        self.weights = _weights(weighting)
        self._never, self._never_words = _mark_all(never), _mark_all(never_words)

    def draw(
        self, phones: NDArray[np.integer], words: NDArray[np.integer], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One confusable keyword a row: ``phones`` (B, P), 0-padded, and ``words`` (B, P), -1-padded, both widened to
        (B, P + most edits). An added phone belongs to the word of the phone it precedes.

        Raises RuntimeError where a row gives only draws that are not allowed.
        """
        made = self._once(phones, words, rng)
        wrong = self._refused(*made, np.arange(len(phones)))
        for _ in range(_TRIES):
            if not len(wrong):
                return made
            again = self._once(phones[wrong], words[wrong], rng)
            for table, rows in zip(made, again, strict=True):
                table[wrong] = rows
            wrong = self._refused(*again, wrong)
        sound = " ".join(PHONES[phone - 1] for phone in phones[wrong[0]] if phone)
        raise RuntimeError(f"no confusable keyword was found for {sound}")

    def _once(
        self, phones: NDArray[np.integer], words: NDArray[np.integer], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A draw for each row, whatever it sounds like. Four calls of ``rng``, of sizes that B and P give."""
        rows, width = phones.shape
        lengths = (phones > 0).sum(1)
        edits = np.minimum(rng.integers(self.fewest, self.most + 1, rows), lengths)
        order = np.where(np.arange(width) < lengths[:, None], rng.random((rows, width)), 2.0).argsort(1)
        adds = rng.random((rows, self.most)) < 0.5
        chances = rng.random((rows, self.most))
        picked = np.full((rows, self.most), -1)
        picked[:, : min(width, self.most)] = order[:, : self.most]
        picked[np.arange(self.most) >= edits[:, None]] = -1
        places = -np.sort(-picked, axis=1)  # from right to left: places further left keep their numbers
        new = np.zeros((rows, width + self.most), np.int64)
        new[:, :width] = phones
        owners = np.full_like(new, -1)
        owners[:, :width] = words
        for edit in range(self.most):
            active = np.flatnonzero(places[:, edit] >= 0)
            if len(active):
                at, add = places[active, edit], adds[active, edit]
                drawn = self._phone(new[active], at, chances[active, edit])
                new[active], owners[active] = _changed(new[active], owners[active], at, add, drawn)
        return new, owners

    def _phone(self, phones: NDArray[np.int64], at: NDArray[np.intp], chance: NDArray[np.float64]) -> NDArray[np.intp]:
        """A phone (n,) for place ``at`` (n,) of each row, unlike the one there and those before and after it."""
        row = np.arange(len(phones))
        same = phones[row, at]
        weights = self.weights[same]  # (n, 40), a copy; 0 for the blank and the phone itself
        weights[row, np.where(at > 0, phones[row, at - 1], 0)] = 0
        weights[row, phones[row, np.minimum(at + 1, phones.shape[1] - 1)]] = 0  # the padding's is the blank's
        total = weights.cumsum(1)
        return (total <= chance[:, None] * total[:, -1:]).sum(1)

    def _refused(self, phones: NDArray[np.int64], words: NDArray[np.int64], rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which ``rows``, numbers of the given ones, sound like what is kept apart, whole or in a word."""
        bad = np.zeros(len(phones), bool)
        if len(self._never):
            bad |= np.isin(_mark(phones, np.zeros_like(words))[0], self._never)
        if len(self._never_words):
            marks, row = _mark(phones, words)
            bad[row[np.isin(marks, self._never_words)]] = True
        return rows[bad]


def _changed(
    phones: NDArray[np.int64],
    words: NDArray[np.int64],
    at: NDArray[np.intp],
    add: NDArray[np.bool_],
    drawn: NDArray[np.intp],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (n, P) with phone ``drawn`` (n,) at place ``at``; where ``add``, what was there moves right."""
    column = np.arange(phones.shape[1])
    later = add[:, None] & (column > at[:, None])
    source = np.where(later, column - 1, column)
    moved = np.take_along_axis(phones, source, 1)
    moved[np.arange(len(at)), at] = drawn
    return moved, np.take_along_axis(words, source, 1)


def _weights(weighting: Weighting) -> NDArray[np.float64]:
    """(40, 40): weight of drawing phone ``column`` for phone ``row``; none for the blank, nor for the phone itself."""
    weights = np.ones((CLASSES, CLASSES))
    if weighting == "articulatory":
        from lightsleeper.data.articulation import nearness

        weights[1:, 1:] = nearness()
    weights[:, 0] = 0
    np.fill_diagonal(weights, 0)
    return weights


def _mark(phones: NDArray[np.integer], words: NDArray[np.integer]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """A number for each run of equal ``words`` in a row (B, P), by its phones and their places in it; and its row.

    Two sequences share a number by a chance of 2^-64.
    """
    row, column = np.nonzero(phones)
    word = words[row, column]
    first = np.ones(len(row), bool)
    first[1:] = (row[1:] != row[:-1]) | (word[1:] != word[:-1])
    starts = np.flatnonzero(first)
    if not len(starts):
        return np.zeros(0, np.uint64), row
    place = np.arange(len(row)) - np.repeat(starts, np.diff([*starts, len(row)]))
    return np.add.reduceat(_MARKS[place, phones[row, column]], starts), row[starts]


def _mark_all(sounds: Iterable[Sequence[int]]) -> NDArray[np.uint64]:
    listed = [list(sound) for sound in sounds]
    table = np.zeros((len(listed), max(map(len, listed), default=0)), np.int64)
    for line, sound in zip(table, listed, strict=True):
        line[: len(sound)] = sound
    return np.unique(_mark(table, np.zeros_like(table))[0])
