"""Whatever dies, and whenever: every trial is there exactly once, with the numbers of an undisturbed run."""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.search import engine
from lightsleeper.tracking.record import read, status_of
from tiny_runs import prepare, start
from tiny_sweeps import FIT, fork_workers, open_study, settings, trials, write_sweep

LONG = (FIT, "--trainer.max_epochs=25")  # some seconds
TWELVE = {"model.width": {"values": [4, 8, 12]}, "data.rows": {"values": [32, 48, 64, 80]}}


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    fork_workers(monkeypatch)


class Sweep:
    """`lightning sweep WORDS` in a forked process, its output in a file."""

    def __init__(self, *words: str) -> None:
        self.output = Path("sweep.out")
        self._process = multiprocessing.get_context("fork").Process(target=self._run, args=(words,))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def _run(self, words: tuple[str, ...]) -> None:
        with self.output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = main(["sweep", *words])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def workers(self) -> list[int]:
        """Ids of its child processes."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def until(self, reached: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not reached():
            assert self.alive, self.output.read_text()
            assert time.monotonic() < end, self.output.read_text()
            time.sleep(0.02)

    def wait(self) -> int:
        self._process.join(400)
        assert self._process.exitcode is not None, self.output.read_text()
        return self._process.exitcode


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def training() -> bool:
    return any("last.ckpt" in str(path) for path in Path("runs").glob("tiny/*/checkpoints/last.ckpt"))


def assert_each_once(wanted: int) -> None:
    assert {number: len(found) for number, found in trials().items()} == dict.fromkeys(range(wanted), 1)
    assert [status_of(found[0]) for found in trials().values()] == ["finished"] * wanted


def chaos(kills: int, seed: int, epochs: int) -> None:
    """A sweep of twelve trials, disturbed ``kills`` times, then resumed to its end."""
    dice = random.Random(seed)
    path = write_sweep(Path.cwd(), FIT, f"--trainer.max_epochs={epochs}", parameters=TWELVE)
    sweep = Sweep(str(path), "--workers", "2", "--id", "s-1")
    for number in range(kills):
        if not sweep.alive:
            sweep.wait()
            known = Path("runs/.sweeps/s-1/sweep.json").exists()
            sweep = Sweep(*(["--resume", "s-1"] if known else [str(path), "--id", "s-1"]), "--workers", "2")
        ended = number * 10 // kills  # spread over the whole sweep, and never after its end
        sweep.until(lambda: sum(found[0].status == "finished" for found in trials().values()) >= ended)  # noqa: B023
        if number % 3 == 0:  # the parent, in whatever it does, checks included
            time.sleep(dice.uniform(0.1, 4.0))
            kill(sweep.pid)
            sweep.wait()
        else:
            sweep.until(lambda: bool(sweep.workers()))  # noqa: B023 - called before the next round
            time.sleep(dice.uniform(0.0, 2.0))
            kill(dice.choice(sweep.workers() or [sweep.pid]))
    sweep.wait()
    assert Sweep("--resume", "s-1", "--workers", "2").wait() == 0, Path("sweep.out").read_text()
    assert_each_once(12)
    rows = open_rows()
    assert [state for state, _ in rows] == ["done"] * 12
    assert [value for _, value in rows] == [trials()[number][0].sweep["value"] for number in range(12)]


def open_rows() -> list[tuple[str, float]]:
    """(state, value) of every trial in the study, read as another program would."""
    import optuna

    study = optuna.load_study(study_name="s-1", storage="sqlite:///runs/.sweeps/s-1/study.sqlite")
    return [("done" if trial.state.name == "COMPLETE" else trial.state.name, trial.value) for trial in study.trials]


@pytest.mark.slow
def test_workers_and_parent_killed_at_random_every_trial_is_there_exactly_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "DEATHS", 100)  # these deaths are no trial's fault
    chaos(kills=3, seed=1, epochs=12)
    number = max(trials(), key=lambda number: trials()[number][0].sweep["attempt"])
    (record,) = trials()[number]
    assert record.sweep["attempt"] > 1
    point = [f"--{name}={value}" for name, value in record.sweep["parameters"].items()]
    alone = start(Path("tiny.yaml"), FIT, "--trainer.max_epochs=12", *point, runs="alone")
    ours = Path("runs/tiny") / record.run_id
    assert (alone / "metrics.csv").read_bytes() == (ours / "metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [7, 8])
def test_killed_at_fifteen_random_moments_every_trial_is_there_exactly_once(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "DEATHS", 100)
    chaos(kills=15, seed=seed, epochs=25)


def test_a_trial_that_kills_its_worker_three_times_has_failed_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_sweep(tmp_path, FIT, parameters={"trainer.max_epochs": {"values": [2, 1]}})
    monkeypatch.setenv("TINY_STOP", "step:7:kill")  # in the second epoch, so every attempt gets there
    sweep = Sweep(str(path), "--id", "s-1")
    assert sweep.wait() == 0
    out = sweep.output.read_text()
    assert "killed by signal 9 (out of memory?)" in out
    assert "2 trials: 1 done, 1 failed" in out
    records = {number: found[0] for number, found in trials().items()}
    assert (records[0].status, records[1].status) == ("failed", "finished")
    assert records[0].error is not None
    assert records[0].error.startswith("its worker died 3 times, at last killed by signal 9")


def test_ctrl_c_stops_everything_once_and_says_how_to_continue(tmp_path: Path):
    sweep = Sweep(str(write_sweep(tmp_path, *LONG)), "--workers", "2", "--id", "s-1")
    sweep.until(training)
    children = sweep.workers()
    for pid in (sweep.pid, *children):  # a terminal signals the whole group
        os.kill(pid, signal.SIGINT)
    assert sweep.wait() == 130
    out = sweep.output.read_text()
    assert "Resume: lightning sweep --resume s-1" in out
    assert "Traceback" not in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert {status_of(found[0]) for found in trials().values()} <= {"interrupted", "finished"}
    assert Sweep("--resume").wait() == 0
    assert_each_once(4)


def test_a_sweep_whose_parent_was_killed_is_resumed_where_its_trials_stopped(tmp_path: Path):
    sweep = Sweep(str(write_sweep(tmp_path, *LONG)), "--workers", "2", "--id", "s-1")
    sweep.until(training)
    children = sweep.workers()
    kill(sweep.pid)
    sweep.wait()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)
    assert Sweep("--resume", "s-1", "--workers", "2").wait() == 0
    assert_each_once(4)
    assert any(found[0].sweep["attempt"] == 2 for found in trials().values())


def test_a_trial_that_ended_unnoticed_is_noted_and_not_run_again(tmp_path: Path):
    path = write_sweep(tmp_path, FIT, parameters={"model.width": {"value": 4}})
    assert Sweep(str(path), "--id", "s-1").wait() == 0
    before = next(Path("runs").glob("tiny/*/metrics.csv")).stat().st_mtime_ns
    # as if the parent had died between the end of the run and its note of it
    for file in Path("runs/.sweeps/s-1").glob("study.*"):
        file.unlink()
    sweep_settings = settings(parameters={"model.width": {"value": 4}})
    assert open_study(Path("runs/.sweeps/other"), sweep_settings).unfinished() == 1
    process = multiprocessing.get_context("fork").Process(target=_claim_and_die, args=(str(path),))
    process.start()
    process.join()
    assert Sweep("--resume", "s-1").wait() == 0
    assert_each_once(1)
    assert next(Path("runs").glob("tiny/*/metrics.csv")).stat().st_mtime_ns == before


def _claim_and_die(path: str) -> None:
    from lightsleeper.search import local, sweep_file

    study = local.opened(local.Request(sweep_file.read(path), "s-1", Path("runs")))
    assert study.take(os.getpid()) is not None
    os._exit(9)


@pytest.mark.slow
def test_two_parents_share_one_study(tmp_path: Path):
    path = write_sweep(tmp_path, FIT, parameters=TWELVE)
    first = Sweep(str(path), "--id", "s-1")
    second = Sweep(str(path), "--id", "s-1")
    assert (first.wait(), second.wait()) == (0, 0)
    assert_each_once(12)
    pids = {found[0].process["pid"] for found in trials().values() if found[0].process}
    assert len(pids) == 2


@pytest.mark.slow
def test_required_steps_run_once_for_all_trials(tmp_path: Path):
    from tiny_runs import two_recipes

    two_recipes()
    step = Path("step.yaml")
    step.write_text(step.read_text().replace("[fit, finalize]", "[fit, finalize, export, benchmark]"))
    path = write_sweep(tmp_path, program="both.yaml", parameters={"data.rows": {"values": [32, 48]}})
    sweep = Sweep(str(path), "--workers", "2")
    assert sweep.wait() == 0, sweep.output.read_text()
    (folder,) = Path("runs/step").iterdir()
    assert "benchmark 1/1" in sweep.output.read_text()  # its own, which was left for the end too
    assert "left for later" in (folder / "log.txt").read_text()
    assert read(folder).artifacts[0]["latency"][0]["p50_ms"] > 0
    assert len(list(Path("runs/both").iterdir())) == 2
