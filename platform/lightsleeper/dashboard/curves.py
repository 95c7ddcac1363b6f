"""Curves of a record in one form, thinned: operating points of test sets and metrics over training."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lightsleeper.dashboard.safe import NAME, items, mapping, number, numbers, section, text

CURVE_POINTS = 100
AXES = {"det": ("far", "frr"), "roc": ("fpr", "tpr"), "frr_fah": ("fa_per_hour", "frr")}  # x and y


def curves(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every curve of a record but `training`, each as `curve` gives it, with its `name`."""
    threshold = section(content, "threshold")
    chosen = (text(threshold.get("target"), NAME) or "threshold", number(threshold.get("value")))
    for name, value in section(content, "curves").items():
        if name != "training" and (found := curve(value, chosen)):
            yield {"name": text(name, NAME), **found}


def curve(value: Any, chosen: tuple[str, float | None] = ("", None)) -> dict[str, Any] | None:
    """``{kind, x, y, threshold, points}`` of a curve as families write it; None for anything else.

    det: x false accept rate, y false reject rate; roc: x false, y true positive rate; frr_fah: x false alarms an hour,
    y false reject rate. Without a `kind` the names of the lists tell; with one they may be called x and y. ``chosen``
    is the name and value of the shipped threshold, marked on the curve where it has thresholds.
    """
    content = mapping(value)
    for kind, names in AXES.items():
        if content.get("kind", kind) != kind:
            continue
        for x_name, y_name in (names, ("x", "y")) if "kind" in content else (names,):
            x, y, threshold = (numbers(content.get(key)) for key in (x_name, y_name, "threshold"))
            if x is not None and y is not None and len(x) == len(y) > 0:
                same = threshold is not None and len(threshold) == len(x)
                return {"kind": kind, **_thinned(x, y, threshold if same else None, chosen), **_points(content)}
    return None


def _thinned(x: np.ndarray, y: np.ndarray, threshold: np.ndarray | None, chosen: tuple[str, Any]) -> dict[str, Any]:
    fine = np.isfinite(x) & np.isfinite(y)
    x, y = x[fine], y[fine]
    keep = thin(len(x), CURVE_POINTS)
    found: dict[str, Any] = {"x": x[keep].astype(np.float32), "y": y[keep].astype(np.float32), "points": []}
    if threshold is not None:
        threshold = threshold[fine]
        found["threshold"] = threshold[keep].astype(np.float32)
        if chosen[1] is not None and len(x) and (np.diff(threshold) >= 0).all():
            place = [float(np.interp(chosen[1], threshold, axis)) for axis in (x, y)]
            found["points"] = [{"name": chosen[0], "x": place[0], "y": place[1]}]
    return found


def _points(content: Mapping[str, Any]) -> dict[str, Any]:
    """Points that a family marks itself: `[{name, x, y}]`."""
    marked = [
        {"name": text(point.get("name"), NAME), "x": number(point.get("x")), "y": number(point.get("y"))}
        for point in map(mapping, items(content.get("points"))[:20])
        if number(point.get("x")) is not None and number(point.get("y")) is not None
    ]
    return {"points": marked} if marked else {}


def thin(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, the first and the last among them."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(int)


def training(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``{name, step, value}`` of every training curve."""
    for name, series in mapping(section(content, "curves").get("training")).items():
        step, value = (numbers(mapping(series).get(key)) for key in ("step", "value"))
        if step is not None and value is not None and len(step) == len(value) > 0:
            fine = np.isfinite(step) & (abs(step) < 2**53)
            keep = thin(int(fine.sum()), CURVE_POINTS)
            steps, kept = step[fine][keep].astype(np.int64), value[fine][keep].astype(np.float32)
            yield {"name": text(name, NAME), "step": steps, "value": kept}
