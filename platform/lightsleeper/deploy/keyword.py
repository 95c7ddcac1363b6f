"""A typed keyword, as matchers take it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keyword:
    """A typed text with one of its pronunciations."""

    text: str
    phones: NDArray[np.int64]
    """Phone ids (P,), 1 to 39."""
    words: NDArray[np.int64]
    """Word number of each phone (P,), from 0."""
    spelling: tuple[str, ...]
    """The words."""
    said: str = ""
    """The pronunciation in ARPAbet, words apart: ``"HH EY1 / S IH1 R IY0"``."""
    engines: tuple[str, ...] = ()
    """What knows each word's pronunciation."""
