"""The run record: the contract between everything that measures and everything that shows.

One JSON file per run, fractions and SI units, replaced whole and atomically. Plain standard library, so that listing
a thousand runs imports no torch. A run that was killed cannot say so itself: `status_of` works it out from the
process id on the same host, and from the heartbeat anywhere else.
"""

import dataclasses
import json
import math
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, get_origin

from lightsleeper.errors import UserError
from lightsleeper.files import write_atomic
from lightsleeper.run_folder import RECORD

SCHEMA = 1
HEARTBEAT_S = 10.0
STALE_S = 60.0  # six missed beats; on another host there is nothing else to go by

LATER = frozenset({"deferred", "failed"})  # states of a stage that a finished run may have: it can still be made up for

Status = Literal["running", "finished", "failed", "interrupted"]


class Measured(TypedDict):
    """`metrics.measurement.Measurement` as JSON."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None
    method: str | None


class Latency(TypedDict, total=False):
    """One timed configuration of one exported file."""

    per: str
    chunk_ms: float | None
    content: str
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    rtf: float | None
    mean_ms: float
    """Where the content decides what is computed."""
    macs: dict[str, float]
    """Mean and percentiles of the encoder's multiply-accumulates, there."""
    fingerprint: str


class Artifact(TypedDict, total=False):
    """One exported file; the headline latency is `artifacts[0].latency[0]`."""

    format: str
    precision: str
    path: str
    sha256: str
    bytes: int
    gzip_bytes: int
    parity: dict[str, Any]
    packed: dict[str, Any]
    """What a file of tables and indices holds. packed: `payload_bytes`, `clustered` tensors and their layouts, the
    `share` of bytes; coreml: `package_bytes`, how many weights are `palettized`."""
    metrics: dict[str, Measured]
    """Of the file itself, on the run's test set."""
    threshold: dict[str, Any]
    """int8: {value, target} of its own, from the validation streams."""
    against_float: dict[str, Any]
    """int8, keyword by keyword: {lost, found, p, method}."""
    device: dict[str, Any]
    """int8: `frontend`, `state_bytes`, `macs_per_second`, `frontend_macs_per_second`; litert: `arena_bytes`, `input`
    and `states` with their scales, `c_array` (files beside it)."""
    latency: list[Latency]


class Process(TypedDict):
    """Who writes the record."""

    pid: int
    host: str
    birth: str | None
    """Start time of the process in the kernel's units: tells a reused pid from the writer."""
    heartbeat: str


