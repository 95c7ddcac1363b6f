"""Arguments that no layer can make sense of, refused in one line that names the argument and the value it got.

torch itself crashes on them deep inside a layer, or trains on them without a word.
"""

import math


def at_least(least: int, **values: float | None) -> None:
    """Raise ValueError for a value below ``least`` or not finite; None passes."""
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name} must be {least} or more; got {value}")


def above_zero(**values: float) -> None:
    """Raise ValueError for a value that is zero, negative or not finite."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be above 0; got {value}")


def share(*, below_one: bool = False, **values: float) -> None:
    """Raise ValueError for a value outside 0 to 1; ``below_one`` refuses 1 too."""
    for name, value in values.items():
        if not 0 <= value <= 1 or (below_one and value == 1):
            raise ValueError(f"{name} must be a share from 0 to {'below ' if below_one else ''}1; got {value}")
