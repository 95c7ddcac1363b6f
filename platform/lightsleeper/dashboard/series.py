"""What each view draws, as tables: the points of a scatter, the means of a sweep, operating points, training curves.

A table is a dictionary of columns of equal length; figures are drawn from it and it is written beside them as CSV.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightsleeper.dashboard.columns import dense
from lightsleeper.dashboard.pareto import candidates, front_rows

Table = dict[str, list[Any]]
Payload = Mapping[str, Any]

SEED_KNOBS = ("seed_everything", "data.seed", "data.corpus_seed")


def tradeoff(payload: Payload, x: str, y: str, machine: str | None, colour: str | None = None) -> Table:
    """One row a finished run that has both metrics, with intervals, a knob ``colour``, and whether on the front."""
    rows = candidates(payload, x, y, machine)
    on_front = set(front_rows(payload, x, y, machine).tolist())
    runs = payload["runs"]
    table: Table = {key: [runs[key][row] for row in rows] for key in ("id", "recipe", "sweep", "seed", "group")}
    for name in (x, y):
        for key, title in (("value", name), ("low", f"{name}.low"), ("high", f"{name}.high")):
            table[title] = _nulls(dense(payload, name, key)[rows])
    if any(payload["metrics"][name]["machine"] for name in (x, y)):
        table["fingerprint"] = [runs["fingerprint"][row] for row in rows]
        table["timed"] = [runs["timed"][row] for row in rows]
    if colour in payload["knobs"]:
        table[str(colour)] = [scalar(knob(payload, str(colour), int(row))) for row in rows]
    table["front"] = [int(row) in on_front for row in rows]
    return table


def sweep(payload: Payload, runs: Sequence[int], x: str, series: str | None, y: str) -> Table:
    """Mean, smallest and largest over seeds of ``y``, a row a value of the two knobs; finished runs only."""
    values = dense(payload, y)
    cells: dict[tuple[Any, Any], list[float]] = {}
    for row in runs:
        if payload["runs"]["status"][row] == "finished" and not math.isnan(values[row]):
            place = (scalar(knob(payload, x, row)), None if series is None else scalar(knob(payload, series, row)))
            cells.setdefault(place, []).append(float(values[row]))
    order = sorted(cells, key=lambda place: [sortable(value) for value in reversed(place)])
    table: Table = {} if series is None else {series: [place[1] for place in order]}
    table[x] = [place[0] for place in order]
    table["runs"] = [len(cells[place]) for place in order]
    for title, of in (("mean", np.mean), ("low", np.min), ("high", np.max)):
        table[f"{y}.{title}"] = [float(of(cells[place])) for place in order]
    return table


def other_knobs(payload: Payload, runs: Sequence[int], shown: Sequence[str | None]) -> list[str]:
    """Knobs that vary among ``runs`` beside those shown: a mean runs over them too, which a reader must be told."""
    names = (name for name in payload["knobs"] if name not in shown and name not in SEED_KNOBS)
    return [name for name in names if len({payload["knobs"][name]["code"][row] for row in runs}) > 1]


def operating_points(payload: Payload, rows: Sequence[int], name: str) -> Table:
    """The points of one curve of several runs: false accepts (or false alarms an hour) against false rejects."""
    table: Table = {key: [] for key in ("run", "kind", "x", "y", "marked")}
    for row in rows:
        curve = payload["curves"].get(str(row), {}).get(name)
        if curve is None:
            continue
        # ROC points as DET points: the true positives are what is not rejected.
        roc = curve["kind"] == "roc"
        points = [(x, y, None) for x, y in zip(curve["x"], curve["y"], strict=True)]
        points += [(point["x"], point["y"], point["name"]) for point in curve.get("points", [])]
        for x, y, marked in points:
            if x is not None and y is not None:
                cells = (row, "det" if roc else curve["kind"], x, 1 - y if roc else y, marked)
                for column, value in zip(table.values(), cells, strict=True):
                    column.append(value)
    return table


def training(payload: Payload, rows: Sequence[int], name: str) -> Table:
    """One metric over optimizer steps, a row a point."""
    table: Table = {"run": [], "step": [], name: []}
    for row in rows:
        curve = payload["training"].get(str(row), {}).get(name, {"step": [], "value": []})
        table["run"] += [row] * len(curve["step"])
        table["step"] += curve["step"]
        table[name] += curve["value"]
    return table


def runs(payload: Payload) -> Table:
    """Everything: a row a run, a column a metric and a knob."""
    count = len(payload["runs"]["id"])
    table: Table = {name: list(column) for name, column in payload["runs"].items()}
    table["lineage"] = [" ".join(ids) for ids in table["lineage"]]
    for name, metric in payload["metrics"].items():
        table[name] = _nulls(dense(payload, name))
        for key in ("low", "high"):
            if metric[key] is not None:
                table[f"{name}.{key}"] = _nulls(dense(payload, name, key))
    for name in payload["knobs"]:
        table[f"knob {name}"] = [knob(payload, name, row) for row in range(count)]
    return table


def siblings(payload: Payload, row: int) -> list[int]:
    """All finished runs of the group of ``row``: its seeds."""
    group = payload["runs"]["group"][row]
    if group is None:
        return [row]
    pairs = zip(payload["runs"]["group"], payload["runs"]["status"], strict=True)
    return [index for index, (name, status) in enumerate(pairs) if name == group and status == "finished"] or [row]


def knob(payload: Payload, name: str, row: int) -> Any:
    """Value of a setting in one run; None where the run has none."""
    if name in payload["knobs"]:
        code = payload["knobs"][name]["code"][row]
        return None if code < 0 else payload["knobs"][name]["values"][code]
    return payload["constant"].get(payload["runs"]["recipe"][row], {}).get(name)


def scalar(value: Any) -> int | float | str | None:
    """A setting as a place on an axis: lists, mappings and truth values as their JSON text."""
    if value is None or (isinstance(value, (int, float, str)) and not isinstance(value, bool)):
        return value
    return json.dumps(value)


def sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _nulls(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