@dataclass
class Record:
    """Everything that is known about one run."""

    run_id: str
    recipe: str
    family: str
    """Class name of the model."""
    seed: int | None
    group: str
    """Hash of the config without the seed: the runs to average over."""
    hash: str
    """Hash of the config with the seed: a finished run with an equal one is reused by `requires`."""
    config: dict[str, Any]
    knobs: dict[str, Any]
    """Dotted name -> plain value of every setting."""
    schema: int = SCHEMA
    status: Status = "running"
    started: str = ""
    finished: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    """Stage -> running | finished | deferred (left for later) | failed (then); `--resume` skips what is finished."""
    data: dict[str, Any] = field(default_factory=dict)
    """{hash, protocol, counts, overlap}"""
    code: dict[str, Any] = field(default_factory=dict)
    """{version, commit, dirty} that the run began with"""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """{when, code, environment} of each later process that had another code or environment."""
    lineage: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Step name -> {recipe, run_id, hash}."""
    parent: str | None = None
    """Run id that started this run as its step."""
    headline: list[str] = field(default_factory=list)
    """Metric names shown first."""
    metrics: dict[str, Measured] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    """`training`: {metric: {step, value}} of the fit, thinned. All others are operating points of a test set, by the
    names of their lists: {threshold, far, frr}; {fpr, tpr}; {fa_per_hour, frr} where a stream was scored."""
    reference: dict[str, Any] = field(default_factory=dict)
    """Numbers before compression, {run_id, metrics, size}: of the required run of the same family."""
    compression: dict[str, Any] = field(default_factory=dict)
    threshold: dict[str, Any] = field(default_factory=dict)
    """{value, target}"""
    context: dict[str, Any] = field(default_factory=dict)
    """{past_ms, future_ms, state_bytes}; null is unlimited."""
    artifacts: list[Artifact] = field(default_factory=list)
    size: dict[str, Any] = field(default_factory=dict)
    """{parameters, nonzero, macs, peak_memory_bytes}"""
    environment: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    """{mode, project, entity, group, id, url}"""
    sweep: dict[str, Any] = field(default_factory=dict)
    """{id, name, method, metric, goal, trial, attempt, parameters, value, pruned}; empty outside a sweep. ``value`` is
    the metric's at the epoch that ships, ``pruned`` says that the sweep stopped the run early."""
    process: Process | None = None
    error: str | None = None

    def to_json(self) -> str:
        return json.dumps(_plain(dataclasses.asdict(self)), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON-able copy: no NaN or infinity (no browser reads them), paths and foreign scalars as plain values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if callable(getattr(value, "tolist", None)):  # torch and numpy, which are not imported here
        return _plain(value.tolist())
    return str(value)


def read(folder: Path) -> Record:
    """The record of a run folder (or a record file).

    Raises UserError when there is none, when it is no JSON, or when its schema is not ours.
    """
    path = folder if folder.is_file() else folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no run record at {path}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a run record: {error}.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        hint = " It was written by a newer version." if isinstance(schema, int) and schema > SCHEMA else ""
        raise UserError(f"{path} has schema {schema!r}; this version reads schema {SCHEMA}.{hint}")
    known = {item.name for item in dataclasses.fields(Record)}
    for item in dataclasses.fields(Record):
        kind = get_origin(item.type) or item.type
        if kind in (str, dict, list) and not isinstance(content.get(item.name, kind()), kind):
            raise UserError(f"{path} is no run record: its '{item.name}' is not a {kind.__name__}.")
    if not _is_process(content.get("process")):
        raise UserError(f"{path} is no run record: its 'process' names no writer.")
    try:
        return Record(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise UserError(f"{path} is not a complete run record: {error}.") from error


def _is_process(value: Any) -> bool:
    """Whether `status_of` can tell from it who lives."""
    if value is None:
        return True
    try:
        aware = datetime.fromisoformat(value["heartbeat"]).tzinfo is not None
        pid = type(value["pid"]) is int and 0 < value["pid"] < 2**31
        return aware and pid and isinstance(value["host"], str) and "birth" in value
    except (KeyError, TypeError, ValueError):
        return False


def status_of(record: Record, now: datetime | None = None) -> str:
    """The status as a reader should show it: a `running` record whose writer is gone is `died`."""
    if record.status != "running" or record.process is None:
        return record.status
    if record.process["host"] == platform.node():
        return "running" if alive(record.process["pid"], record.process["birth"]) else "died"
    age_s = ((now or datetime.now(UTC)) - datetime.fromisoformat(record.process["heartbeat"])).total_seconds()
    return "died" if age_s > STALE_S else "running"


def alive(pid: int, born: str | None) -> bool:
    """Whether the process of this id and start time is there; a zombie is not, nor another that got its id since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process: alive
    current = birth(pid)
    if current is None:  # a zombie has left nothing to read, and systems without /proc cannot tell
        return not Path("/proc/self/stat").exists()
    return born is None or born == current


def birth(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None where /proc does not tell, and for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # fields 3 and 22 of proc(5)


class RecordFile:
    """The single writer of one record: changes and heartbeat share one lock and replace the file whole.

    Example:
        file = RecordFile(folder, record)
        with file:
            with file.change() as record:
                record.seconds["fit"] = 12.0
    """

    def __init__(self, folder: Path, record: Record, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.path = folder / RECORD
        self.record = record
        self._heartbeat_s = heartbeat_s
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="record heartbeat", daemon=True)

    def __enter__(self) -> "RecordFile":
        with self.change() as record:
            record.status, record.error, record.finished = "running", None, None
            pid = os.getpid()
            record.process = Process(pid=pid, host=platform.node(), birth=birth(pid), heartbeat=timestamp())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def change(self) -> Iterator[Record]:
        """Edit the record and write it. What a block changes before it raises is written at the next beat."""
        with self._lock:
            yield self.record
            if self.record.process is not None:
                self.record.process["heartbeat"] = timestamp()
            write_atomic(self.path, self.record.to_json())

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            # A full disk, a record in the middle of a change: the run itself meets what lasts. Without a beat it would
            # be taken for dead.
            with suppress(Exception), self.change():
                pass


def timestamp() -> str:
    """Now, UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def knobs(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> plain value of every setting, without `init_args`; classes under their own name.

    Example:
        knobs({"model": {"class_path": "a.B", "init_args": {"dim": 3}}}) == {"model": "B", "model.dim": 3}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if key == "class_path" and isinstance(value, str):
            flat[prefix] = value.rpartition(".")[2]
        elif isinstance(value, Mapping):
            flat.update(knobs(value, name))
        else:
            flat[name] = value
    return flat
