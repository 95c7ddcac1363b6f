"""A number with its interval: the unit in which quality travels from a model to the record and the dashboard."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One value with a 95 % interval, fractions and SI units."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Independent units behind the value: episodes for a bootstrap, trials for a binomial."""
    method: str | None = None
    """How the interval was made, for example ``bootstrap over episodes, 1000``. None: no interval."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
