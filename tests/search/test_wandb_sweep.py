"""W&B's own command line runs our sweep files, against a local stand-in for its server (`wandb_stand_in`)."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb as wandb_client
import yaml
from lightsleeper.errors import UserError
from lightsleeper.recipe import shipped
from lightsleeper.search import wandb_sweep
from lightsleeper.search.sweep_file import read
from lightsleeper.tracking.record import Record
from lightsleeper.tracking.record import read as read_record
from lightsleeper.tracking.runs import scan
from search.wandb_stand_in import ENTITY, KEY, StandIn, serving
from tiny_runs import prepare, two_recipes, write

SWEEP = """\
program: tiny.yaml
project: tiny-sweeps
command: [lightning, run, "${program}", "--run.stages=[fit, finalize, test]", "${args}"]
method: grid
metric: {name: val/loss, goal: minimize}
parameters:
  model.width: {values: [4, 6]}
  seed_everything: {values: [5]}
"""
TRIALS = [{"model.width": 4, "seed_everything": 5}, {"model.width": 6, "seed_everything": 5}]
LIMIT_S = 900  # of a command that starts trials; each takes some 15 s of one core
TESTS = str(Path(__file__).resolve().parents[1])


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    paths = [TESTS, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    path = write()
    path.write_text(path.read_text().replace("tracking: {mode: disabled}", "tracking: {project: tiny}"))
    Path("sweep.yaml").write_text(SWEEP)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving(list(TRIALS)) as stand_in:
        for name, value in (("BASE_URL", stand_in.url), ("API_KEY", KEY), ("SILENT", "false")):
            monkeypatch.setenv(f"WANDB_{name}", value)
        before = {name: os.environ.get(name) for name in ("WANDB_ENTITY", "WANDB_PROJECT")}
        wandb_client.teardown()  # a process remembers the server it spoke to first
        yield stand_in
        for name, value in before.items():  # W&B's client sets them
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def wandb(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "wandb", *words], capture_output=True, text=True, timeout=LIMIT_S)


def records() -> list[Record]:
    runs, unreadable = scan(Path("runs"))
    assert unreadable == []
    return sorted((found.record for found in runs), key=lambda record: record.run_id)


def assert_is_trial(record: Record, server: StandIn, run: str) -> None:
    """The run is the agent's: its id, its values, its sweep, on both sides."""
    assert record.status == "finished"
    assert record.tracking["id"] == run
    assert record.tracking["project"] == "tiny-sweeps"  # the sweep's, whatever the recipe says
    assert {name: record.knobs[name] for name in server.given[run]} == server.given[run]
    assert record.sweep["id"] == "sweep0"
    assert record.sweep["parameters"] == server.given[run]
    assert record.sweep["value"] is not None
    told = server.runs[run]
    assert (told["sweep"], told["project"], told["exit"]) == ("sweep0", "tiny-sweeps", 0)
    assert told["summary"]["val/loss"] == pytest.approx(record.sweep["value"])
    assert sum("val/loss" in row for row in told["history"]) == 4  # epochs


# --- registration ---


@pytest.mark.slow
def test_wandb_takes_every_shipped_sweep_as_it_is(server: StandIn):
    for name, file in shipped("sweeps").items():
        result = wandb("sweep", str(file))
        assert result.returncode == 0, result.stderr
        assert "Violation" not in result.stderr
        registered = list(server.sweeps.values())[-1]
        assert yaml.safe_load(registered["config"]) == yaml.safe_load(file.read_text()), name
        assert registered["projectName"] == read(name).recipe({}).config["tracking"]["project"]
    assert len(server.sweeps) >= 5


def test_registering_prints_the_link(server: StandIn, capfd: pytest.CaptureFixture[str]):
    assert wandb_sweep.register(read("sweep.yaml")) == f"{ENTITY}/tiny-sweeps/sweep0"
    assert capfd.readouterr().out == f"sweep sweep0: {server.url}/{ENTITY}/tiny-sweeps/sweeps/sweep0\n"
    assert yaml.safe_load(server.sweeps["sweep0"]["config"]) == yaml.safe_load(SWEEP)


def test_a_sweep_without_a_project_goes_where_its_recipe_logs(server: StandIn):
    Path("sweep.yaml").write_text(SWEEP.replace("project: tiny-sweeps\n", ""))
    assert wandb_sweep.register(read("sweep.yaml")) == f"{ENTITY}/tiny/sweep0"


def test_a_server_that_does_not_answer_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr("wandb.sweep", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route\nto host")))
    with pytest.raises(UserError, match="W&B did not take the sweep: no route; --local runs it without"):
        wandb_sweep.register(read("sweep.yaml"))


def test_without_a_key_the_local_engine_is_named():
    with pytest.raises(UserError, match="no W&B key .*; --local runs the sweep without"):
        wandb_sweep.run_agents(read("sweep.yaml"), 1, None, Path("runs"))


def test_offline_the_local_engine_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match="WANDB_MODE is offline"):
        wandb_sweep.run_agents(read("sweep.yaml"), 1, None, Path("runs"))


@pytest.mark.parametrize(
    ("count", "agents", "shares"), [(None, 2, [None, None]), (5, 2, [3, 2]), (1, 3, [1]), (6, 3, [2, 2, 2])]
)
def test_a_count_is_shared_out_among_agents(count: int | None, agents: int, shares: list[Any]):
    assert wandb_sweep.split(count, agents) == shares


