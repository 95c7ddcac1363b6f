"""Values of a record that may hold anything: one of the right type, or None; texts cut, numbers finite."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

TEXT = 300  # characters kept of an error or a knob
NAME = 120  # characters kept of an id or of a metric's name


def text(value: Any, limit: int = TEXT) -> str | None:
    """Of at most ``limit`` characters, without half a surrogate pair (JSON allows that, UTF-8 does not)."""
    return cut(value, limit) if isinstance(value, str) else None


def cut(value: str, limit: int = TEXT) -> str:
    shown = value if len(value) <= limit else value[: limit - 1] + "…"
    return shown if shown.isascii() else shown.encode("utf-8", "replace").decode("utf-8")


def number(value: Any) -> float | None:
    """A finite number."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is not int:
        return None
    return float(value) if abs(value) < 2**1023 else None


def whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Checked in `row`: null counts as empty."""
    return content.get(name) or {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def numbers(value: Any) -> np.ndarray | None:
    """A flat list of numbers, null as NaN."""
    if not isinstance(value, list):
        return None
    if not set(map(type, value)) <= {int, float, type(None)}:
        return None
    try:
        return np.array(value, dtype=np.float64)  # None becomes NaN
    except OverflowError:
        return None


def url(value: Any) -> str | None:
    """Only what a link may open: no `javascript:`."""
    shown = text(value)
    return shown if shown and shown.startswith(("https://", "http://")) else None
