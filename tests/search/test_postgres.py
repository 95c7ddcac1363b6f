"""Processes in different folders that share nothing but a PostgreSQL finish a study together."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightsleeper.cli import main
from lightsleeper.search import claims, engine
from tiny_runs import prepare
from tiny_sweeps import FIT, fork_workers, trials, write_sweep

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not PROGRAMS and not shutil.which("initdb"), reason="no PostgreSQL server is installed"),
]
fork = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a server of our own, on a socket in a folder of its own; it refuses to run as root."""
    pytest.importorskip("psycopg")
    programs = PROGRAMS[-1].parent if PROGRAMS else Path(str(shutil.which("initdb"))).parent
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has at most 107 characters
    user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **user}
    data = folder / "data"
    subprocess.run([programs / "initdb", "-D", data, "-U", "tester", "-A", "trust"], check=True, **quiet)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    process = subprocess.Popen([programs / "postgres", "-D", data, *options], **quiet)
    url = f"postgresql://tester@/postgres?host={folder}"
    try:
        import psycopg

        for _ in range(200):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None
                time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path, place: str, *words: str) -> None:
    """`lightning sweep` as on a machine called ``place``."""
    os.chdir(folder)
    with Path("out.txt").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    claims.machine = lambda: place
    code = main(["sweep", "sweep.yaml", *words])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def states(url: str, name: str) -> list[str]:
    import optuna

    study = optuna.load_study(study_name=name, storage=url.replace("postgresql:", "postgresql+psycopg:"))
    return [trial.state.name for trial in study.trials]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    prepare(monkeypatch, tmp_path)
    fork_workers(monkeypatch)
    found = [tmp_path / "a", tmp_path / "b"]
    for folder in found:
        folder.mkdir()
        write_sweep(folder, FIT, "--trainer.max_epochs=8", parameters={"model.width": {"values": list(range(2, 10))}})
    return found


@pytest.mark.slow
def test_two_machines_finish_a_study_together_and_no_trial_runs_twice(server: str, folders: list[Path]):
    words = ("--storage", server, "--id", "pg-1")
    processes = [fork.Process(target=sweep, args=(folder, str(folder), *words)) for folder in folders]
    for process in processes:
        process.start()
    for process, folder in zip(processes, folders, strict=True):
        process.join(200)
        assert process.exitcode == 0, (folder / "out.txt").read_text()
    shares = [trials(folder / "runs") for folder in folders]
    assert all(shares)
    assert sorted([*shares[0], *shares[1]]) == list(range(8))
    assert all(len(found) == 1 for share in shares for found in share.values())
    assert states(server, "pg-1") == ["COMPLETE"] * 8


@pytest.mark.slow
def test_the_trial_of_a_machine_that_died_runs_again_on_the_other(
    server: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(claims, "GRACE_S", 4.0)
    monkeypatch.setattr(engine, "BEAT_S", 0.5)
    words = ("--storage", server, "--id", "pg-2")
    doomed = fork.Process(target=sweep, args=(folders[1], "b", *words))
    doomed.start()
    while not trials(folders[1] / "runs"):
        assert doomed.is_alive(), (folders[1] / "out.txt").read_text()
        time.sleep(0.02)
    doomed.kill()
    doomed.join()
    other = fork.Process(target=sweep, args=(folders[0], "a", *words))
    other.start()
    other.join(250)
    assert other.exitcode == 0, (folders[0] / "out.txt").read_text()
    assert states(server, "pg-2") == ["COMPLETE"] * 8
    ours = trials(folders[0] / "runs")
    assert all(len(found) == 1 for found in ours.values())
    assert any(found[0].sweep["attempt"] == 2 for found in ours.values())
