"""Sweeps of the tiny family: files, studies, whole command lines in processes of their own."""

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightsleeper.search import worker
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


class Forked:
    """Stands in for `Popen` of a worker: forked from the test, so that it need not import torch again."""

    def __init__(self, line: list[str], *, env: dict[str, str], **_: Any) -> None:
        (child_in, parent_out), (parent_in, child_out) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        self.returncode: int | None = None
        if self.pid == 0:
            self._work(Path(line[-1]), env, child_in, child_out)
        os.close(child_in)
        os.close(child_out)
        self.stdin = os.fdopen(parent_out, "w", buffering=1)
        self.stdout = os.fdopen(parent_in)

    def _work(self, log: Path, env: dict[str, str], incoming: int, outgoing: int) -> None:
        code = 1
        try:
            os.dup2(incoming, 0)
            os.dup2(outgoing, 1)
            os.closerange(3, 256)  # among them the parent's ends of other workers' pipes
            sys.stdin = os.fdopen(0, closefd=False)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            os.environ.clear()
            os.environ.update(env)
            code = worker.main(log)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def fork_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this test are forked; all else about them is real."""
    monkeypatch.setattr("lightsleeper.search.team.Popen", Forked)


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
