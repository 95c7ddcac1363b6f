"""`metrics.csv`: every logged value of the fit, one row per log call.

Lightning's CSVLogger starts an existing file anew. This one continues it: rows at or after the checkpoint's step are
dropped on resume, because the resumed epochs log them again.
"""

import csv
import io
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from lightsleeper.files import write_atomic

FIXED = ("step", "epoch")
SHOWN = re.compile(r"val[/_].+|train[/_]loss(_step|_epoch)?")  # what a reader of the record wants to see
POINTS = 100  # a curve
ALL_POINTS = 6000  # of all curves of a run: the record stays below the size of its other curves


class MetricsFile(Logger):
    """Appends rows to ``path``; with ``start_step`` > 0 an existing file is kept up to that step."""

    def __init__(self, path: Path, start_step: int = 0) -> None:
        super().__init__()
        self.path = path
        kept = kept_rows(path, start_step)
        self._columns = list(kept[0]) if kept else list(FIXED)
        self._rewrite(kept)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row: dict[str, float] = {"step": step or 0, "epoch": int(metrics.get("epoch", 0))}
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        if new := [name for name in row if name not in self._columns]:
            rows = read_rows(self.path)
            self._columns += new
            self._rewrite(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:  # a reader follows the file while it grows
            csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(row)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved recipe lies beside the file."""

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a metrics file; a last line cut off by a killed process is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in reader if None not in row and None not in row.values() and row["step"].isdigit()]


def kept_rows(path: Path, start_step: int) -> list[dict[str, str]]:
    """The rows of steps below ``start_step``, at which a resumed fit continues."""
    return [row for row in read_rows(path) if int(row["step"]) < start_step]


def training_curves(path: Path) -> dict[str, dict[str, list[float]]]:
    """`{name: {step, value}}` of validation metrics and training loss, thinned, for the run record."""
    rows = read_rows(path)
    names = [name for name in rows[0] if SHOWN.fullmatch(name)] if rows else []
    limit = max(10, min(POINTS, ALL_POINTS // max(1, len(names))))
    curves = {}
    for name in names:
        points = [(int(row["step"]), float(f"{float(row[name]):.7g}")) for row in rows if row[name]]
        last = len(points) - 1
        if last >= limit:  # evenly spaced, the first and the last among them
            points = [points[round(index * last / (limit - 1))] for index in range(limit)]
        if points:
            steps, values = zip(*points, strict=True)
            curves[name] = {"step": list(steps), "value": list(values)}
    return curves
