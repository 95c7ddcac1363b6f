"""One run record as one row of the index, whatever its file holds.

A record may come from another version, another program or an attacker: every field is taken only when its type fits,
texts are cut, numbers are finite or null. A file that is no record at all raises `Unreadable` with the reason.
"""

import json
import math
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lightsleeper.tracking.record import SCHEMA

FILE_BYTES = 64_000_000  # a record with all its curves has 0.1 MB
TEXT = 300  # characters kept of an error or a knob
NAME = 120  # characters kept of an id or of a metric's name
ENTRIES = 2000  # metrics, knobs or curves kept of one record
CURVE_POINTS = 100
AXES = {"det": ("far", "frr"), "roc": ("fpr", "tpr"), "frr_fah": ("fa_per_hour", "frr")}  # x and y
SECTIONS = (
    "knobs",
    "metrics",
    "curves",
    "compression",
    "context",
    "size",
    "seconds",
    "lineage",
    "tracking",
    "sweep",
    "threshold",
)

_VALUE = pa.struct(  # as `Measured`
    [("name", pa.string())]
    + [(name, pa.float64()) for name in ("value", "low", "high", "n")]
    + [("method", pa.string())]
)
_KNOB = pa.struct([("name", pa.string()), ("value", pa.string())])  # value as JSON
_FLOATS = pa.list_(pa.float32())
_POINT = pa.struct([("name", pa.string()), ("x", pa.float64()), ("y", pa.float64())])
_CURVE = pa.struct(
    [("name", pa.string()), ("kind", pa.string())]
    + [(name, _FLOATS) for name in ("x", "y", "threshold")]
    + [("points", pa.list_(_POINT))]
)
_SERIES = pa.struct([("name", pa.string()), ("step", pa.list_(pa.int64())), ("value", _FLOATS)])

TABLE = pa.schema(
    [
        ("key", pa.string()),  # of the file as it was when it was read
        ("path", pa.string()),  # below the runs folder
        ("reason", pa.string()),  # why it could not be read; null for a run
        *((name, pa.string()) for name in ("id", "recipe", "family", "status", "started", "group", "parent", "error")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("tracking_id", "url", "fingerprint", "machine", "timed")),
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("birth", pa.string()),
        ("heartbeat", pa.string()),
        *((f"sweep_{name}", pa.string()) for name in ("id", "name", "method", "metric", "goal")),
        ("sweep_trial", pa.int64()),
        ("sweep_pruned", pa.bool_()),
        ("sweep_parameters", pa.list_(pa.string())),
        ("monitor", pa.string()),
        ("monitor_mode", pa.string()),
        ("primary", pa.string()),  # the first of `headline`
        ("headline", pa.list_(pa.string())),
        ("lineage", pa.list_(pa.string())),
        ("values", pa.list_(_VALUE)),
        ("knobs", pa.list_(_KNOB)),
        ("curves", pa.list_(_CURVE)),
        ("training", pa.list_(_SERIES)),
    ],
    metadata={"lightsleeper.index": "1"},
)


class Unreadable(Exception):
    """Why a file is no run record."""


