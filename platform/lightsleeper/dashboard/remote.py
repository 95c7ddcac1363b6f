"""Runs of a W&B project as rows of the index: what `tracking.weights_and_biases.summary` wrote, read back.

A summary has values and intervals of metrics, sizes and the headline latencies, but neither operating points nor
training curves: those stay with the machine that made the run, or on W&B's own pages.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from lightsleeper.dashboard.rows import Unreadable, row
from lightsleeper.dashboard.safe import mapping
from lightsleeper.errors import UserError
from lightsleeper.tracking.credentials import key_source
from lightsleeper.tracking.record import SCHEMA, knobs

SECTIONS = ("size", "threshold", "context", "seconds")
KNOBS = ("model", "data", "callbacks", "trainer", "seed_everything")
STATUS = {"running": "running", "pending": "running", "finished": "finished", "crashed": "died", "failed": "failed"}
TIMEOUT_S = 30
PER_PAGE = 200


def connect() -> Any:
    """W&B's API object; raises UserError without a key, or when it refuses."""
    if key_source() is None:
        raise UserError("--project reads runs from W&B, and there is no W&B key: `wandb login`, or set WANDB_API_KEY.")
    import wandb

    try:
        return wandb.Api(timeout=TIMEOUT_S)
    except Exception as error:
        raise UserError(f"W&B could not be reached: {_first_line(error)}.") from error


def rows(api: Any, project: str) -> list[dict[str, Any]]:
    """One row a run of ``project``, `ENTITY/PROJECT`; a run that is none of ours is named and skipped.

    Raises UserError for a name of another form, and when W&B refuses or cannot be reached.
    """
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", project):
        raise UserError(f"--project '{project}': expected ENTITY/PROJECT.")
    try:
        runs = list(api.runs(project, per_page=PER_PAGE, lazy=False))
        return [_row(run, project) for run in runs]
    except Exception as error:
        raise UserError(f"W&B project {project}: {_first_line(error)}.") from error


def _row(run: Any, project: str) -> dict[str, Any]:
    where = {"key": f"{project}\0{run.id}", "path": f"{project}/{run.id}/-"}
    try:
        return {**where, **row(content(run))}
    except Unreadable as reason:
        return {**where, "reason": str(reason)}


def content(run: Any) -> dict[str, Any]:
    """What of a record the run's summary, config and attributes tell; raises Unreadable for a foreign run."""
    summary = flat(getattr(run, "summary_metrics", None) or {})
    config = dict(run.config or {})
    if "status" not in summary and "model" not in config:
        raise Unreadable("a W&B run that lightsleeper has not made")
    environment = config.pop("environment", None)
    told = mapping(config.pop("record", None))
    model = config.get("model")
    return {
        "schema": SCHEMA,
        "run_id": run.name or run.id,
        "recipe": getattr(run, "job_type", None) or "unknown",
        "family": str(model.get("class_path", "")).rpartition(".")[2] if isinstance(model, dict) else None,
        "status": summary.get("status") if run.state == "finished" else STATUS.get(run.state, run.state),
        "started": getattr(run, "created_at", None),
        "seed": config.get("seed_everything"),
        "group": told.get("group") or getattr(run, "group", None),  # W&B's is the sweep where there is one
        **{name: told.get(name) for name in ("hash", "headline", "parent")},
        "config": config,
        "knobs": knobs({name: config[name] for name in KNOBS if name in config}),
        "metrics": metrics(summary),
        **{name: _under(summary, f"{name}.") for name in SECTIONS},
        "compression": _compression(summary),
        "artifacts": artifacts(summary),
        "environment": environment,
        "tracking": {"id": run.id, "url": run.url},
        "sweep": _sweep(run, config, summary, mapping(told.get("sweep"))),
    }


def flat(summary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names, whether W&B gives them as they were or as nested mappings."""
    found: dict[str, Any] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        elif not str(name).startswith("_"):  # W&B's own: _step, _runtime ...
            found[f"{prefix}{name}"] = value
    return found


def metrics(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`test/auc`, `test/auc.low`, `test/auc.high` as `Measured`."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in summary.items():
        bare, _, end = name.rpartition(".")
        if end in ("low", "high") and bare in summary:
            found.setdefault(bare, {})[end] = value
        elif name.startswith("test/"):
            found.setdefault(name, {})["value"] = value
    return {name: measured for name, measured in found.items() if name.startswith("test/")}


def artifacts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In their order, each with the one latency that a summary has."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in _under(summary, "artifacts.").items():
        index, _, key = name.partition(".")
        if index.isdigit() and int(index) < 100:
            artifact = found.setdefault(int(index), {})
            if key.startswith("latency."):
                artifact.setdefault("latency", [{}])[0][key.removeprefix("latency.")] = value
            else:
                artifact[key] = value
    return [found[index] for index in sorted(found)]


def _compression(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in _under(summary, "compression.").items():
        callback, _, fact = name.partition(".")
        found.setdefault(callback, {})[fact] = value
    return found


def _sweep(run: Any, config: Mapping[str, Any], summary: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Its name, metric and parameters, as the run has told, else as W&B has them of a sweep of its own."""
    given = {name.replace("/", "."): value for name, value in mapping(config.get("sweep")).items()}
    if told.get("id"):
        value = summary.get(str(told.get("metric")))
        return {**told, "parameters": given, "value": value, "pruned": bool(summary.get("sweep.pruned"))}
    sweep = None
    with suppress(Exception):  # a request of its own; a sweep that was deleted is no reason to lose the run
        sweep = getattr(run, "sweep", None)
    if sweep is None:
        return {}
    settings = dict(getattr(sweep, "config", None) or {})
    metric = mapping(settings.get("metric"))
    known = {**given, **knobs({name: config[name] for name in KNOBS if name in config})}
    parameters = {name: known.get(name) for name in settings.get("parameters") or {}}
    return {
        "id": sweep.id,
        "name": settings.get("name") or sweep.id,
        "method": settings.get("method"),
        "metric": metric.get("name"),
        "goal": metric.get("goal", "minimize"),
        "parameters": parameters,
        "value": summary.get(str(metric.get("name"))),
    }


def _under(summary: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in summary.items() if name.startswith(prefix)}


def _first_line(error: Exception) -> str:
    lines: Iterable[str] = (line.strip(" .") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:160]
