"""One run record as one row of the index, whatever its file holds.

A record may come from another version, another program or an attacker: every field is taken only when its type fits,
texts are cut, numbers are finite or null. A file that is no record at all raises `Unreadable` with the reason.
"""

import json
import math
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
SECTIONS = ("knobs", "metrics", "curves", "compression", "context", "size", "seconds", "lineage", "tracking", "sweep")

_VALUE = pa.struct(
    [("name", pa.string())] + [(name, pa.float64()) for name in ("value", "low", "high", "n")]  # as `Measured`
)
_KNOB = pa.struct([("name", pa.string()), ("value", pa.string())])  # value as JSON
_FLOATS = pa.list_(pa.float32())
_CURVE = pa.struct(
    [("name", pa.string()), ("kind", pa.string()), ("x", _FLOATS), ("y", _FLOATS), ("threshold", _FLOATS)]
)
_SERIES = pa.struct([("name", pa.string()), ("step", pa.list_(pa.int64())), ("value", _FLOATS)])

TABLE = pa.schema(
    [
        ("key", pa.string()),  # of the file as it was when it was read
        ("path", pa.string()),  # below the runs folder
        ("reason", pa.string()),  # why it could not be read; null for a run
        *((name, pa.string()) for name in ("id", "recipe", "family", "status", "started", "group", "parent", "error")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("url", "fingerprint", "conditions")),
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
        if path.stat().st_size > FILE_BYTES:
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
    sweep = content.get("sweep") or {}
    latency = _latency(content)
    process = content.get("process") if isinstance(content.get("process"), dict) else {}
    run = _mapping(_mapping(content.get("config")).get("run"))
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
        "url": _url((content.get("tracking") or {}).get("url")),
        "fingerprint": text(latency.get("fingerprint"), NAME),
        "conditions": _conditions(latency),
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
        "headline": [text(name, NAME) for name in _list(content.get("headline")) if isinstance(name, str)][:ENTRIES],
        "lineage": [
            text(step["run_id"], NAME)
            for step in (content.get("lineage") or {}).values()
            if isinstance(step, dict) and isinstance(step.get("run_id"), str)
        ][:ENTRIES],
        "values": list(_unique(values(content, latency)))[:ENTRIES],
        "knobs": list(_knobs(content)),
        "curves": list(_curves(content))[:ENTRIES],
        "training": list(_training(content))[:ENTRIES],
    }


# --- numbers ---


def values(content: Mapping[str, Any], latency: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, Any, Any]]:
    """(name, value, low, high, n) of everything in a record that can be an axis."""
    for name, measured in (content.get("metrics") or {}).items():
        if isinstance(measured, dict):
            yield name, *(measured.get(key) for key in ("value", "low", "high", "n"))
        else:
            yield name, measured, None, None, None
    sweep = content.get("sweep") or {}
    if isinstance(sweep.get("metric"), str):  # val/...: what the sweep compares; not among the test metrics
        yield sweep["metric"], sweep.get("value"), None, None, None
    for key in ("p50_ms", "p90_ms", "p99_ms", "rtf"):
        spread = (latency.get("p50_ms"), latency.get("p90_ms")) if key == "p50_ms" else (None, None)
        yield f"latency.{key}", latency.get(key), *spread, None
    for index, artifact in enumerate(_list(content.get("artifacts"))):
        kind = "artifact" if index == 0 else f"artifact.{_mapping(artifact).get('format')}"
        for key in ("bytes", "gzip_bytes"):
            yield f"{kind}.{key}", _mapping(artifact).get(key), None, None, None
    for section in ("size", "context", "seconds"):
        for name, value in (content.get(section) or {}).items():
            yield f"{section}.{name}", value, None, None, None
    seconds = [value for value in (content.get("seconds") or {}).values() if number(value) is not None]
    if seconds:
        yield "seconds.total", sum(seconds), None, None, None
    for facts in (content.get("compression") or {}).values():  # in phase order: a later callback knows more
        for name, value in _mapping(facts).items():
            if name.startswith("compress/"):
                yield name.replace("compress/", "compress.", 1), value, None, None, None


