"""`lightning bench sweep`: what two workers bring, and what the engine's bookkeeping costs.

The workload is ours and needs no download: the small byte-level BERT of `classifier_small` on Python's own sources, a
grid of learning rates and seeds, every trial the same number of steps, tracked offline, without finalize and what
follows. Three whole `lightning sweep` commands, start to end: one worker of one thread, two such workers, one worker of
two threads. Bookkeeping is what lies between the trials of the first one.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightsleeper.errors import UserError
from lightsleeper.search.folder import folder_of

RECIPE = "classifier_small"
TARGET_SPEEDUP = 1.7
TARGET_BOOKKEEPING = 0.02
STEPS = 40  # with its start, about 20 s of one thread
ARMS = {"serial": (1, 1), "parallel": (2, 1), "serial, two threads": (1, 2)}
"""Name -> (workers, threads of each)."""


@dataclass(frozen=True)
class Arm:
    """One sweep."""

    command_s: float
    """From the start of the command to its end, imports and checks included."""
    span_s: float
    """From the claim of the first trial to the end of the last one."""
    trials_s: list[float]
    """Time inside each trial."""

    @property
    def bookkeeping(self) -> float:
        """Share of the trials' time that passed between them; of one worker."""
        return (self.span_s - sum(self.trials_s)) / sum(self.trials_s)


def run(args: Any = None) -> dict[str, Any]:
    """Measure, print the table, and return the same as JSON-able data.

    ``args``: ``quick`` (four trials of a few steps: the numbers mean little), ``repeats`` (training steps a trial).
    Raises UserError when a sweep fails.
    """
    quick = bool(getattr(args, "quick", False))
    steps = getattr(args, "repeats", None) or (5 if quick else STEPS)
    values: dict[str, list[Any]] = {
        "model.lr": [3e-4, 1e-3] if quick else [3e-4, 5e-4, 1e-3, 2e-3],
        "seed_everything": [1, 2] if quick else [1, 2, 3],
    }
    arms: dict[str, Arm] = {}
    with tempfile.TemporaryDirectory(prefix="lightsleeper-sweep-") as name:
        folder = Path(name)
        file = folder / "bench.yaml"
        file.write_text(yaml.safe_dump(_sweep(values, steps), sort_keys=False))
        print("warming up: the corpus", file=sys.stderr)
        _measure(file, folder / "warm", 1, 1, "--count", "1")
        for arm, (workers, threads) in ARMS.items():
            arms[arm] = _measure(file, folder / arm.replace(" ", "-"), workers, threads)
            print(f"{arm}: {arms[arm].command_s:.1f} s", file=sys.stderr)
    result = summary(arms, steps)
    print(render(result))
    return result


def _sweep(values: dict[str, list[Any]], steps: int) -> dict[str, Any]:
    fixed = ["--run.stages=[fit]", "--trainer.max_epochs=1", f"--trainer.limit_train_batches={steps}"]
    fixed += ["--trainer.limit_val_batches=5", "--trainer.accelerator=cpu", "--tracking.mode=offline"]
    return {
        "program": RECIPE,
        "command": ["lightning", "run", "${program}", *fixed, "${args}"],
        "method": "grid",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "parameters": {name: {"values": given} for name, given in values.items()},
    }


def _measure(file: Path, runs_dir: Path, workers: int, threads: int, *words: str) -> Arm:
    line = [sys.executable, "-m", "lightsleeper", "sweep", str(file), "--local", "--id", "bench"]
    line += ["--workers", str(workers), "--runs-dir", str(runs_dir), *words]
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "offline"}
    environ.pop("LIGHTSLEEPER_STORAGE", None)
    began = time.monotonic()
    child = subprocess.run(line, env=environ, capture_output=True, text=True, check=False)
    command_s = time.monotonic() - began
    if child.returncode != 0:
        last = [text for text in (child.stderr + child.stdout).splitlines() if text.strip()][-1:]
        raise UserError(f"the sweep failed with exit code {child.returncode}: {''.join(last)}")
    return _timed(runs_dir, command_s)


def _timed(runs_dir: Path, command_s: float) -> Arm:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name="bench", storage=f"sqlite:///{folder_of(runs_dir, 'bench').absolute()}/study.sqlite"
    )
    done = [trial for trial in study.trials if trial.datetime_complete and trial.datetime_start]
    first = min(trial.datetime_start for trial in done if trial.datetime_start)
    last = max(trial.datetime_complete for trial in done if trial.datetime_complete)
    return Arm(command_s, (last - first).total_seconds(), [trial.user_attrs["seconds"] for trial in done])


def summary(arms: dict[str, Arm], steps: int) -> dict[str, Any]:
    """Speed-up of the whole commands, share of bookkeeping, and what they come from."""
    serial, parallel = arms["serial"], arms["parallel"]
    return {
        "arms": {name: {"workers": ARMS[name][0], "threads": ARMS[name][1], **vars(arm)} for name, arm in arms.items()},
        "speedup": serial.command_s / parallel.command_s,
        "speedup_of_trials": serial.span_s / parallel.span_s,
        "speedup_of_two_threads": serial.command_s / arms["serial, two threads"].command_s,
        "bookkeeping": serial.bookkeeping,
        "conditions": {
            "workload": f"{RECIPE}, fit, {steps} steps a trial",
            "trials": len(serial.trials_s),
            "cores": os.cpu_count(),
            "cpu": platform.processor() or platform.machine(),
            **{name: version(name) for name in ("torch", "lightning", "optuna", "wandb")},
        },
    }


def render(result: dict[str, Any]) -> str:
    """The result as text."""
    conditions = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
    lines = [f"sweep: {conditions}", f"{'seconds':24}{'command':>10}{'trials':>10}{'one trial':>12}"]
    for name, arm in result["arms"].items():
        mean = sum(arm["trials_s"]) / len(arm["trials_s"])
        lines.append(f"{name:24}{arm['command_s']:10.1f}{arm['span_s']:10.1f}{mean:12.2f}")
    reached = "reached" if result["speedup"] >= TARGET_SPEEDUP else "MISSED"
    lines.append(
        f"two workers against one: {result['speedup']:.2f}x (trials alone {result['speedup_of_trials']:.2f}x);"
        f" target {TARGET_SPEEDUP}x: {reached}"
    )
    lines.append(f"two threads against one: {result['speedup_of_two_threads']:.2f}x")
    share = "reached" if result["bookkeeping"] < TARGET_BOOKKEEPING else "MISSED"
    lines.append(
        f"bookkeeping between trials: {100 * result['bookkeeping']:.2f} % of their time; target under"
        f" {100 * TARGET_BOOKKEEPING:.0f} %: {share}"
    )
    return "\n".join(lines)
