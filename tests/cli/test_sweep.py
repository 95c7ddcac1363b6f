"""`lightning sweep` from its command line, with workers forked from the test."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightsleeper.cli import main
from lightsleeper.tracking.record import read
from tiny_runs import assert_equal_runs, prepare, start
from tiny_sweeps import FIT, fork_workers, trials, write_sweep

Run = Callable[..., tuple[int, str, str]]
STAGES = "--run.stages=[fit,finalize,test]"


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    fork_workers(monkeypatch)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["sweep", *words])
        return code, *capsys.readouterr()

    return run


# --- a whole sweep ---


def test_a_sweep_runs_every_trial_as_a_plain_run_and_says_which_was_best(sweep: Run, tmp_path: Path):
    code, out, _ = sweep(str(write_sweep(tmp_path, STAGES)), "--workers", "2", "--id", "s-1")
    assert code == 0, out
    records = {number: found[0] for number, found in trials().items()}
    assert sorted(records) == [0, 1, 2, 3]
    assert [records[number].knobs["model.width"] for number in range(4)] == [4, 4, 8, 8]
    values = {number: record.sweep["value"] for number, record in records.items()}
    best = min(values, key=lambda number: values[number])
    assert f"best: trial {best}, val/loss {values[best]:.4g}" in out
    assert "4 trials: 4 done" in out
    assert "lightning dashboard" in out
    entry = records[2].sweep
    assert {**entry, "value": None} == {
        "id": "s-1",
        "name": "sweep",
        "method": "grid",
        "metric": "val/loss",
        "goal": "minimize",
        "trial": 2,
        "attempt": 1,
        "parameters": {"model.width": 8, "data.rows": 32},
        "value": None,
        "pruned": False,
    }
    alone = start(Path("tiny.yaml"), STAGES, "--data.rows=32", "--model.width=8", "--tracking.group=s-1", runs="alone")
    assert_equal_runs(alone, Path("runs/tiny") / records[2].run_id)
    assert read(alone).sweep == {}


def test_benchmarks_are_done_at_the_end_one_at_a_time_and_made_up_for_by_resume(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lightsleeper.search.engine.Engine._benchmarks", lambda self: None)  # killed right then
    path = write_sweep(tmp_path, parameters={"model.width": {"values": [4, 8]}})
    code, out, _ = sweep(str(path), "--workers", "2")
    assert code == 0, out
    for found in trials().values():
        assert (found[0].status, found[0].stages["benchmark"]) == ("finished", "deferred")
        assert "latency" not in found[0].artifacts[0]
        assert found[0].size["parameters"] > 0  # known before: an objective
    monkeypatch.undo()
    prepare(monkeypatch, tmp_path)
    fork_workers(monkeypatch)
    code, out, _ = sweep("--resume")
    assert code == 0, out
    assert "benchmark 2/2" in out
    for found in trials().values():
        assert len(found) == 1
        assert found[0].stages["benchmark"] == "finished"
        assert found[0].artifacts[0]["latency"][0]["p50_ms"] > 0
    assert "benchmark 1/" not in sweep("--resume", "last")[1]


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, parameters={"data.fail": {"values": ["user", "bug", "no"]}})
    code, out, _ = sweep(str(path))
    assert code == 0, out
    assert "3 trials: 1 done, 2 failed" in out
    assert "clip 3 of the manifest is no audio file." in out
    records = {number: found[0] for number, found in trials().items()}
    assert [records[number].status for number in range(3)] == ["failed", "failed", "finished"]
    assert records[1].error == "ZeroDivisionError: division by zero"


def test_a_sweep_of_which_every_trial_failed_ends_with_1(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, parameters={"data.fail": {"value": "user"}})
    assert sweep(str(path))[0] == 1


def test_count_begins_so_many_trials_and_resume_does_the_rest(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1")
    code, out, _ = sweep(str(path), "--count", "1", "--id", "s-1")
    assert code == 0
    assert "1 done, 3 waiting" in out
    assert "continue: lightning sweep --resume s-1" in out
    assert "2 done, 2 waiting" in sweep("--resume", "s-1", "--count", "1")[1]
    assert "4 trials: 4 done" in sweep(str(path), "--id", "s-1", "--workers", "2")[1]  # the same name joins
    assert {number: len(found) for number, found in trials().items()} == dict.fromkeys(range(4), 1)


def test_bayes_draws_as_many_trials_as_count_says(sweep: Run, tmp_path: Path):
    parameters = {"model.width": {"min": 2, "max": 12}}
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1", parameters=parameters, method="bayes")
    assert "set run_cap in" in sweep(str(path))[2]
    code, out, _ = sweep(str(path), "--count", "3")
    assert code == 0
    assert "3 trials: 3 done" in out
    assert all(2 <= found[0].knobs["model.width"] <= 12 for found in trials().values())


def test_objectives_are_read_from_record_and_metrics(sweep: Run, tmp_path: Path):
    parameters = {"model.width": {"min": 2, "max": 12}}
    path = write_sweep(tmp_path, "--trainer.max_epochs=1", parameters=parameters, method="bayes", run_cap=2)
    code, out, _ = sweep(str(path), "--objectives", "val/loss,size.parameters,artifact.bytes")
    assert code == 0, out
    for found in trials().values():
        assert f"size.parameters {found[0].size['parameters']}" in out
        assert f"artifact.bytes {found[0].artifacts[0]['bytes']}" in " ".join(out.split())


@pytest.mark.slow
def test_hyperband_stops_trials_but_none_inside_a_ramp(sweep: Run, tmp_path: Path):
    parameters = {"model.width": {"values": [16, 8, 6, 4, 3, 2]}}  # each worse than the one before
    prune = "--callbacks.prune={class_path: tiny_family.TinyPrune}"  # reaches its target with the second of four epochs
    rule = {"type": "hyperband", "min_iter": 1, "eta": 2}
    path = write_sweep(tmp_path, FIT, prune, parameters=parameters, early_terminate=rule)
    code, out, _ = sweep(str(path), "--id", "s-1")  # the name decides which trials share a bracket
    assert code == 0, out
    epochs = {number: len(_validated(found[0])) for number, found in trials().items()}
    pruned = {number for number, found in trials().items() if found[0].sweep["pruned"]}
    assert pruned
    assert f"{len(pruned)} stopped early" in out
    assert all(epochs[number] >= 2 for number in pruned)
    assert all(epochs[number] == 4 for number in set(epochs) - pruned)


def _validated(record: Any) -> list[str]:
    lines = (Path("runs/tiny") / record.run_id / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/loss")
    return [line for line in lines[1:] if line.split(",")[column]]


# --- before anything runs ---


def test_a_dry_run_shows_the_trials_and_writes_nothing(sweep: Run, tmp_path: Path):
    code, out, _ = sweep(str(write_sweep(tmp_path, FIT)), "--dry-run")
    assert code == 0
    assert "fixed: --run.stages=[fit]" in out
    assert "trial 3: model.width=8 data.rows=48" in out
    assert "4 trials" in out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("parameters", "keys", "said"),
    [
        ({"model.widht": {"values": [4]}}, {}, "widht"),
        ({"model.width": {"values": [4, "wide"]}}, {}, "model.width=wide: "),
        ({"callbacks.prune.sparsity": {"values": [0.5]}}, {}, "callbacks.prune"),
        ({"trainer.devices": {"value": 2}}, {}, "a trial is one process on one device"),
        ({"run.stages": {"value": ["finalize"]}}, {}, "a trial needs fit"),
    ],
)
def test_what_no_trial_can_do_is_refused_before_the_first(
    sweep: Run, tmp_path: Path, parameters: Any, keys: Any, said: str
):
    code, out, err = sweep(str(write_sweep(tmp_path, parameters=parameters, **keys)))
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(Path("runs").glob(".sweeps/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no sweep file given"),
        (("nowhere.yaml",), "no sweep 'nowhere.yaml'"),
        (("--resume",), "no sweep 'last': none was started in runs"),
        (("sweep.yaml", "--resume", "x", "--id", "y"), "both name a sweep"),
        (("sweep.yaml", "--id", "a/b"), "--id 'a/b': expected"),
        (("sweep.yaml", "--agents", "2"), "no W&B key (`wandb login`"),
        (("sweep.yaml", "--agents", "2", "--local"), "--agents are W&B's"),
        (("sweep.yaml", "--workers", "0"), "at least 1"),
        (("sweep.yaml", "--objectives", "val/loss"), "expected two or more"),
        (("sweep.yaml", "--objectives", "val/loss,artifact.bytes"), "steer method bayes, not grid"),
        (("sweep.yaml", "--objectives", "val/loss,latency.p50_ms"), "'latency.p50_ms' is measured after all trials"),
        (("sweep.yaml", "--objectives", "val/loss,size.nonzeros"), "Did you mean 'size.nonzero'?"),
        (("sweep.yaml", "--objectives", "val/loss,val/auc"), "Write val/auc:max or val/auc:min"),
        (("sweep.yaml", "--storage", "what"), "expected a URL such as"),
        (("sweep.yaml", "--slurm"), "--slurm: the nodes meet in a database"),
        (("sweep.yaml", "--slurm", "--slurm-set", "cluster=moon"), "expected slurm, or local"),
        (("sweep.yaml", "--slurm", "--slurm-set", "timeout"), "expected KEY=VALUE"),
    ],
)
def test_a_wrong_line_is_one_line_and_2(sweep: Run, tmp_path: Path, words: tuple[str, ...], said: str):
    write_sweep(tmp_path, FIT)
    code, _, err = sweep(*words)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_agents_are_not_dropped_where_wandb_is_offline(sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_sweep(tmp_path, FIT)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, _, err = sweep("sweep.yaml", "--agents", "2")
    assert code == 2
    assert "WANDB_MODE is offline, and W&B's agents need its server" in err
    assert not Path("runs").exists()


def test_a_sweep_of_another_machine_is_joined_by_the_variable(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1", parameters={"model.width": {"value": 4}})
    monkeypatch.setenv("LIGHTSLEEPER_STORAGE", f"sqlite:///{tmp_path}/shared.sqlite")
    joined: list[Any] = []
    monkeypatch.setattr("lightsleeper.search.local.run", lambda request: joined.append(request) or 0)
    code, _, err = sweep(str(path), "--resume", "june")
    assert code == 0, err
    assert (joined[0].id, joined[0].create) == ("june", False)


def test_objectives_and_early_terminate_exclude_each_other(sweep: Run, tmp_path: Path):
    rule = {"type": "hyperband", "min_iter": 1}
    path = write_sweep(tmp_path, FIT, method="bayes", run_cap=2, early_terminate=rule)
    code, _, err = sweep(str(path), "--objectives", "val/loss,artifact.bytes")
    assert code == 2
    assert "stopping early needs one number" in err


def test_a_metric_that_no_epoch_logs_stops_the_sweep_at_its_first_trial(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, metric={"name": "val/auc", "goal": "maximize"})
    code, _, err = sweep(str(path), "--id", "s-1")
    assert code == 2
    assert "'val/auc', which no epoch logs; logged: ['val/accuracy', 'val/loss']" in err
    assert list(trials()) == [0]


def test_a_changed_sweep_is_not_resumed_under_the_same_name(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1")
    assert sweep(str(path), "--id", "s-1", "--count", "1")[0] == 0
    changed = write_sweep(tmp_path, FIT, "--trainer.max_epochs=2")
    code, _, err = sweep(str(changed), "--id", "s-1")
    assert code == 2
    assert "'s-1' exists with other settings: recipe differ" in err


def test_an_unknown_id_is_refused_with_the_nearest(sweep: Run, tmp_path: Path):
    assert sweep(str(write_sweep(tmp_path, FIT, "--trainer.max_epochs=1")), "--id", "monday", "--count", "1")[0] == 0
    assert "Did you mean 'monday'?" in sweep("--resume", "mondya")[2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_that_cannot_be_written_is_refused(sweep: Run, tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o500)
    code, _, err = sweep(str(write_sweep(tmp_path, FIT)), "--runs-dir", "closed/runs")
    assert code == 2
    assert "cannot be written" in err


def test_a_runs_folder_that_is_a_file_is_refused(sweep: Run, tmp_path: Path):
    Path("runs").write_text("")
    code, _, err = sweep(str(write_sweep(tmp_path, FIT)))
    assert code == 2
    assert "cannot be written" in err


def test_a_disk_that_fills_up_stops_the_sweep_and_leaves_its_trials_resumable(
    sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_sweep(tmp_path, FIT, parameters={"model.width": {"values": [4, 8]}})
    monkeypatch.setenv("TINY_STOP", "step:14:disk")
    code, _, err = sweep(str(path), "--id", "s-1")
    assert code == 2
    assert "is full" in err
    assert "lightning sweep --resume s-1" in err
    monkeypatch.delenv("TINY_STOP")
    assert "2 trials: 2 done" in sweep("--resume", "s-1")[1]
    assert {number: len(found) for number, found in trials().items()} == {0: 1, 1: 1}


def test_the_sweep_folder_holds_no_password(sweep: Run, tmp_path: Path):
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1", parameters={"model.width": {"value": 4}})
    assert sweep(str(path), "--id", "s-1", "--storage", f"sqlite:///{tmp_path}/own.sqlite")[0] == 0
    known = json.loads(Path("runs/.sweeps/s-1/sweep.json").read_text())
    assert known["storage"].endswith("own.sqlite")
    assert "1 done" in sweep("--resume", "s-1")[1]


@pytest.mark.slow
def test_slurm_jobs_share_a_study(sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    submitit = pytest.importorskip("submitit")
    jobs: list[Any] = []
    original = submitit.AutoExecutor.map_array
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", lambda *words: jobs.extend(original(*words)) or jobs)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    path = write_sweep(tmp_path, FIT, "--trainer.max_epochs=1")
    code, out, err = sweep(
        str(path), "--id", "s-1", "--slurm", "--slurm-set", "cluster=local", "--slurm-set", "timeout_min=5",
        "--workers", "2",
    )  # fmt: skip
    assert code == 0, err
    assert "2 jobs" in out
    assert [job.result() for job in jobs] == [0, 0]
    assert {number: len(found) for number, found in trials().items()} == dict.fromkeys(range(4), 1)
    assert oct(Path("runs/.sweeps/s-1/slurm").stat().st_mode & 0o777) == "0o700"
