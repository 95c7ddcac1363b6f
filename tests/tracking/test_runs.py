import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lightsleeper.errors import UserError
from lightsleeper.tracking.record import Record, read
from lightsleeper.tracking.runs import (
    Found,
    differences,
    find,
    finished_with,
    locked,
    new_folder,
    parse_age,
    removable,
    remove,
    runs_root,
    scan,
)


def make(root: Path, run_id: str, recipe: str = "tiny", **fields: object) -> Path:
    folder = root / recipe / run_id
    folder.mkdir(parents=True)
    values = {"family": "Tiny", "seed": 1, "group": "g", "hash": "h", "config": {}, "knobs": {}, "status": "finished"}
    values |= {"started": "2026-11-01T12:00:00+00:00", **fields}
    record = Record(run_id=run_id, recipe=recipe, **values)  # type: ignore[arg-type]
    (folder / "record.json").write_text(record.to_json())
    return folder


def test_the_runs_folder_is_given_or_a_variable_or_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LIGHTSLEEPER_RUNS", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("LIGHTSLEEPER_RUNS", "/somewhere")
    assert runs_root() == Path("/somewhere")
    assert runs_root("here") == Path("here")


def test_a_run_is_found_by_id_prefix_path_and_last(tmp_path: Path):
    first = make(tmp_path, "20261101-120000-aaaa")
    second = make(tmp_path, "20261102-120000-bbbb", "other")
    assert find("20261101-120000-aaaa", tmp_path) == first
    assert find("20261102", tmp_path) == second
    assert find(first, tmp_path) == first
    assert find(first / "record.json", tmp_path) == first
    assert find("last", tmp_path) == second
    assert find("last", tmp_path, recipe="tiny") == first


def test_the_step_of_a_run_is_not_the_last_run(tmp_path: Path):
    run = make(tmp_path, "20261101-120000-aaaa")
    make(tmp_path, "20261101-120001-bbbb", "encoder", parent=run.name)
    assert find("last", tmp_path) == run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("202611", "'202611' is the start of 2 runs: 20261101-120000-aaaa, 20261102-120000-bbbb."),
        ("20261101-120000-aaab", "Did you mean '20261101-120000-aaaa'?"),
        ("", "no run ''"),
    ],
)
def test_an_unclear_name_is_refused(tmp_path: Path, name: str, message: str):
    make(tmp_path, "20261101-120000-aaaa")
    make(tmp_path, "20261102-120000-bbbb")
    with pytest.raises(UserError) as caught:
        find(name or "zzz", tmp_path)
    assert message.replace("''", "'zzz'") in str(caught.value)


@pytest.mark.parametrize("name", ["last", "2026"])
def test_without_runs_the_folder_is_named(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=f"there are no runs under {tmp_path}"):
        find(name, tmp_path)


def test_a_damaged_record_hides_no_other_run(tmp_path: Path):
    good = make(tmp_path, "20261101-120000-aaaa")
    bad = make(tmp_path, "20261102-120000-bbbb")
    (bad / "record.json").write_text("{")
    found, unreadable = scan(tmp_path)
    assert [entry.folder for entry in found] == [good]
    assert len(unreadable) == 1
    assert find("last", tmp_path) == good


def test_new_folders_are_never_shared_and_sort_by_age(tmp_path: Path):
    """More than a second has room for: the rest waits for the next."""
    folders = [new_folder(tmp_path, "tiny") for _ in range(25)]
    names = [folder.name for folder in folders]
    assert names == sorted(set(names))
    assert all(folder.is_dir() for folder in folders)


def test_only_a_finished_run_with_all_stages_and_its_model_is_reused(tmp_path: Path):
    done = {"fit": "finished", "finalize": "finished"}
    good = make(tmp_path, "20261101-120000-aaaa", stages=done)
    (good / "export").mkdir()
    (good / "export" / "model.json").write_text("{}")
    make(tmp_path, "20261102-120000-bbbb", stages=done)  # its model was deleted
    make(tmp_path, "20261103-120000-cccc", stages={"fit": "finished"})
    make(tmp_path, "20261104-120000-dddd", stages=done, status="failed")
    make(tmp_path, "20261105-120000-eeee", stages=done, hash="other")
    assert finished_with(tmp_path, "tiny", "h", {"fit", "finalize"}) == good
    assert finished_with(tmp_path, "tiny", "h", {"fit"}) == tmp_path / "tiny" / "20261103-120000-cccc"
    assert finished_with(tmp_path, "tiny", "h", {"fit", "test"}) is None