def _unique(found: Iterator[tuple[str, Any, Any, Any, Any]]) -> Iterator[dict[str, Any]]:
    """As rows of the index, without nulls; of one name the last."""
    kept = {}
    for name, value, low, high, n in found:
        if number(value) is not None:
            key = text(name, NAME)
            kept[key] = {"name": key, "value": number(value), "low": number(low), "high": number(high), "n": number(n)}
    yield from kept.values()


def _latency(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headline latency: `artifacts[0].latency[0]`."""
    first = next(iter(_list(content.get("artifacts"))), None)
    return _mapping(next(iter(_list(_mapping(first).get("latency"))), None))


def _conditions(latency: Mapping[str, Any]) -> str | None:
    """`1000 ms clip, 1 thread`: latencies of other conditions are no comparison."""
    if not isinstance(latency.get("per"), str):
        return None
    chunk, threads = number(latency.get("chunk_ms")), whole(latency.get("threads"))
    size = "" if chunk is None else f"{chunk:g} ms "
    count = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    return f"{size}{text(latency['per'], NAME)}{count}"


# --- lists ---


def _knobs(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    sweep = _mapping((content.get("sweep") or {}).get("parameters"))
    for name, value in list({**sweep, **(content.get("knobs") or {})}.items())[:ENTRIES]:
        try:
            shown = json.dumps(value, ensure_ascii=False)
        except (RecursionError, ValueError):
            shown = '"?"'
        if len(shown) > TEXT:  # a cut JSON text is none
            shown = json.dumps(text(value if isinstance(value, str) else shown), ensure_ascii=False)
        yield {"name": text(name, NAME), "value": text(shown, 2 * TEXT)}


def _curves(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in (content.get("curves") or {}).items():
        if name != "training" and (found := curve(value)):
            yield {"name": text(name, NAME), **found}


def curve(value: Any) -> dict[str, Any] | None:
    """``{kind, x, y, threshold}`` of a curve as families write it; None for anything else.

    det: x false accept rate, y false reject rate; roc: x false, y true positive rate; frr_fah: x false alarms an hour,
    y false reject rate. Without a `kind` the names of the lists tell.
    """
    axes = {"det": ("far", "frr"), "roc": ("fpr", "tpr"), "frr_fah": ("fa_per_hour", "frr")}
    content = _mapping(value)
    for kind, names in axes.items():
        if content.get("kind", kind) == kind:
            for x_name, y_name in (names, ("x", "y")):
                x, y, threshold = (_numbers(content.get(key)) for key in (x_name, y_name, "threshold"))
                if x is not None and y is not None and len(x) == len(y) > 0 and (x_name != "x" or "kind" in content):
                    whole_threshold = threshold if threshold is not None and len(threshold) == len(x) else None
                    return {"kind": kind, **_thinned(x, y, whole_threshold)}
    return None


def _thinned(x: np.ndarray, y: np.ndarray, threshold: np.ndarray | None) -> dict[str, Any]:
    fine = np.isfinite(x) & np.isfinite(y)
    keep = thin(int(fine.sum()), CURVE_POINTS)
    return {
        "x": x[fine][keep].astype(np.float32),
        "y": y[fine][keep].astype(np.float32),
        "threshold": None if threshold is None else threshold[fine][keep].astype(np.float32),
    }


def thin(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``count`` indices, evenly spaced, the first and the last among them."""
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(int)


def _training(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, series in _mapping((content.get("curves") or {}).get("training")).items():
        step, value = (_numbers(_mapping(series).get(key)) for key in ("step", "value"))
        if step is not None and value is not None and len(step) == len(value) > 0:
            fine = np.isfinite(step) & (abs(step) < 2**53)
            keep = thin(int(fine.sum()), CURVE_POINTS)
            steps, kept = step[fine][keep].astype(np.int64), value[fine][keep].astype(np.float32)
            yield {"name": text(name, NAME), "step": steps, "value": kept}


# --- one value of the right type, or None ---


def text(value: Any, limit: int = TEXT) -> str | None:
    """Of at most ``limit`` characters, without half a surrogate pair (JSON allows that, UTF-8 does not)."""
    if not isinstance(value, str):
        return None
    cut = value if len(value) <= limit else value[: limit - 1] + "…"
    return cut.encode("utf-8", "replace").decode("utf-8")


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
