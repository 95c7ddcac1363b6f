"""Sweeps of the tiny family: files, studies, whole command lines in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from lightsleeper.search.space import Parameter
from lightsleeper.search.storage import open_storage, url_of
from lightsleeper.search.study import Settings, Study
from lightsleeper.search.sweep_file import SweepFile
from lightsleeper.tracking.record import Record, read
from tiny_family import tiny_recipe

FIT = "--run.stages=[fit]"
WIDTHS = {"model.width": {"values": [4, 8]}, "data.rows": {"values": [32, 48]}}


def write_sweep(folder: Path, *fixed: str, parameters: dict[str, Any] | None = None, **keys: Any) -> Path:
    """`sweep.yaml` over `tiny.yaml`, both in ``folder``; a grid of four points unless told otherwise."""
    tiny_recipe(folder)
    content = {
        "program": "tiny.yaml",
        "command": ["lightning", "run", "${program}", *fixed, "${args}"],
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": WIDTHS if parameters is None else parameters,
        **keys,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def settings(recipe_hash: str = "abc", objectives: Any = None, epochs: int | None = None, **keys: Any) -> Settings:
    """Of a sweep file that was never on disk."""
    content: dict[str, Any] = {"method": "grid", "metric": "val/loss", "goal": "minimize", "run_cap": None, **keys}
    parameters = {name: Parameter.of(name, spec) for name, spec in (content.pop("parameters", None) or WIDTHS).items()}
    rule = content.pop("early_terminate", None)
    text = {"method": content["method"], "run_cap": content["run_cap"]}
    fixed: dict[str, Any] = {"recipes": ["tiny.yaml"], "overrides": [], "early_terminate": rule, "text": text}
    file = SweepFile(Path("s.yaml"), "s", parameters=parameters, **fixed, **content)
    return Settings(file, "tiny", recipe_hash, epochs, objectives or {})


def open_study(folder: Path, wanted: Settings | None = None, name: str = "s-1", create: bool = True) -> Study:
    return Study(name, wanted or settings(), open_storage(url_of(None, folder)), os.getpid(), create)


def command(*words: str, **variables: str) -> subprocess.Popen[str]:
    """`lightning sweep WORDS` in a process of its own."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    line = [sys.executable, "-m", "lightsleeper", "sweep", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)


def trials(runs: Path = Path("runs")) -> dict[int, list[Record]]:
    """Records of a sweep's trials by number."""
    found: dict[int, list[Record]] = {}
    for path in sorted(runs.glob("tiny/*/record.json")):
        record = read(path)
        found.setdefault(record.sweep["trial"], []).append(record)
    return found
