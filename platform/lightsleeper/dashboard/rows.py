"""One run record as one row of the index, whatever its file holds.

A record may come from another version, another program or an attacker: every field is taken only when its type fits,
texts are cut, numbers are finite or null. A file that is no record at all raises `Unreadable` with the reason.
"""

import json
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lightsleeper import __version__
from lightsleeper.dashboard.curves import curves, training
from lightsleeper.dashboard.safe import NAME, TEXT, cut, items, mapping, number, section, text, url, whole
from lightsleeper.tracking.record import SCHEMA

FILE_BYTES = 64_000_000  # a record with all its curves has 0.1 MB
ENTRIES = 2000  # metrics, knobs or curves kept of one record
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
    metadata={"lightsleeper.index": f"1 {__version__}"},  # an index of another one is built anew
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
    sweep = section(content, "sweep")
    latency = _latency(content)
    process = mapping(content.get("process"))
    run = mapping(mapping(content.get("config")).get("run"))
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
        "tracking_id": text(section(content, "tracking").get("id"), NAME),
        "url": url(section(content, "tracking").get("url")),
        "fingerprint": text(latency.get("fingerprint"), NAME),
        "machine": _machine(mapping(content.get("environment"))),
        "timed": _timed(latency, mapping(next(iter(items(content.get("artifacts"))), None))),
        "host": text(process.get("host"), NAME),
        "pid": whole(process.get("pid")),
        "birth": text(process.get("birth"), NAME),
        "heartbeat": text(process.get("heartbeat"), NAME),
        **{f"sweep_{name}": text(sweep.get(name), NAME) for name in ("id", "name", "method", "metric", "goal")},
        "sweep_trial": whole(sweep.get("trial")),
        "sweep_pruned": sweep.get("pruned") is True,
        "sweep_parameters": [text(name, NAME) for name in mapping(sweep.get("parameters"))][:ENTRIES],
        "monitor": text(run.get("monitor"), NAME),
        "monitor_mode": text(run.get("mode"), NAME),
        "primary": next(iter(headline), None),
        "headline": headline,
        "lineage": [
            text(step["run_id"], NAME)
            for step in section(content, "lineage").values()
            if isinstance(step, dict) and isinstance(step.get("run_id"), str)
        ][:ENTRIES],
        "values": _unique(values(content, latency)),
        "knobs": list(_knobs(content)),
        "curves": list(curves(content))[:ENTRIES],
        "training": list(training(content))[:ENTRIES],
    }


def _headline(content: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Test metrics shown first: the twin of what the sweep compares or the checkpoint was picked by, then the family's.

    A monitor that is no headline (a loss, mostly) comes last.
    """
    metrics = section(content, "metrics")
    given = [name for name in items(content.get("headline")) if isinstance(name, str)]
    twins = [
        name.replace("val/", "test/", 1) if isinstance(name, str) else ""
        for name in (section(content, "sweep").get("metric"), run.get("monitor"))
    ]
    names = [twins[0], *(twins[1:] if twins[1] in given else []), *given, twins[1]]
    return [cut(name, NAME) for name in dict.fromkeys(names) if name in metrics][:ENTRIES]


# --- numbers ---


def values(content: Mapping[str, Any], latency: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, `Measured`) of everything in a record that can be an axis."""
    for name, measured in section(content, "metrics").items():
        yield name, measured if isinstance(measured, dict) else {"value": measured}
    sweep = section(content, "sweep")
    if isinstance(sweep.get("metric"), str):  # val/...: what the sweep compares; not among the test metrics
        yield sweep["metric"], {"value": sweep.get("value")}
    p50, p90 = latency.get("p50_ms"), latency.get("p90_ms")
    yield "latency.p50_ms", {"value": p50, "low": p50, "high": p90, "n": latency.get("repeats"), "method": "p50 to p90"}
    for key in ("p90_ms", "p99_ms", "rtf"):
        yield f"latency.{key}", {"value": latency.get(key)}
    for index, artifact in enumerate(map(mapping, items(content.get("artifacts")))):
        kind = "artifact" if index == 0 else f"artifact.{_file(artifact)}"
        for key in ("bytes", "gzip_bytes"):
            yield f"{kind}.{key}", {"value": artifact.get(key)}
    for name in ("size", "context", "seconds"):
        for key, value in section(content, name).items():
            yield f"{name}.{key}", {"value": value}
    if seconds := [value for value in map(number, section(content, "seconds").values()) if value is not None]:
        yield "seconds.total", {"value": sum(seconds)}
    yield from _compression(section(content, "compression"))


def _compression(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`compress.sparsity`; a later phase knows more, and of several callbacks of one phase each has its own name."""
    facts = [(callback, mapping(told)) for callback, told in report.items()]
    given = Counter((text(told.get("phase"), NAME), key) for _, told in facts for key in told)
    for callback, told in facts:
        phase = text(told.get("phase"), NAME)
        for key, value in told.items():
            if key.startswith("compress/"):
                owner = f"{callback}." if phase and given[phase, key] > 1 else ""
                yield f"compress.{owner}{key.removeprefix('compress/')}", {"value": value}


def _unique(found: Iterator[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """As rows of the index, without nulls; of one name the last."""
    kept = {}
    for name, measured in found:
        if (value := number(measured.get("value"))) is not None:
            low, high, n = (number(measured.get(key)) for key in ("low", "high", "n"))
            method = text(measured.get("method"), NAME)
            key = cut(name, NAME)
            kept[key] = {"name": key, "value": value, "low": low, "high": high, "n": n, "method": method}
    return list(kept.values())[:ENTRIES]


def _file(artifact: Mapping[str, Any]) -> str:
    """`packed.safetensors`: what tells the further files of one run apart."""
    path = text(artifact.get("path"), NAME) or ""
    return path.rstrip("/").rpartition("/")[2] or str(text(artifact.get("format"), NAME))


def _latency(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headline latency: `artifacts[0].latency[0]`."""
    first = next(iter(items(content.get("artifacts"))), None)
    return mapping(next(iter(items(mapping(first).get("latency"))), None))


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
    sweep = mapping(section(content, "sweep").get("parameters"))
    for name, value in list({**sweep, **section(content, "knobs")}.items())[:ENTRIES]:
        try:
            shown = json.dumps(value, ensure_ascii=False)
        except (RecursionError, ValueError):
            shown = '"?"'
        if len(shown) > TEXT:  # a cut JSON text is none
            shown = json.dumps(text(value if isinstance(value, str) else shown), ensure_ascii=False)
        yield {"name": text(name, NAME), "value": text(shown, 2 * TEXT)}
