"""Runs of the tiny family: start one, have one stopped at a moment, compare two bit for bit."""

import atexit
import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightsleeper import experiment, recipe
from lightsleeper.cli import main
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.tracking.record import read
from tiny_family import tiny_recipe

FAST = "--run.stages=[fit,finalize,test]"
REQUIRES = "requires: {encoder: {recipe: step, set: {trainer: {max_epochs: 2}}}}\n"


def prepare(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A working folder of its own, no variables of the machine, one thread: forked children inherit no thread pool."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(folder / "cache"))
    for name in os.environ:
        if name.startswith(("WANDB_", "TINY_")) or name in ("LIGHTSLEEPER_RUNS", "NETRC", "PL_GLOBAL_SEED"):
            monkeypatch.delenv(name)
    torch.set_num_threads(1)


def write(name: str = "tiny", extra: str = "") -> Path:
    return tiny_recipe(Path.cwd(), name, extra)


def two_recipes() -> Path:
    """`both`, which requires `step` as its encoder."""
    step = write("step")
    step.write_text(step.read_text().replace("run: {", "run: {stages: [fit, finalize], "))
    path = write("both", REQUIRES)
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"]["encoder"] = "${requires.encoder}"
    content["run"]["stages"] = ["fit", "finalize", "test"]
    path.write_text(yaml.safe_dump(content))
    return path


def start(path: Path, *overrides: str, resume: str | Path | None = None, runs: str | Path = "runs") -> Path:
    return experiment.run(recipe.load([path], overrides), Path(runs), resume)


@functools.cache
def uninterrupted(*overrides: str, required: bool = False) -> Path:
    """A run that nobody disturbed, made once for all tests that compare with it."""
    folder = Path(tempfile.mkdtemp(prefix="whole-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        return start(two_recipes() if required else write(), *overrides, runs=folder / "runs")
    finally:
        os.chdir(before)


def stopped(how: str, path: Path, *overrides: str, resume: str | None = None) -> int:
    """Run in a child that obeys TINY_STOP=``how``; returns its exit code, negative for a signal."""

    def child() -> None:
        os.environ["TINY_STOP"] = how
        code = main(["run", str(path), *(["--resume", resume] if resume else []), *overrides])
        sys.stdout.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def last(name: str = "tiny", runs: str | Path = "runs") -> Path:
    return max((Path(runs) / name).glob("20*"), key=lambda folder: folder.name)


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights, optimizer, callbacks, curves and every number of the record."""
    for name in ("metrics.csv", "export/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    states = [load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (first, second)]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch"):
        assert_same(states[0][key], states[1][key], key)
    assert states[0]["callbacks"].get("Counting") == states[1]["callbacks"].get("Counting")
    records = [read(folder) for folder in (first, second)]
    for key in ("metrics", "curves", "threshold", "compression", "config", "hash", "group", "data", "headline"):
        assert getattr(records[0], key) == getattr(records[1], key), key
    sizes = [{key: value for key, value in record.size.items() if key != "peak_memory_bytes"} for record in records]
    assert sizes[0] == sizes[1]  # peak memory is measured


def assert_same(first: Any, second: Any, place: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), place
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), place
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{place}.{index}")
    else:
        assert first == second, place
