import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_family
import torch
from lightsleeper import recipe as recipes
from lightsleeper.bench import overhead
from lightsleeper.bench.overhead import Timing, summary
from lightsleeper.errors import UserError
from lightsleeper.stages.console import stoppable
from tiny_family import tiny_recipe


def test_ratio_and_upper_bound_are_of_the_pairs():
    bare = [Timing(1.0, fit, 0.5, 4.0) for fit in (10.0, 20.0, 30.0, 10.0, 20.0)]
    factors = [1.0, 1.01, 1.02, 1.03, 1.5]
    ours = [Timing(2.0, timing.fit * factor, 1.0, 5.0) for timing, factor in zip(bare, factors, strict=True)]
    found = summary(ours, bare)
    assert found["ratio"] == pytest.approx(1.02)
    assert 1.02 < found["ratio_upper"] <= 1.5
    assert found["ratios"] == pytest.approx(factors)
    assert (found["cpu_ratio"], found["cpu_ratio_upper"]) == (1.25, 1.25)
    assert found["run"]["start"] == 2.0
    assert found["bare"] == {"start": 1.0, "fit": 20.0, "stop": 0.5}


def test_equal_pairs_have_no_spread():
    timings = [Timing(1.0, fit, 1.0, 1.0) for fit in np.linspace(1, 2, 10)]
    assert summary(timings, timings)["ratio_upper"] == 1.0


def test_pairs_alternate_and_leave_nothing_behind(tmp_path, monkeypatch):
    order = []

    def timed(side):
        def run(*_):
            order.append(side)
            return Timing(1.0, 2.0, 3.0, 4.0)

        return run

    monkeypatch.setattr(overhead, "_platform", timed("run"))
    monkeypatch.setattr(overhead, "_bare", timed("bare"))
    monkeypatch.setattr(overhead, "_config", lambda *_: {})
    path = tiny_recipe(tmp_path)
    told = []
    found = overhead.run(recipes.load([path], []), [str(path)], ["--trainer.max_epochs=1"], 3, tell=told.append)
    assert order == ["run", "run", "bare", "bare", "run", "run", "bare"]  # the first is the warm-up
    assert found["pairs"] == 3
    assert found["overrides"] == ["--trainer.max_epochs=1", "--run.stages=[fit]"]
    assert found["conditions"]["torch"]
    assert len(told) == 4


@pytest.mark.slow
def test_both_sides_train_the_same_steps(tmp_path, monkeypatch):
    """Whole processes: the platform's run and the bare script, each once."""
    path = tiny_recipe(tmp_path)
    folder = tmp_path / "runs"
    monkeypatch.setenv("PYTHONPATH", str(Path(tiny_family.__file__).parent))
    found = overhead.run(recipes.load([path], []), [str(path)], [], 1, folder)
    assert found["run"]["fit"] > 0
    assert found["bare"]["fit"] > 0
    assert found["run"]["start"] > 0
    assert found["bare"]["stop"] > 0
    assert 0.2 < found["cpu_ratio"] < 5
    bare, ours = folder / "bare-0" / "checkpoints" / "last.ckpt", next(folder.glob("tiny/*/checkpoints/last.ckpt"))
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (bare, ours)]
    assert steps == [24, 24]  # four epochs of six batches


def test_a_process_that_fails_is_told_with_its_last_line():
    with pytest.raises(UserError, match="the bare script failed with exit code 1: KeyError"):
        overhead._timed([sys.executable, "-c", "raise KeyError('seed')"], "done ", "the bare script")


def test_a_stopped_benchmark_takes_its_process_with_it():
    found: list[str] = []
    code = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"

    def interrupt():
        while not found:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), stoppable():
        overhead._timed([sys.executable, "-c", code], "pid", "the child", found)
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[0].split()[1]), 0)