# --- agents and signals ---

# says how often it was interrupted, and ends at the second time
AGENT = """
import signal, sys, time
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(1))
print("ready", flush=True)
while len(caught) < {need}: time.sleep(0.01)
"""


def stand_in_agent(need: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", AGENT.format(need=need)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(
    ("sent", "need"), [([signal.SIGINT, signal.SIGINT], 2), ([signal.SIGINT], 1), ([signal.SIGTERM], 2)]
)
def test_signals_are_passed_on_to_every_agent(sent: list[int], need: int):
    processes = [stand_in_agent(need) for _ in range(2)]

    def send() -> None:
        for number in sent:
            time.sleep(0.5)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert wandb_sweep.wait(processes) == 130
    thread.join()
    assert [process.returncode for process in processes] == [0, 0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, 1], 1)])
def test_an_agent_that_fails_fails_the_command(codes: list[int], expected: int):
    processes = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in codes]
    assert wandb_sweep.wait(processes) == expected


# --- trials ---


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_wandb_sweep_and_wandb_agent_run_the_trials(server: StandIn):
    result = wandb("sweep", "sweep.yaml")
    assert f"wandb agent {ENTITY}/tiny-sweeps/sweep0" in result.stderr
    result = wandb("agent", f"{ENTITY}/tiny-sweeps/sweep0")
    assert result.returncode == 0, result.stderr
    assert server.unknown == []
    assert list(server.given) == list(server.runs) == ["run0", "run1"]
    for record, run in zip(records(), server.given, strict=True):
        assert_is_trial(record, server, run)
        assert (record.sweep["metric"], record.sweep["goal"]) == ("val/loss", "minimize")  # the recipe's, untold


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_our_command_registers_runs_two_agents_and_times_the_models_afterwards(server: StandIn):
    Path("sweep.yaml").write_text(SWEEP.replace("[fit, finalize, test]", "[fit, finalize, test, export, benchmark]"))
    command = [sys.executable, "-m", "lightsleeper", "sweep", "sweep.yaml", "--agents", "2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert result.returncode == 0, result.stderr
    assert f"{server.url}/{ENTITY}/tiny-sweeps/sweeps/sweep0" in result.stdout
    assert len(server.agents) == 2
    for record in records():
        assert_is_trial(record, server, record.tracking["id"])
        entry = {key: record.sweep[key] for key in ("name", "method", "metric", "goal", "attempt", "pruned")}
        expected = {"name": "sweep", "method": "grid", "metric": "val/loss", "goal": "minimize"}
        assert entry == {**expected, "attempt": 1, "pruned": False}
        assert record.stages["benchmark"] == "finished"
        assert record.artifacts[0]["latency"][0]["p50_ms"] > 0
        text = (read_folder(record) / "log.txt").read_text()
        assert text.index("benchmark: left for later") < text.index("benchmark: done")
    assert len(list(Path("runs/.sweeps/sweep0").glob("agent-*.log"))) == 2
    assert set(server.runs) == {"run0", "run1"}  # timed under their own ids
    assert all("artifacts.0.latency.p50_ms" in run["summary"] for run in server.runs.values())


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_a_step_of_a_trial_is_a_run_of_its_own_beside_the_sweep(server: StandIn):
    both = two_recipes()
    for path in (both, Path("step.yaml")):
        path.write_text(path.read_text().replace("mode: disabled", "project: tiny"))
    Path("sweep.yaml").write_text(SWEEP.replace("program: tiny.yaml", "program: both.yaml"))
    server.trials = TRIALS[:1]
    wandb("sweep", "sweep.yaml")
    assert wandb("agent", f"{ENTITY}/tiny-sweeps/sweep0").returncode == 0
    [step] = [record for record in records() if record.recipe == "step"]
    [trial] = [record for record in records() if record.recipe == "both"]
    assert_is_trial(trial, server, "run0")
    assert step.status == "finished"
    assert step.sweep == {}
    assert set(server.runs) == {"run0", step.tracking["id"]}
    told = server.runs[step.tracking["id"]]
    assert (told.get("sweep"), told["project"], told["exit"]) == (None, "tiny", 0)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_a_trial_that_wandb_stops_ends_cleanly_and_is_no_failure_to_the_agent(server: StandIn):
    Path("sweep.yaml").write_text(
        SWEEP.replace("[fit, finalize, test]", "[fit]").replace('[fit]"', '[fit]", --trainer.max_epochs=2000')
    )
    server.stop_after = 20
    wandb("sweep", "sweep.yaml")
    result = wandb("agent", f"{ENTITY}/tiny-sweeps/sweep0")
    assert result.returncode == 0
    assert result.stderr.count("Agent received command: stop") >= 2
    assert "failed runs" not in result.stderr
    for record, run in zip(records(), ["run0", "run1"], strict=True):
        assert (record.status, record.tracking["id"]) == ("interrupted", run)
        assert (read_folder(record) / "checkpoints" / "last.ckpt").exists()
        assert server.runs[run]["exit"] is not None  # it has said goodbye


def read_folder(record: Record) -> Path:
    folder = Path("runs") / record.recipe / record.run_id
    assert read_record(folder).run_id == record.run_id
    return folder