def read(path: Path) -> dict[str, Any]:
    """The row of one record file; raises Unreadable."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise Unreadable("no file")
        if found.st_size > FILE_BYTES:
            raise Unreadable(f"larger than {FILE_BYTES // 1_000_000} MB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from None
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except UnicodeDecodeError:
        raise Unreadable("not UTF-8") from None
    except ValueError as error:
        raise Unreadable(f"no complete JSON: {text(str(error))}") from None
    return row(content)


def row(content: Any) -> dict[str, Any]:
    """The row of one record; raises Unreadable."""
    if not isinstance(content, dict):
        raise Unreadable("no run record: not a JSON object")
    schema = content.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = ", written by a newer version" if newer else ""
        raise Unreadable(f"schema {text(json.dumps(schema, default=str), 20)}{hint}; this version reads {SCHEMA}")
    for name in ("run_id", "recipe"):
        if not isinstance(content.get(name), str) or not content[name]:
            raise Unreadable(f"no run record: no '{name}'")
    for name in SECTIONS:
        if not isinstance(content.get(name) or {}, dict):
            raise Unreadable(f"no run record: '{name}' is no object")
    sweep = _section(content, "sweep")
    latency = _latency(content)
    process = _mapping(content.get("process"))
    run = _mapping(_mapping(content.get("config")).get("run"))
    headline = _headline(content, run)
    return {
        "id": text(content["run_id"], NAME),
        "recipe": text(content["recipe"], NAME),
        "family": text(content.get("family"), NAME),
        "status": text(content.get("status"), NAME),
        "started": text(content.get("started"), NAME),
        "group": text(content.get("group"), NAME),
        "parent": text(content.get("parent"), NAME),
        "error": text(content.get("error")),
        "seed": whole(content.get("seed")),
        "tracking_id": text(_section(content, "tracking").get("id"), NAME),
        "url": _url(_section(content, "tracking").get("url")),
        "fingerprint": text(latency.get("fingerprint"), NAME),
        "machine": _machine(_mapping(content.get("environment"))),
        "timed": _timed(latency, _mapping(next(iter(_list(content.get("artifacts"))), None))),
        "host": text(process.get("host"), NAME),
        "pid": whole(process.get("pid")),
        "birth": text(process.get("birth"), NAME),
        "heartbeat": text(process.get("heartbeat"), NAME),
        **{f"sweep_{name}": text(sweep.get(name), NAME) for name in ("id", "name", "method", "metric", "goal")},
        "sweep_trial": whole(sweep.get("trial")),
        "sweep_pruned": sweep.get("pruned") is True,
        "sweep_parameters": [text(name, NAME) for name in _mapping(sweep.get("parameters"))][:ENTRIES],
        "monitor": text(run.get("monitor"), NAME),
        "monitor_mode": text(run.get("mode"), NAME),
        "primary": next(iter(headline), None),
        "headline": headline,
        "lineage": [
            text(step["run_id"], NAME)
            for step in _section(content, "lineage").values()
            if isinstance(step, dict) and isinstance(step.get("run_id"), str)
        ][:ENTRIES],
        "values": _unique(values(content, latency)),
        "knobs": list(_knobs(content)),
        "curves": list(_curves(content))[:ENTRIES],
        "training": list(_training(content))[:ENTRIES],
    }


def _headline(content: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Test metrics shown first: the twin of what picks the checkpoint or what the sweep compares, then the family's."""
    metrics = _section(content, "metrics")
    chosen = (run.get("monitor"), _section(content, "sweep").get("metric"))
    twins = [name.replace("val/", "test/", 1) for name in chosen if isinstance(name, str)]
    names = [*twins, *(name for name in _list(content.get("headline")) if isinstance(name, str))]
    return [cut(name, NAME) for name in dict.fromkeys(names) if name in metrics][:ENTRIES]


# --- numbers ---


def values(content: Mapping[str, Any], latency: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, `Measured`) of everything in a record that can be an axis."""
    for name, measured in _section(content, "metrics").items():
        yield name, measured if isinstance(measured, dict) else {"value": measured}
    sweep = _section(content, "sweep")
    if isinstance(sweep.get("metric"), str):  # val/...: what the sweep compares; not among the test metrics
        yield sweep["metric"], {"value": sweep.get("value")}
    p50, p90 = latency.get("p50_ms"), latency.get("p90_ms")
    yield "latency.p50_ms", {"value": p50, "low": p50, "high": p90, "n": latency.get("repeats"), "method": "p50 to p90"}
    for key in ("p90_ms", "p99_ms", "rtf"):
        yield f"latency.{key}", {"value": latency.get(key)}
    for index, artifact in enumerate(map(_mapping, _list(content.get("artifacts")))):
        kind = "artifact" if index == 0 else f"artifact.{artifact.get('format')}"
        for key in ("bytes", "gzip_bytes"):
            yield f"{kind}.{key}", {"value": artifact.get(key)}
    for name in ("size", "context", "seconds"):
        for key, value in _section(content, name).items():
            yield f"{name}.{key}", {"value": value}
    if seconds := [value for value in map(number, _section(content, "seconds").values()) if value is not None]:
        yield "seconds.total", {"value": sum(seconds)}
    for facts in _section(content, "compression").values():  # in phase order: a later callback knows more
        for key, value in _mapping(facts).items():
            if key.startswith("compress/"):
                yield key.replace("compress/", "compress.", 1), {"value": value}


def _unique(found: Iterator[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """As rows of the index, without nulls; of one name the last."""
    kept = {}
    for name, measured in found:
        if number(measured.get("value")) is not None:
            numbers = {key: number(measured.get(key)) for key in ("value", "low", "high", "n")}
            kept[text(name, NAME)] = {"name": text(name, NAME), **numbers, "method": text(measured.get("method"), NAME)}
    return list(kept.values())[:ENTRIES]


def _latency(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headline latency: `artifacts[0].latency[0]`."""
    first = next(iter(_list(content.get("artifacts"))), None)
    return _mapping(next(iter(_list(_mapping(first).get("latency"))), None))


