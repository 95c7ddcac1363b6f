"""A worker: runs what it is given, tells how it went, and leaves when its parent is gone."""

import io
import os
import queue
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightsleeper.search.team import Worker, environment, threads_each
from lightsleeper.tracking.record import read, timestamp
from tiny_runs import prepare
from tiny_sweeps import FIT, fork_workers, trials, write_sweep


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    write_sweep(tmp_path)
    fork_workers(monkeypatch)


class Parent:
    """Gives jobs to one worker."""

    def __init__(self) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.worker = Worker("worker 1", Path("worker.log"), environment(0, 1), self.events)

    def hear(self, *kinds: str) -> dict[str, Any]:
        while True:
            _, event = self.events.get(timeout=120)
            if event["event"] in kinds:
                return event

    def trial(self, number: int = 0, attempt: int = 1, *overrides: str, **job: Any) -> None:
        entry = {"id": "s-1", "name": "s", "metric": "val/loss", "trial": number, "attempt": attempt, "parameters": {}}
        entry |= {"method": "grid", "goal": "minimize", **job.pop("entry", {})}
        given = {"do": "trial", "entry": entry, "recipe": "tiny", "files": ["tiny.yaml"], "runs_dir": "runs"}
        given |= {
            "overrides": [FIT, *overrides],
            "defer": ["benchmark"],
            "stopped": False,
            "prune": False,
            "objectives": ["val/loss"],
        }
        self.worker.send({**given, **job})


@pytest.fixture
def parent() -> Iterator[Parent]:
    found = Parent()
    yield found
    if not found.worker.dead():
        found.worker.kill()


