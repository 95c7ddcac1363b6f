"""What `--objectives` may name: validation metrics, and the numbers of the record that are there before a benchmark."""

import math
from pathlib import Path

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.search.sweep_file import Goal
from lightsleeper.tracking.record import Record

RECORDED = (
    *("size.parameters", "size.nonzero", "size.macs"),
    *("artifact.bytes", "artifact.gzip_bytes"),
    *("context.past_ms", "context.future_ms", "context.state_bytes"),
)
"""Costs, so less is better."""
TIMED = ("latency", "rtf", "peak_memory", "p50", "p90", "p99")
GOALS: dict[str, Goal] = {"max": "maximize", "min": "minimize"}


def parse(text: str, metric: str, goal: Goal) -> dict[str, Goal]:
    """`a,b` as {name: maximize | minimize}; a validation metric other than the file's says which: `val/loss:min`.

    Raises UserError for an unknown name, for one that only the benchmark knows, and for fewer than two.
    """
    found: dict[str, Goal] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, _, suffix = item.partition(":")
        if suffix and suffix not in GOALS:
            raise UserError(f"--objectives: '{item}': expected {name}:max or {name}:min.")
        if any(word in name for word in TIMED):
            raise UserError(
                f"--objectives: '{name}' is measured after all trials, alone on the machine; it cannot steer them."
                f" Known before: val/ metrics, {', '.join(RECORDED)}."
            )
        if name in RECORDED:
            found[name] = GOALS.get(suffix, "minimize")
        elif name.startswith("val/"):
            if not suffix and name != metric:
                raise UserError(f"--objectives: is more of '{name}' better? Write {name}:max or {name}:min.")
            found[name] = GOALS.get(suffix, goal)
        else:
            raise UserError(f"--objectives: '{name}' is no val/ metric.{did_you_mean(name, RECORDED)}")
    if len(found) < 2:
        raise UserError("--objectives: expected two or more, such as val/auc_hard,artifact.bytes.")
    return found


def measure(record: Record, folder: Path, name: str) -> float | None:
    """An objective's value of a finished run; None when it has none that is finite."""
    section, _, key = name.partition(".")
    if name.startswith("val/"):
        from lightsleeper.stages.sweep import shipped_value

        return shipped_value(folder, name)
    source = record.artifacts[0] if section == "artifact" and record.artifacts else getattr(record, section, {})
    value = source.get(key) if isinstance(source, dict) else None
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