def _timed(latency: Mapping[str, Any], artifact: Mapping[str, Any]) -> str | None:
    """`clip of 1000 ms, 1 thread, onnx fp32`: latencies of other conditions are no comparison."""
    if not isinstance(latency.get("per"), str):
        return None
    chunk, threads = number(latency.get("chunk_ms")), whole(latency.get("threads"))
    parts = [
        latency["per"] + ("" if chunk is None else f" of {chunk:g} ms"),
        "" if threads is None else f"{threads} thread{'' if threads == 1 else 's'}",
        " ".join(artifact[key] for key in ("format", "precision") if isinstance(artifact.get(key), str)),
    ]
    return text(", ".join(filter(None, parts)), NAME)


def _machine(environment: Mapping[str, Any]) -> str | None:
    """`AMD EPYC, 2 cores`."""
    cores = whole(environment.get("cores"))
    parts = [text(environment.get("cpu"), 60), None if cores is None else f"{cores} cores"]
    return ", ".join(filter(None, parts)) or None


# --- lists ---


def _knobs(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    sweep = _mapping(_section(content, "sweep").get("parameters"))
    for name, value in list({**sweep, **_section(content, "knobs")}.items())[:ENTRIES]:
        try:
            shown = json.dumps(value, ensure_ascii=False)
        except (RecursionError, ValueError):
            shown = '"?"'
        if len(shown) > TEXT:  # a cut JSON text is none
            shown = json.dumps(text(value if isinstance(value, str) else shown), ensure_ascii=False)
        yield {"name": text(name, NAME), "value": text(shown, 2 * TEXT)}


def _curves(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    threshold = _section(content, "threshold")
    chosen = (text(threshold.get("target"), NAME) or "threshold", number(threshold.get("value")))
    for name, value in _section(content, "curves").items():
        if name != "training" and (found := curve(value, chosen)):
            yield {"name": text(name, NAME), **found}


def curve(value: Any, chosen: tuple[str, float | None] = ("", None)) -> dict[str, Any] | None:
    """``{kind, x, y, threshold, points}`` of a curve as families write it; None for anything else.

    det: x false accept rate, y false reject rate; roc: x false, y true positive rate; frr_fah: x false alarms an hour,
    y false reject rate. Without a `kind` the names of the lists tell; with one they may be called x and y. ``chosen``
    is the name and value of the shipped threshold, marked on the curve where it has thresholds.
    """
    content = _mapping(value)
    for kind, names in AXES.items():
        if content.get("kind", kind) != kind:
            continue
        for x_name, y_name in (names, ("x", "y")) if "kind" in content else (names,):
            x, y, threshold = (_numbers(content.get(key)) for key in (x_name, y_name, "threshold"))
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
        for point in map(_mapping, _list(content.get("points"))[:20])
        if number(point.get("x")) is not None and number(point.get("y")) is not None
    ]
    return {"points": marked} if marked else {}


def thin(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, the first and the last among them."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(int)


def _training(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, series in _mapping(_section(content, "curves").get("training")).items():
        step, value = (_numbers(_mapping(series).get(key)) for key in ("step", "value"))
        if step is not None and value is not None and len(step) == len(value) > 0:
            fine = np.isfinite(step) & (abs(step) < 2**53)
            keep = thin(int(fine.sum()), CURVE_POINTS)
            steps, kept = step[fine][keep].astype(np.int64), value[fine][keep].astype(np.float32)
            yield {"name": text(name, NAME), "step": steps, "value": kept}


# --- one value of the right type, or None ---


def text(value: Any, limit: int = TEXT) -> str | None:
    """Of at most ``limit`` characters, without half a surrogate pair (JSON allows that, UTF-8 does not)."""
    return cut(value, limit) if isinstance(value, str) else None


def cut(value: str, limit: int = TEXT) -> str:
    shown = value if len(value) <= limit else value[: limit - 1] + "…"
    return shown.encode("utf-8", "replace").decode("utf-8")


def number(value: Any) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Checked in `row`: null counts as empty."""
    return content.get(name) or {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(value: Any) -> np.ndarray | None:
    """A flat list of numbers, null as NaN."""
    if not isinstance(value, list):
        return None
    if not all(item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)) for item in value):
        return None
    try:
        return np.array([math.nan if item is None else item for item in value], dtype=np.float64)
    except OverflowError:
        return None


def _url(value: Any) -> str | None:
    """Only what a link may open: no `javascript:`."""
    shown = text(value)
    return shown if shown and shown.startswith(("https://", "http://")) else None
