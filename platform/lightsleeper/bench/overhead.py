"""What `lightning run` costs over a bare Lightning script, in whole processes.

Pairs of one `lightning run` (stage fit) and one `bare_fit` script with the same model, data, logger and checkpoints,
the order alternating within the pairs, so that a machine that slows down hits both. The ratio is that of the fits;
start and stop are what the processes take before and after them. Beside the clock stands the processors' time of whole
processes, start and stop included: other programs of the machine disturb it less.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightsleeper import recipe as recipes
from lightsleeper.bench.bare_fit import MARK
from lightsleeper.errors import UserError
from lightsleeper.tracking.record import read

RESAMPLES = 10_000
FIT_DONE = "fit: done in"  # a line of the run's log


@dataclass(frozen=True)
class Timing:
    """Seconds of one process, and of processors that it and its children used."""

    start: float
    fit: float
    stop: float
    cpu: float = math.nan


def run(
    recipe: recipes.Recipe,
    files: Sequence[str],
    overrides: Sequence[str] = (),
    pairs: int = 10,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time ``pairs`` interleaved pairs; ``files`` and ``overrides`` are what ``recipe`` was loaded from.

    One unmeasured run first: it finishes required steps and builds the corpus. Runs lie in ``folder`` (default: a
    temporary one, removed afterwards). Raises UserError when a process fails, with its last line.
    """
    overrides = [*overrides, "--run.stages=[fit]"]
    with tempfile.TemporaryDirectory(prefix="lightsleeper-overhead-") as temporary:
        root = Path(folder or temporary)
        command = [sys.executable, "-m", "lightsleeper", "run", *files, *overrides, "--runs-dir", str(root)]
        tell("warming up: corpus, required steps")
        _platform(command, root, recipe.name)
        config = root / "bare.json"
        config.write_text(json.dumps(_config(root, recipe.name)))
        ours: list[Timing] = []
        bare: list[Timing] = []
        for pair in range(pairs):
            for side in ("run", "bare") if pair % 2 == 0 else ("bare", "run"):
                if side == "run":
                    ours.append(_platform(command, root, recipe.name))
                else:
                    bare.append(_bare(config, root / f"bare-{pair}"))
            tell(f"pair {pair + 1}: {ours[-1].fit:.2f} s against {bare[-1].fit:.2f} s")
    return {"recipe": recipe.name, "overrides": overrides, **summary(ours, bare), "conditions": _conditions()}


def summary(ours: Sequence[Timing], bare: Sequence[Timing]) -> dict[str, Any]:
    """Median ratios, of the fits and of processor time, with bootstrap upper 95 % bounds; medians of every part."""
    ratios = np.array([a.fit / b.fit for a, b in zip(ours, bare, strict=True)])
    used = np.array([a.cpu / b.cpu for a, b in zip(ours, bare, strict=True)])
    return {
        "pairs": len(ratios),
        "ratio": float(np.median(ratios)),
        "ratio_upper": _upper_bound(ratios),
        "ratios": ratios.tolist(),
        "cpu_ratio": float(np.median(used)),
        "cpu_ratio_upper": _upper_bound(used),
        "cpu_ratios": used.tolist(),
        "run": {part: float(np.median([getattr(t, part) for t in ours])) for part in ("start", "fit", "stop")},
        "bare": {part: float(np.median([getattr(t, part) for t in bare])) for part in ("start", "fit", "stop")},
    }


def _upper_bound(ratios: np.ndarray) -> float:
    """Bootstrap upper 95 % bound of the median."""
    draws = np.random.default_rng(0).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    return float(np.quantile(np.median(ratios[draws], axis=1), 0.95))


def _platform(command: list[str], root: Path, name: str) -> Timing:
    before = set(root.glob(f"{name}/*"))
    began, done_at, ended, cpu = _timed(command, FIT_DONE, "`lightning run`")
    (folder,) = [path for path in set(root.glob(f"{name}/*")) - before if read(path).parent is None]
    fit_s = read(folder).seconds["fit"]
    return Timing(done_at - began - fit_s, fit_s, ended - done_at, cpu)


def _bare(config: Path, folder: Path) -> Timing:
    found: list[str] = []
    command = [sys.executable, "-m", "lightsleeper.bench.bare_fit", str(config), str(folder)]
    began, done_at, ended, cpu = _timed(command, MARK, "the bare script", found)
    fit_s = json.loads(found[0].removeprefix(MARK))["fit_s"]
    return Timing(done_at - began - fit_s, fit_s, ended - done_at, cpu)


def _timed(
    command: list[str], mark: str, name: str, found: list[str] | None = None
) -> tuple[float, float, float, float]:
    """Run a process; monotonic times of its start, of the first line that begins with ``mark``, and of its end, and
    the processor seconds of it and the children it has waited for."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    done_at = None
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith(mark) and (done_at is None or mark == FIT_DONE):
                    done_at = time.monotonic()  # of a run, the last such line: required steps fit before it
                    if found is not None:
                        found.append(line)
                last = line.strip() or last
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:  # stopped: a training must not outlive its measurement
            child.terminate()
            raise
    if child.returncode != 0 or done_at is None:
        raise UserError(f"{name} failed with exit code {child.returncode}: {last}")
    return began, done_at, time.monotonic(), usage.ru_utime + usage.ru_stime


def _config(root: Path, name: str) -> dict[str, Any]:
    """The resolved config of the warm-up run with the folders of its required steps filled in."""
    (folder,) = [path for path in root.glob(f"{name}/*") if read(path).parent is None]
    record = read(folder)
    steps = {key: root / value["recipe"] / value["run_id"] for key, value in record.lineage.items()}
    return recipes.substitute(record.config, steps)


def _conditions() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "cores": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        **{name: version(name) for name in ("torch", "lightning", "wandb", "lightsleeper")},
    }