def test_a_worker_runs_trials_and_says_how_they_went(parent: Parent):
    parent.trial(0)
    done = parent.hear("done")
    assert done["pruned"] is False
    parent.trial(1, 1, "--data.fail=user")
    failed = parent.hear("failed")
    assert (failed["error"], failed["everywhere"]) == ("clip 3 of the manifest is no audio file.", False)
    parent.trial(2, 1, "--data.fail=bug")
    assert parent.hear("failed")["error"] == "ZeroDivisionError: division by zero"
    parent.trial(3, entry={"metric": "val/nothing"})  # would be so in every trial
    wrong = parent.hear("failed")
    assert wrong["everywhere"]
    assert "'val/nothing', which no epoch logs; logged: ['val/accuracy', 'val/loss']" in wrong["error"]

    records = {number: found[0] for number, found in trials().items()}
    assert {number: record.status for number, record in records.items()} == {
        0: "finished",
        1: "failed",
        2: "failed",
        3: "failed",
    }
    assert records[1].error == failed["error"]
    assert done["values"] == [records[0].sweep["value"]]
    assert records[0].run_id == done["run"]
    assert "epoch 4/4" in Path("worker.log").read_text()

    parent.trial(0, attempt=2)  # its end was told to a parent that died before noting it
    assert parent.hear("done")["run"] == done["run"]
    parent.trial(1, attempt=2)
    assert parent.hear("failed")["error"] == failed["error"]
    assert {number: len(found) for number, found in trials().items()} == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_full_disk_is_no_fault_of_the_trial(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    parent.worker.kill()
    monkeypatch.setenv("TINY_STOP", "step:7:disk")
    other = Parent()
    other.trial(0)
    failed = other.hear("failed")
    other.worker.kill()
    assert failed["everywhere"]
    assert "is full. Make space" in failed["error"]


def test_a_worker_whose_input_ends_leaves_its_trial_resumable(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    parent.worker.kill()
    monkeypatch.setenv("TINY_STOP", "step:14:wait")  # a minute
    monkeypatch.setenv("TINY_READY", "ready")
    other = Parent()
    other.trial(0)
    while not Path("ready").exists():
        time.sleep(0.02)
    other.worker.stop()  # what the death of its parent does as well
    began = time.monotonic()
    while not other.worker.dead() and time.monotonic() - began < 20:
        time.sleep(0.02)
    assert other.worker.dead()
    (record,) = trials()[0]
    assert record.status == "interrupted"


def test_a_stopped_trial_goes_on_where_it_was(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    parent.worker.kill()
    monkeypatch.setenv("TINY_STOP", "step:14:term")
    first = Parent()
    first.trial(0)
    first.hear("stopped")
    monkeypatch.delenv("TINY_STOP")
    second = Parent()
    second.trial(0, attempt=2)
    done = second.hear("done")
    second.worker.kill()
    (record,) = trials()[0]
    assert (record.run_id, record.status, record.sweep["attempt"]) == (done["run"], "finished", 2)
    assert "continuing after epoch 2" in (Path("runs/tiny") / record.run_id / "log.txt").read_text()


def test_a_trial_of_a_machine_that_seems_alive_is_waited_for_not_failed(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
):
    parent.worker.kill()
    monkeypatch.setenv("TINY_STOP", "step:14:term")
    first = Parent()
    first.trial(0)
    first.hear("stopped")
    monkeypatch.delenv("TINY_STOP")
    (record,) = trials()[0]
    path = Path("runs/tiny") / record.run_id / "record.json"

    def written_elsewhere(heartbeat: str) -> None:
        process = {"pid": 1, "host": "elsewhere", "birth": None, "heartbeat": heartbeat}
        path.write_text(replace(record, status="running", process=process).to_json())

    written_elsewhere(timestamp())
    second = Parent()
    second.hear("ready")
    second.trial(0, attempt=2)
    while "waiting for that to end" not in Path("worker.log").read_text():
        assert second.events.empty(), second.events.get()
        time.sleep(0.02)
    written_elsewhere("2020-01-01T00:00:00+00:00")
    assert second.hear("done", "failed")["event"] == "done"
    second.worker.kill()
    assert len(trials()[0]) == 1


def test_a_worker_asks_before_it_goes_on_and_stops_early_when_told(parent: Parent):
    parent.trial(0, 1, "--run.stages=[fit,finalize]", prune=True)
    for number in (1, 2):
        heard = parent.hear("validation")
        assert (heard["validation"], heard["competes"]) == (number, True)
        parent.worker.send({"stop": number == 2})
    done = parent.hear("done")
    assert (done["pruned"], done["values"]) == (True, [])
    (record,) = trials()[0]
    assert (record.status, record.sweep["pruned"], record.stages) == ("finished", True, {"fit": "finished"})
    assert record.sweep["value"] is not None


def test_validations_inside_a_compression_ramp_do_not_compete(parent: Parent):
    parent.trial(0, 1, "--callbacks.prune={class_path: tiny_family.TinyPrune}", prune=True)
    heard = [parent.hear("validation")["competes"]]  # the ramp ends with the second of four epochs
    for _ in range(3):
        heard.append(parent.hear("validation")["competes"])
        if heard[-1]:
            parent.worker.send({"stop": False})
    assert heard == [False, True, True, True]


def test_an_answer_does_not_restart_the_clock_of_a_trial():
    worker = Worker.__new__(Worker)
    worker.process, worker.began = SimpleNamespace(stdin=io.StringIO()), 5.0  # type: ignore[assignment]
    worker.send({"stop": False})
    assert worker.began == 5.0
    assert worker.process.stdin.getvalue() == '{"stop": false}\n'  # type: ignore[union-attr]


# --- threads and devices ---


def test_cores_are_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert [threads_each(workers, {}) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    assert threads_each(4, {"OMP_NUM_THREADS": "3"}) == 3
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment(0, 4)["OMP_NUM_THREADS"] == environment(0, 4)["MKL_NUM_THREADS"] == "2"


def test_several_gpus_are_divided_among_the_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [environment(index, 3, 2)["CUDA_VISIBLE_DEVICES"] for index in range(3)] == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in environment(0, 3, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert [environment(index, 2, 2)["CUDA_VISIBLE_DEVICES"] for index in range(2)] == ["4", "7"]


def test_a_trial_computes_with_its_share_of_threads(parent: Parent, monkeypatch: pytest.MonkeyPatch):
    parent.worker.kill()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    events: queue.Queue[Any] = queue.Queue()
    other = Parent.__new__(Parent)
    other.events, other.worker = events, Worker("worker 1", Path("w.log"), environment(0, 3), events)
    other.trial(0, 1, "--run.threads=null", "--trainer.max_epochs=1")
    done = other.hear("done")
    other.worker.kill()
    assert read(Path("runs/tiny") / done["run"]).environment["threads"] == 2
