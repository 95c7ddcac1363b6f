"""The payload: everything the dashboard shows, as one JSON-able dictionary of columns.

Made from the Arrow index with vectorised joins, so that 5,000 runs take a second or two; sections have byte budgets,
and what a budget leaves out is counted in the payload, never dropped in silence. Numbers have six significant digits,
points of curves four; null stands for none. Nothing in here is trusted: texts are data, whatever they look like.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightsleeper.dashboard.columns import column
from lightsleeper.dashboard.curves import thin
from lightsleeper.dashboard.pareto import front_rows
from lightsleeper.dashboard.quantities import Better, quantity
from lightsleeper.dashboard.views import COSTS, views
from lightsleeper.tracking.record import Process, Record, status_of, timestamp

VERSION = 1
METRIC_BYTES = 3_000_000
CURVE_BYTES = 1_700_000
TRAINING_BYTES = 1_700_000
CURVE_DIGITS = 4
POINTS = (100, 50, 25)  # a curve, the most that fits all runs
SERIES = 8  # training curves a run
SKIPPED = 50  # unreadable files named; the rest is counted
RUN_COLUMNS = ("id", "recipe", "family", "status", "started", "seed", "group", "parent", "fingerprint", "timed")


def build(table: pa.Table, source: str, now: datetime | None = None, keep: Callable | None = None) -> dict[str, Any]:
    """The payload of an index (`index.load`); ``keep`` maps the table of readable runs to a mask of those to show."""
    readable = pc.is_null(table["reason"])
    skipped = table.filter(pc.invert(readable)).select(["path", "reason"]).to_pylist()
    runs = table.filter(readable)
    if keep is not None:
        runs = runs.filter(keep(runs))
    runs = runs.sort_by([("started", "ascending"), ("id", "ascending")]).combine_chunks()
    metrics, left_out = _metrics(runs, _goals(runs))
    knobs, constant = _knobs(runs)
    payload: dict[str, Any] = {
        "version": VERSION,
        "generated": timestamp(),
        "source": source,
        "skipped": skipped[:SKIPPED],
        "more_skipped": max(0, len(skipped) - SKIPPED),
        "runs": _runs(runs, now),
        "machines": _machines(runs),
        "metrics": metrics,
        "metrics_left_out": left_out,
        "knobs": knobs,
        "constant": constant,
        "sweeps": _sweeps(runs),
    }
    first = _leaders(payload)
    payload["curves"], payload["curves_left_out"] = _curves(runs, first)
    payload["training"], payload["training_left_out"] = _training(runs, first)
    payload["views"] = [asdict(view) for view in views(payload)]
    return payload


def to_json(payload: dict[str, Any]) -> str:
    """Compact, ASCII, and without NaN."""
    return json.dumps(payload, separators=(",", ":"), allow_nan=False)


# --- runs ---


def _runs(runs: pa.Table, now: datetime | None) -> dict[str, list[Any]]:
    columns = {name: runs[name].to_pylist() for name in RUN_COLUMNS}
    for row in np.flatnonzero(pc.equal(runs["status"], "running").fill_null(False).to_numpy(zero_copy_only=False)):
        columns["status"][row] = _alive(runs.slice(row, 1).to_pylist()[0], now)
    for row in np.flatnonzero(runs["sweep_pruned"].fill_null(False).to_numpy(zero_copy_only=False)):
        if columns["status"][row] == "finished":
            columns["status"][row] = "pruned"  # stopped early on purpose: neither failed nor to be compared
    columns["sweep"] = runs["sweep_id"].to_pylist()
    columns["trial"] = runs["sweep_trial"].to_pylist()
    columns["error"] = runs["error"].to_pylist()
    columns["folder"] = pc.replace_substring_regex(runs["path"], "/?[^/]*$", "").to_pylist()
    columns["lineage"] = runs["lineage"].to_pylist()
    columns["url"] = runs["url"].to_pylist()
    columns["judged_by"] = runs["primary"].to_pylist()
    return columns


def _machines(runs: pa.Table) -> dict[str, str]:
    """Fingerprint -> processor and cores; two machines that look alike keep a piece of their fingerprint."""
    found: dict[str, str] = {}
    for pair in runs.select(["fingerprint", "machine"]).group_by(["fingerprint", "machine"]).aggregate([]).to_pylist():
        if pair["fingerprint"]:
            found.setdefault(pair["fingerprint"], pair["machine"] or "unknown machine")
    alike = Counter(found.values())
    return {name: f"{label} ({name[:6]})" if alike[label] > 1 else label for name, label in found.items()}


def _alive(row: dict[str, Any], now: datetime | None) -> str:
    """`died` when the process that wrote `running` is gone."""
    if row["pid"] is None or row["host"] is None or row["heartbeat"] is None:
        return "running"
    process = Process(pid=row["pid"], host=row["host"], birth=row["birth"], heartbeat=row["heartbeat"])
    try:
        record = Record("", "", "", None, "", "", {}, {}, process=process)
        return status_of(record, now or datetime.now(UTC))
    except (ValueError, TypeError, OverflowError):  # a heartbeat that is no time, a pid that is none
        return "running"


def _goals(runs: pa.Table) -> dict[str, Better]:
    """Which way a metric is better, as the sweeps and recipes of these runs say."""
    words: dict[str, Better] = {"maximize": "higher", "max": "higher", "minimize": "lower", "min": "lower"}
    goals: dict[str, Better] = {}
    for name, goal in (("monitor", "monitor_mode"), ("sweep_metric", "sweep_goal")):
        for pair in runs.select([name, goal]).group_by([name, goal]).aggregate([]).to_pylist():
            if pair[name] and pair[goal] in words:
                goals[pair[name]] = words[pair[goal]]
    return goals


# --- metrics ---


def _metrics(runs: pa.Table, goals: dict[str, Better]) -> tuple[dict[str, Any], list[str]]:
    """Columns by name, the most useful first, and the names that the byte budget left out."""
    if not len(runs):
        return {}, []
    row, items = _flat(runs["values"])
    names = items.field("name").dictionary_encode()
    code = names.indices.to_numpy()
    numbers = {key: items.field(key).to_numpy(zero_copy_only=False) for key in ("value", "low", "high", "n")}
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(len(names.dictionary) + 1))
    found = {name: order[bounds[index] : bounds[index + 1]] for index, name in enumerate(names.dictionary.to_pylist())}
    methods = items.field("method").dictionary_encode()
    method = pc.fill_null(methods.indices, -1).to_numpy()
    first = Counter(runs["primary"].to_pylist())
    headline = set(pc.list_flatten(runs["headline"]).to_pylist())
    swept = set(runs["sweep_metric"].unique().to_pylist()) - {None}
    columns: dict[str, Any] = {}
    left_out, used = [], 0
    for name in sorted(found, key=lambda name: _rank(name, len(found[name]), first, headline | swept)):
        chosen = found[name]
        numbers_of = column(row[chosen], {key: values[chosen] for key, values in numbers.items()}, len(runs))
        known = method[chosen][method[chosen] >= 0]
        words = methods.dictionary[np.bincount(known).argmax()].as_py() if len(known) and numbers_of["low"] else None
        entry = {**asdict(quantity(name, goals)), "interval": words, **numbers_of}
        size = len(to_json(entry))
        if used + size > METRIC_BYTES:
            left_out.append(name)
            continue
        used += size
        columns[name] = entry
    return columns, left_out


def _rank(name: str, count: int, first: Counter[str], headline: set[str]) -> tuple[Any, ...]:
    """What runs are judged by, their other headlines and what sweeps compare, costs, then what most runs have."""
    group = 0 if name in headline else 2 if name.startswith(("test/", "val/")) else 1
    return group, -first[name], name.startswith("val/"), -count, len(name), name


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.StructArray]:
    """Row of each item, and the items, of a column of lists."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)


