"""A metric over all runs as a compact JSON column, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

SPARSE = 0.6  # a column with fewer values than this share of the runs names its rows


def column(rows: np.ndarray, numbers: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    """value, low, high, n for all runs, or for `rows` only; low and high null when no run has any; one n for all."""
    column: dict[str, Any] = {}
    sparse = len(rows) < SPARSE * count
    if sparse:
        order = np.argsort(rows)
        column["rows"] = rows[order].tolist()
    for key, values in numbers.items():
        known = values[~np.isnan(values)]
        if key != "value" and not len(known):
            column[key] = None
        elif key == "n" and len(known) == len(values) and (known == known[0]).all():
            column[key] = int(known[0])
        elif sparse:
            column[key] = numbers_list(values[order])
        else:
            full = np.full(count, np.nan)
            full[rows] = values
            column[key] = numbers_list(full)
    return column


def dense(payload: Mapping[str, Any], name: str, key: str = "value") -> np.ndarray:
    """A metric's column over all runs, NaN for none: what a reader makes of `rows`, null and a single number."""
    metric = payload["metrics"][name]
    count = len(payload["runs"]["id"])
    rows = metric.get("rows", range(count))
    full = np.full(count, np.nan)
    values = metric[key]
    if isinstance(values, (int, float)):
        full[~np.isnan(dense(payload, name))] = values
    elif values is not None:
        full[rows] = np.array(values, dtype=np.float64)  # None becomes NaN
    return full


def numbers_list(values: np.ndarray) -> list[float | int | None]:
    """Six significant digits, whole numbers whole, NaN null."""
    values = np.asarray(values, dtype=np.float64)
    known = values[np.isfinite(values)]
    if (known == np.trunc(known)).all() and (abs(known) < 2**53).all():
        found = np.where(np.isfinite(values), values, 0).astype(np.int64).astype(object)
    else:
        found = _six_digits(values).astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def _six_digits(values: np.ndarray) -> np.ndarray:
    """Rounded so that their shortest decimal form has at most six digits."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = 5 - np.floor(np.log10(abs(values)))
        places = np.where(np.isfinite(places), places, 0).clip(-300, 300)
        up, down = 10.0 ** places.clip(0), 10.0 ** (-places).clip(0)
        # exact powers of ten on both sides: the quotient is the double nearest to the decimal number
        return np.where(places > 0, np.round(values * up) / up, np.round(values / down) * down)
