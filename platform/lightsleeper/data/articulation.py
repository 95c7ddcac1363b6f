"""How far apart two phones are articulated, by the features of panphon (Mortensen et al., COLING 2016; MIT licence).

Ours, no part of a published keyword spotter: a phone is one or two segments (diphthongs and the r-coloured vowel), its
distance to another the mean over their first and over their last segments of panphon's weighted feature differences.
Its own edit distance of two strings would put "AW" 7 times further from "AA" than from "EY", for one segment more.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightsleeper.errors import UserError
from lightsleeper.phones import PHONES

REACH = 1.0  # distance over which a weight falls to 1/e: half of it lies on the nearest 6 to 12 (median 7) of 38 phones

_SEGMENTS = {
    "AA": "ɑ", "AE": "æ", "AH": "ə", "AO": "ɔ", "AW": "a ʊ", "AY": "a ɪ", "B": "b", "CH": "t͡ʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ə ɹ", "EY": "e ɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "d͡ʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "o ʊ", "OY": "ɔ ɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ",
    "T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip


def nearness() -> NDArray[np.float64]:
    """(39, 39): weight of taking one phone for another, falling with their distance, 1 on the diagonal."""
    return np.exp(-distances() / REACH)


@cache
def distances() -> NDArray[np.float64]:
    """(39, 39) in the order of ``PHONES``: 0.12 for a voicing contrast, 0.5 to 1 for a place, 4 to 5 for a vowel
    against a stop.

    Raises:
        UserError: panphon is not installed.
    """
    try:
        from panphon.featuretable import FeatureTable
    except ImportError as error:
        raise UserError("articulatory distances need panphon: pip install -e '.[phonology]'.") from error
    table = FeatureTable()
    ends = [(segments[0], segments[-1]) for segments in (_SEGMENTS[phone].split() for phone in PHONES)]
    features = np.array([[table.fts(segment).numeric() for segment in pair] for pair in ends], np.float64)
    steps = np.abs(features[:, None] - features[None]) / 2  # (39, 39, ends, features)
    weights = np.array(table.weights)  # of all but the last two features, which are of tone
    return (steps[..., : len(weights)] * weights).sum(-1).mean(-1)