# --- knobs ---


def _knobs(runs: pa.Table) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Knobs that differ between runs of one recipe, dictionary coded; and by recipe the values that do not."""
    if not len(runs):
        return {}, {}
    row, items = _flat(runs["knobs"])
    names, texts = items.field("name").dictionary_encode(), items.field("value").dictionary_encode()
    name, value = names.indices.to_numpy(), texts.indices.to_numpy()
    recipes = runs["recipe"].combine_chunks().dictionary_encode()
    recipe = recipes.indices.to_numpy()
    of_recipe = np.bincount(recipe, minlength=len(recipes.dictionary))
    swept = set(pc.list_flatten(runs["sweep_parameters"]).to_pylist())
    knobs: dict[str, Any] = {}
    constant: dict[str, dict[str, Any]] = {text: {} for text in recipes.dictionary.to_pylist()}
    spelled = texts.dictionary.to_pylist()
    order = np.argsort(name, kind="stable")
    bounds = np.searchsorted(name[order], np.arange(len(names.dictionary) + 1))
    for index, knob in enumerate(names.dictionary.to_pylist()):
        chosen = order[bounds[index] : bounds[index + 1]]
        rows, values = row[chosen], value[chosen]
        alone = np.unique(recipe[rows] * len(spelled) + values)  # distinct (recipe, value)
        differs = (np.bincount(alone // len(spelled), minlength=len(of_recipe)) > 1).any()
        missing = np.bincount(recipe[rows], minlength=len(of_recipe))
        differs = differs or ((missing > 0) & (missing < of_recipe)).any()
        if knob != "seed_everything" and (differs or knob in swept):
            distinct, code = np.unique(values, return_inverse=True)
            codes = np.full(len(runs), -1)
            codes[rows] = code
            knobs[knob] = {"values": [json.loads(spelled[v]) for v in distinct], "code": codes.tolist()}
        elif not differs:
            for place, text in dict(zip(recipe[rows].tolist(), values.tolist(), strict=True)).items():
                constant[recipes.dictionary[place].as_py()][knob] = json.loads(spelled[text])
    return dict(sorted(knobs.items(), key=lambda item: (item[0] not in swept, item[0]))), constant


# --- sweeps, curves ---


def _sweeps(runs: pa.Table) -> list[dict[str, Any]]:
    """Newest first."""
    names = runs["sweep_id"].to_pylist()
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name:
            rows.setdefault(name, []).append(row)
    sweeps = []
    for name, members in reversed(rows.items()):
        first = (
            runs.slice(members[0], 1).select([c for c in runs.column_names if c.startswith("sweep_")]).to_pylist()[0]
        )
        parameters = dict.fromkeys(pc.list_flatten(runs["sweep_parameters"].take(pa.array(members))).to_pylist())
        sweeps.append(
            {
                "id": name,
                "name": first["sweep_name"] or name,
                **{key: first[f"sweep_{key}"] for key in ("method", "metric", "goal")},
                "parameters": list(parameters),
                "runs": members,
            }
        )
    return sweeps


def _leaders(payload: dict[str, Any]) -> list[int]:
    """Rows on the front of what runs are judged by against any cost: the ones whose curves will be asked for."""
    judged = [name for name in dict.fromkeys(payload["runs"]["judged_by"]) if name in payload["metrics"]]
    costs = [name for name in COSTS if name in payload["metrics"]]
    rows = {row for name in judged for cost in costs for row in front_rows(payload, cost, name).tolist()}
    return sorted(rows, reverse=True)


def _curves(runs: pa.Table, first: list[int]) -> tuple[dict[str, Any], int]:
    def entry(curve: dict[str, Any], points: int) -> dict[str, Any]:
        keep = thin(len(curve["x"]), points)
        kept = {"kind": curve["kind"], **{key: _rounded(curve[key], keep) for key in ("x", "y")}}
        if curve["threshold"] and points == POINTS[0]:
            kept["threshold"] = _rounded(curve["threshold"], keep)
        if curve["points"]:
            kept["points"] = [
                {"name": point["name"], **{key: float(f"{point[key]:.6g}") for key in ("x", "y")}}
                for point in curve["points"]
            ]
        return kept

    def entries(items: list[dict[str, Any]], points: int) -> dict[str, Any]:
        return {item["name"]: entry(item, points) for item in items}

    return _within(runs, "curves", CURVE_BYTES, entries, first)


def _training(runs: pa.Table, first: list[int]) -> tuple[dict[str, Any], int]:
    swept = [name for name in runs["sweep_metric"].unique().to_pylist() if name]
    headline = [name.replace("test/", "val/", 1) for name in pc.list_flatten(runs["headline"]).unique().to_pylist()]
    wanted = {name: place for place, name in enumerate([*swept, *headline, "val/loss", "train/loss"])}

    def entry(items: list[dict[str, Any]], points: int) -> dict[str, Any]:
        chosen = sorted(items, key=lambda item: (wanted.get(item["name"], len(wanted)), len(item["name"])))[:SERIES]
        entries = {}
        for item in chosen:
            keep = thin(len(item["step"]), points)
            steps = [item["step"][index] for index in keep]
            entries[item["name"]] = {"step": steps, "value": _rounded(item["value"], keep)}
        return entries

    return _within(runs, "training", TRAINING_BYTES, entry, first)


def _within(
    runs: pa.Table, name: str, budget: int, entry: Callable[[list[dict[str, Any]], int], Any], first: list[int]
) -> tuple[dict[str, Any], int]:
    """Entries by row with as many points as let every run in; else with the fewest: ``first``, then newest runs."""
    if not len(runs):
        return {}, 0
    column = runs[name].combine_chunks()
    count = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    order = dict.fromkeys([*first, *reversed(range(len(runs)))])
    rows = [row for row in order if count[row]]
    if not rows:
        return {}, 0
    points = _points(column, rows, budget, entry)
    kept: dict[str, Any] = {}
    used = 0
    for row in rows:
        content = entry(column[row].as_py(), points)
        used += len(to_json(content))
        if used > budget:
            break
        kept[str(row)] = content
    return dict(sorted(kept.items(), key=lambda item: int(item[0]))), len(rows) - len(kept)


def _points(column: pa.Array, rows: list[int], budget: int, entry: Callable[[list[dict[str, Any]], int], Any]) -> int:
    """Estimated from runs spread over all of them."""
    sample = [column[rows[index]].as_py() for index in thin(len(rows), 40)]
    for points in POINTS:
        size = sum(len(to_json(entry(items, points))) for items in sample) / len(sample)
        if size * len(rows) * 1.1 <= budget:
            return points
    return POINTS[-1]


def _rounded(values: Sequence[float | None], keep: Iterable[int]) -> list[float | int | None]:
    """As `numbers_list`, faster for the few points of a curve."""
    shown = (values[index] for index in keep)
    short = (
        None if value is None or not math.isfinite(value) else float(f"{value:.{CURVE_DIGITS}g}") for value in shown
    )
    return [int(value) if value is not None and value.is_integer() else value for value in short]
