"""Mouths from phonemes: what lips, jaw, teeth and tongue show while espeak-ng's phonemes are spoken.

Each phoneme has a target and a dominance, how hard it insists on it. A mouth at some time is the mean of all targets,
weighted by dominance times a bell around each one's time (the model of Cohen and Massaro, 1993): a vowel between two
rounded sounds is rounded, while the lips do close for every p, b and m. The numbers of the table are ours, read off
pictures of visemes; what matters is that the picture tells something of the sound, as it does in life.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHAPE = ("open", "width", "round", "teeth", "tongue", "press")
"""Of a mouth: how far the jaw is down, lips spread, lips rounded, teeth shown, tongue seen, lips pressed together;
0 is the mouth at rest, 1 as far as speech goes."""
OPEN, WIDTH, ROUND, TEETH, TONGUE, PRESS = range(len(SHAPE))
_BELL_S = 0.045  # standard deviation of a phoneme's influence
_REST_S = 0.08  # a mouth has opened so long before it is heard, and closes so long after

Shapes = NDArray[np.float32]

# phonemes: open, width, round, teeth, tongue, press, dominance
_TABLE: dict[str, tuple[float, ...]] = {
    "p b m": (0.00, 0.0, 0.0, 0.0, 0.0, 1.0, 4.0),
    "f v": (0.10, 0.1, 0.0, 0.9, 0.0, 0.3, 2.5),
    "T D": (0.20, 0.1, 0.0, 0.5, 1.0, 0.0, 1.5),
    "t d n s z": (0.16, 0.3, 0.0, 0.8, 0.1, 0.0, 1.0),
    "l": (0.28, 0.2, 0.0, 0.4, 0.8, 0.0, 1.0),
    "S Z tS dZ": (0.18, -0.2, 0.6, 0.9, 0.0, 0.0, 1.6),
    "k g N x": (0.25, 0.1, 0.0, 0.2, 0.2, 0.0, 0.7),
    "h ?": (0.30, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3),
    "r": (0.22, -0.1, 0.5, 0.2, 0.1, 0.0, 1.0),
    "w": (0.12, -0.4, 1.0, 0.0, 0.0, 0.0, 2.0),
    "j": (0.18, 0.6, 0.0, 0.4, 0.1, 0.0, 1.0),
    "i": (0.22, 0.9, 0.0, 0.5, 0.1, 0.0, 1.2),
    "I": (0.30, 0.5, 0.0, 0.4, 0.1, 0.0, 1.0),
    "e E": (0.48, 0.5, 0.0, 0.3, 0.2, 0.0, 1.1),
    "a": (0.85, 0.3, 0.0, 0.3, 0.2, 0.0, 1.3),
    "A": (1.00, 0.0, 0.0, 0.1, 0.2, 0.0, 1.3),
    "V": (0.65, 0.1, 0.0, 0.2, 0.1, 0.0, 1.1),
    "O 0": (0.72, -0.2, 0.6, 0.0, 0.1, 0.0, 1.2),
    "o": (0.50, -0.3, 0.8, 0.0, 0.0, 0.0, 1.3),
    "u": (0.22, -0.4, 1.0, 0.0, 0.0, 0.0, 1.5),
    "U": (0.32, -0.3, 0.8, 0.0, 0.0, 0.0, 1.2),
    "@ 3": (0.38, 0.1, 0.1, 0.2, 0.1, 0.0, 0.8),
}
_TARGETS = {phone: np.array(row) for phones, row in _TABLE.items() for phone in phones.split()}


def parts_of(label: str) -> list[str]:
    """The targets that one of espeak's phonemes passes through: two for a diphthong.

    >>> parts_of("'aI"), parts_of("tS"), parts_of("i@3")
    (['a', 'I'], ['tS'], ['i', '@'])
    """
    name = re.sub(r"[^A-Za-z0@3?]", "", label)  # stress, length and variants are written around the letters
    name = re.sub("^(?:aa|A@)", "A", name)
    if name in _TARGETS:
        return [name]
    found = [letter for letter in name.replace("L", "l").replace("R", "r") if letter in _TARGETS]
    return found[:2] or ["@"]


def mouth(labels: Sequence[str], starts_s: Sequence[float] | NDArray, end_s: float, times_s: NDArray) -> Shapes:
    """Shapes (T, 6) of a mouth at ``times_s`` (T,) that says phonemes from ``starts_s`` on until ``end_s``.

    At rest, zeros, more than 0.08 s before the first and after the last one.
    """
    if not len(labels):
        return np.zeros((len(times_s), len(SHAPE)), np.float32)
    ends = np.append(starts_s[1:], end_s)
    rows, centres = [], []
    for label, start, end in zip(labels, starts_s, ends, strict=True):
        pieces = parts_of(label)
        for number, piece in enumerate(pieces):
            rows.append(_TARGETS[piece])
            centres.append(start + (number + 0.5) / len(pieces) * (end - start))
    first, last = float(starts_s[0]), float(end_s)
    targets = np.array(rows)  # (N, 7)
    distance = (np.asarray(times_s)[:, None] - np.array(centres)) / _BELL_S
    weight = np.exp(-0.5 * distance**2) * targets[:, -1] + 1e-9
    shapes = weight @ targets[:, :-1] / weight.sum(1, keepdims=True)
    inside = np.clip(1 + np.minimum(times_s - first, last - times_s) / _REST_S, 0, 1)
    return (shapes * inside[:, None]).astype(np.float32)