def test_a_run_that_its_sweep_stopped_early_is_not_reused(tmp_path: Path):
    done = {"fit": "finished"}
    whole = make(tmp_path, "20261101-120000-aaaa", stages=done, sweep={"id": "s-1", "pruned": False})
    make(tmp_path, "20261102-120000-bbbb", stages=done, sweep={"id": "s-1", "pruned": True})
    assert finished_with(tmp_path, "tiny", "h", {"fit"}) == whole


def test_only_a_run_that_still_has_the_formats_is_reused(tmp_path: Path):
    def exported(run_id: str, *formats: str) -> Path:
        artifacts = [{"format": name, "path": f"export/model.{name}"} for name in formats]
        folder = make(tmp_path, run_id, stages={"export": "finished"}, artifacts=artifacts)
        (folder / "export").mkdir()
        for name in formats:
            (folder / "export" / f"model.{name}").touch()
        return folder

    both = exported("20261101-120000-aaaa", "onnx", "packed")
    exported("20261102-120000-bbbb", "onnx")
    lost = exported("20261103-120000-cccc", "onnx", "packed")
    (lost / "export" / "model.packed").unlink()
    assert finished_with(tmp_path, "tiny", "h", {"export"}, {"packed"}) == both
    assert finished_with(tmp_path, "tiny", "h", {"export"}, {"onnx"}) == lost
    assert finished_with(tmp_path, "tiny", "h", {"export"}, {"coreml"}) is None


def test_differences_are_named_by_dotted_setting(tmp_path: Path):
    first = read(make(tmp_path, "a", knobs={"model.dim": 1, "seed_everything": 1, "model.only": 2}))
    second = read(make(tmp_path, "b", knobs={"model.dim": 2, "seed_everything": 1}))
    assert differences(first, second) == {"model.dim": (1, 2), "model.only": (2, None)}


# --- cleaning ---


def test_cleaning_takes_what_fits_and_never_a_running_one(tmp_path: Path):
    alive = {"pid": os.getpid(), "host": os.uname().nodename, "birth": None, "heartbeat": "2026-11-01T12:00:00+00:00"}
    gone = {**alive, "pid": 2**22 + 1}
    make(tmp_path, "1-running", status="running", process=alive)
    make(tmp_path, "2-died", status="running", process=gone)
    make(tmp_path, "3-failed", status="failed")
    make(tmp_path, "4-young", status="failed", started="2026-11-22T12:00:00+00:00")
    make(tmp_path, "5-fine")
    runs = scan(tmp_path)[0]
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def chosen(statuses: set[str], older_than: timedelta | None = None) -> list[str]:
        return [found.folder.name for found in removable(runs, statuses, older_than, now)]

    assert chosen({"failed"}) == ["3-failed", "4-young"]
    assert chosen({"died"}) == ["2-died"]
    assert chosen({"failed"}, timedelta(days=7)) == ["3-failed"]
    assert chosen(set(), timedelta(days=7)) == ["2-died", "3-failed", "5-fine"]


def test_a_run_that_was_taken_up_again_is_kept(tmp_path: Path):
    folder = make(tmp_path, "1-failed", status="failed")
    stale = Found(folder, read(folder))
    alive = {"pid": os.getpid(), "host": os.uname().nodename, "birth": None, "heartbeat": "2026-11-01T12:00:00+00:00"}
    record = read(folder)
    record.status, record.process = "running", alive  # type: ignore[assignment]
    (folder / "record.json").write_text(record.to_json())
    assert not remove(stale)
    assert folder.exists()


@pytest.mark.parametrize(("text", "expected"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12))])
def test_ages(text: str, expected: timedelta):
    assert parse_age(text) == expected


@pytest.mark.parametrize("text", ["30", "d", "-3d", "3 weeks"])
def test_what_is_no_age_is_refused(text: str):
    with pytest.raises(UserError, match="expected a number and d, h or m"):
        parse_age(text)


# --- locks ---


def hold(path: Path, ready: Path) -> None:
    with locked(path) as mine:
        assert mine
        ready.touch()
        time.sleep(60)


def holder(path: Path, ready: Path) -> multiprocessing.context.ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(path, ready))
    process.start()
    while not ready.exists():
        time.sleep(0.01)
    return process


def test_a_lock_is_held_by_one_process_and_dropped_by_a_killed_one(tmp_path: Path):
    process = holder(tmp_path / "lock", tmp_path / "ready")
    with locked(tmp_path / "lock") as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    with locked(tmp_path / "lock") as mine:
        assert mine


def test_a_lock_is_not_inherited_by_the_workers_of_a_killed_process(tmp_path: Path):
    """A data worker lives on for some seconds after its run was killed."""

    def run(path: Path, ready: Path) -> None:
        with locked(path):
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(5,), daemon=True)
            worker.start()
            ready.touch()
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path / "lock", tmp_path / "ready"))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join()
    with locked(tmp_path / "lock") as mine:
        assert mine
