"""What the dashboard shows: one spec for the page, for W&B and for the figures.

The spec names metrics, knobs and first settings; how a scatter or a table is drawn is the renderer's own. What is a
quality, what a cost and which way is better comes from `quantities`, through the payload.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lightsleeper.dashboard.columns import dense
from lightsleeper.dashboard.series import SEED_KNOBS

COSTS = ("latency.p50_ms", "artifact.gzip_bytes", "artifact.bytes", "size.macs", "size.nonzero", "context.past_ms")
"""First choices of a cost axis."""
PAIRS = (("past", "future"), ("past", "sparsity"), ("context", "sparsity"), ("sparsity", "bits"))
"""First choices of a heat map: words in the names of two knobs, x before y."""
COLUMNS = ("status", "id", "recipe", "started", "seed")
CURVES_SHOWN = 4
METRICS_SHOWN = 8


@dataclass(frozen=True)
class View:
    """One view. ``defaults`` are the first settings, ``options`` what some may be changed to."""

    id: str
    title: str
    kind: Literal["scatter", "sweep", "curves", "table", "training"]
    defaults: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def views(payload: Mapping[str, Any]) -> list[View]:
    """The views of a payload; each is there even when nothing can be drawn in it yet, with empty options."""
    return [_tradeoff(payload), _sweep(payload), _detection(payload), _table(payload), _training(payload)]


def qualities(payload: Mapping[str, Any]) -> list[str]:
    """Test metrics first, headline before others, as the payload orders them."""
    names = [name for name, metric in payload["metrics"].items() if metric["kind"] == "quality"]
    return sorted(names, key=lambda name: not name.startswith("test/"))


def costs(payload: Mapping[str, Any]) -> list[str]:
    """Everything a quality is paid with: latency, bytes, MACs, context, then compression and time."""
    others = [name for name, metric in payload["metrics"].items() if metric["kind"] != "quality"]
    return [name for name in COSTS if name in others] + [name for name in others if name not in COSTS]


def machine(payload: Mapping[str, Any]) -> str | None:
    """The fingerprint most runs were timed on; the newest of equally frequent ones."""
    names = [name for name in reversed(payload["runs"]["fingerprint"]) if name]
    return Counter(names).most_common(1)[0][0] if names else None


def _tradeoff(payload: Mapping[str, Any]) -> View:
    quality, cost = qualities(payload), costs(payload)
    colour: str | None = "recipe"
    if len(set(payload["runs"]["recipe"])) == 1 and payload["sweeps"]:
        axes = sweep_axes(payload, payload["sweeps"][0])
        colour = "sweep" if len(payload["sweeps"]) > 1 else axes["series"] or axes["x"] or "recipe"
    return View(
        "tradeoff",
        "Quality against cost",
        "scatter",
        {
            "x": _first(cost),
            "y": _first(quality),
            "colour": colour,
            "machine": machine(payload),  # latencies of other machines are hidden until asked for
        },
        {"x": [*cost, *quality]},
    )


def _sweep(payload: Mapping[str, Any]) -> View:
    """A curve of quality over one knob, a line per value of another, seeds as spread; and a heat map over two."""
    sweeps = {sweep["id"]: sweep_axes(payload, sweep) for sweep in payload["sweeps"]}
    shown = next((name for name, axes in sweeps.items() if axes["heat"]), _first(list(sweeps)))
    return View("sweep", "Sweeps", "sweep", {"sweep": shown, **(sweeps[shown] if shown else {})}, {"sweeps": sweeps})


def sweep_axes(payload: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, Any]:
    """x, series, heat and y for one sweep: the knobs with the most values, a numeric one on x.

    ``y``: the test metric that the swept one speaks of, the swept `val/` metric itself before there are any tests.
    """
    varied = []
    for name in sweep["parameters"]:
        knob = payload["knobs"].get(name)
        codes = {knob["code"][row] for row in sweep["runs"]} - {-1} if knob else set()
        if len(codes) > 1:
            numeric = all(type(knob["values"][code]) in (int, float) for code in codes)
            varied.append((not numeric, -len(codes), name))
    names = [name for *_, name in sorted(varied) if name not in SEED_KNOBS]
    swept = sweep["metric"] or ""
    tested = [name for name in qualities(payload) if _has(payload, name, sweep["runs"])]
    same = swept.replace("val/", "test/", 1)
    pair = _pair(names)
    return {
        "x": pair[0] if pair else _first(names),
        "series": pair[1] if pair else None,
        "heat": list(pair) if pair else None,
        "y": same if same in tested else swept if swept in tested else _first(tested),
        "knobs": names,
    }


def _pair(names: Sequence[str]) -> tuple[str, str] | None:
    for first, second in PAIRS:
        found = [next((name for name in names if word in name.rpartition(".")[2]), None) for word in (first, second)]
        if found[0] and found[1] and found[0] != found[1]:
            return found[0], found[1]
    return (names[0], names[1]) if len(names) > 1 else None


def _has(payload: Mapping[str, Any], name: str, rows: Sequence[int]) -> bool:
    metric = payload["metrics"][name]
    known = metric.get("rows")
    if known is not None:
        return bool(set(known) & set(rows))
    return any(metric["value"][row] is not None for row in rows)


def _detection(payload: Mapping[str, Any]) -> View:
    """Operating points: DET on normal-deviate axes and ROC from the same points; FRR against FA/h of streams."""
    kinds: dict[str, list[str]] = {"det": [], "roc": [], "frr_fah": []}
    for curves in payload["curves"].values():
        for name, curve in curves.items():
            for kind in ("det", "roc") if curve["kind"] in ("det", "roc") else (curve["kind"],):
                if name not in kinds[kind]:
                    kinds[kind].append(name)
    first = next((kind for kind, names in kinds.items() if names), "det")
    # The hard negatives tell runs apart; the easy ones are at the edge of the plot.
    curve = next((name for name in kinds[first] if "hard" in name), _first(kinds[first]))
    rows = [row for row, curves in payload["curves"].items() if curve in curves]
    return View(
        "detection",
        "Operating points",
        "curves",
        {
            "scale": first,
            "curve": curve,
            "runs": best(payload, [row for row in rows if curve in payload["curves"][row]]),
        },
        {"scale": [kind for kind, names in kinds.items() if names], "curve": kinds},
    )


def _table(payload: Mapping[str, Any]) -> View:
    names = [name for name, metric in payload["metrics"].items() if metric["kind"] == "quality"][:4]
    names += [name for name in costs(payload) if name in COSTS][: METRICS_SHOWN - len(names)]
    knobs = [name for name in payload["knobs"] if any(name in sweep["parameters"] for sweep in payload["sweeps"])]
    return View(
        "runs",
        "Runs",
        "table",
        {"columns": [*COLUMNS, *names, *knobs[:3]], "sort": "started"},
    )


def _training(payload: Mapping[str, Any]) -> View:
    names = Counter(name for series in payload["training"].values() for name in series)
    order = [name.replace("test/", "val/", 1) for name in qualities(payload)]
    first = next((name for name in order if name in names), next(iter(names), None))
    rows = best(payload, [row for row, series in payload["training"].items() if first in series])
    options = {"metric": [name for name, _ in names.most_common()]}
    return View("training", "Training", "training", {"metric": first, "runs": rows}, options)


def best(payload: Mapping[str, Any], rows: Sequence[int | str], count: int = CURVES_SHOWN) -> list[int]:
    """The best of ``rows`` by what most of them are judged by, one of each group; newest first where nothing judges."""
    judges = Counter(payload["runs"]["judged_by"][int(row)] for row in rows)
    name = next((name for name, _ in judges.most_common() if name in payload["metrics"]), None)
    better = payload["metrics"][name]["better"] if name else None
    values = dense(payload, name) if name and better else np.full(len(payload["runs"]["id"]), np.nan)
    values = -values if better == "higher" else values
    chosen: dict[Any, int] = {}
    for row in sorted(map(int, rows), key=lambda row: (np.isnan(values[row]), values[row], -row)):
        chosen.setdefault(payload["runs"]["group"][row] or row, row)
    return list(chosen.values())[:count]


def _first(names: Sequence[str]) -> str | None:
    return names[0] if names else None
