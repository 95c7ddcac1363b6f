import numpy as np
import pytest
from lightsleeper.data.visemes import OPEN, PRESS, ROUND, mouth, parts_of


@pytest.mark.parametrize(
    ("label", "parts"),
    [("'aI", ["a", "I"]), ("tS", ["tS"]), (",i@3", ["i", "@"]), ("'3:", ["3"]), ("@L", ["@", "l"]), ("t#", ["t"]),
     ("'A@", ["A"]), ("'aa", ["A"]), ("r-", ["r"]), (";", ["@"]), ("!", ["@"])],
)  # fmt: skip
def test_espeaks_names_of_phonemes_have_their_targets(label, parts):
    assert parts_of(label) == parts


def test_lips_close_for_p_b_and_m_and_open_for_an_a():
    times = np.arange(0, 1, 0.005)
    shapes = mouth(["'A:", "p", "'A:"], [0.2, 0.4, 0.5], 0.7, times)
    middle = shapes[np.abs(times - 0.45).argmin()]
    assert middle[OPEN] < 0.15
    assert middle[PRESS] > 0.8
    assert shapes[np.abs(times - 0.3).argmin(), OPEN] > 0.8


def test_a_vowel_between_rounded_sounds_is_rounder():
    times = np.array([0.35])
    plain = mouth(["k", "'I", "k"], [0.2, 0.3, 0.4], 0.5, times)
    between = mouth(["w", "'I", "w"], [0.2, 0.3, 0.4], 0.5, times)
    assert between[0, ROUND] > plain[0, ROUND] + 0.1


def test_a_mouth_rests_before_and_after():
    times = np.array([0.0, 0.41, 0.5, 1.0, 1.09, 2.0])
    moves = np.abs(mouth(["'A:"], [0.5], 1.0, times)).max(1) > 0
    assert moves.tolist() == [False, False, True, True, False, False]
    assert mouth([], [], 0.0, times).shape == (6, 6)
