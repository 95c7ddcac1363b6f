import dataclasses
import json
import multiprocessing
import os
import platform
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from lightsleeper.errors import UserError
from lightsleeper.files import write_atomic
from lightsleeper.tracking import record as records
from lightsleeper.tracking.environment import code_state, environment
from lightsleeper.tracking.record import Record, RecordFile, knobs, read, status_of

# Design section 4, and what resuming and linking need beside it.
DESIGN = (
    "schema run_id recipe family status started seconds seed group config knobs data code lineage metrics curves"
    " reference compression threshold context artifacts size environment sweep error"
)


def blank(**fields: object) -> Record:
    required = {"run_id": "20261123-120000-abcd", "recipe": "tiny", "family": "Tiny", "seed": 1, "group": "g"}
    return Record(**{**required, "hash": "h", "config": {}, "knobs": {}, **fields})  # type: ignore[arg-type]


def test_a_record_has_every_key_of_the_design_from_the_start(tmp_path: Path):
    with RecordFile(tmp_path, blank()):
        content = json.loads((tmp_path / "record.json").read_text())
    assert set(DESIGN.split()) <= content.keys()
    assert content["status"] == "running"
    assert content["process"]["pid"] == os.getpid()


def test_what_is_written_is_read_back(tmp_path: Path):
    metric = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "method": "bootstrap"}
    with RecordFile(tmp_path, blank()) as file, file.change() as record:
        record.metrics = {"test/auc": metric}  # type: ignore[dict-item]
        record.status = "finished"
    assert dataclasses.asdict(read(tmp_path)) == dataclasses.asdict(file.record)


def test_numbers_no_browser_can_read_become_null_and_tensors_become_numbers():
    text = blank(curves={"a": [float("nan"), float("inf"), 1.0], "b": torch.tensor([1, 2])}).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["curves"] == {"a": [None, None, 1.0], "b": [1, 2]}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_write_into_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, synced = tmp_path / "file", os.fsync

    def meanwhile(descriptor: int) -> None:  # the other one begins and ends while the first has not renamed yet
        monkeypatch.setattr(os, "fsync", synced)
        write_atomic(path, "second")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomic(path, "first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_in_the_middle_of_a_change_does_not_end_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def changed(record: Record) -> str:
        calls.append(1)
        raise RuntimeError("dictionary changed size during iteration")

    with RecordFile(tmp_path, blank(), heartbeat_s=0.01):
        monkeypatch.setattr(Record, "to_json", changed)
        deadline = time.monotonic() + 5
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(calls) >= 3


def test_the_heartbeat_beats_and_never_shows_half_a_record(tmp_path: Path):
    ended = threading.Event()
    seen: list[str] = []

    def reader() -> None:
        while not ended.is_set():
            process = read(tmp_path).process
            assert process is not None
            seen.append(process["heartbeat"])

    with RecordFile(tmp_path, blank(curves={"roc": list(range(5000))}), heartbeat_s=0.01) as file:
        first = file.record.process["heartbeat"]  # type: ignore[index]
        thread = threading.Thread(target=reader)
        thread.start()
        began = time.monotonic()
        while time.monotonic() - began < 1.3:  # heartbeats are written to the second
            with file.change() as record:
                record.seconds["fit"] = time.monotonic()
        ended.set()
        thread.join()
    assert len(seen) > 20
    assert max(seen) > first


def test_a_full_disk_does_not_end_the_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []

    def full(path: Path, text: str) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    with RecordFile(tmp_path, blank(), heartbeat_s=0.01):
        monkeypatch.setattr(records, "write_atomic", full)
        deadline = time.monotonic() + 5
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(calls) >= 3


# --- who died ---


def test_a_killed_writer_is_shown_as_died(tmp_path: Path):
    def child() -> None:
        RecordFile(tmp_path, blank()).__enter__()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert read(tmp_path).status == "running"
    assert status_of(read(tmp_path)) == "died"


def test_a_living_writer_is_running(tmp_path: Path):
    with RecordFile(tmp_path, blank()):
        assert status_of(read(tmp_path)) == "running"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_pid_that_was_given_out_again_is_not_the_writer(tmp_path: Path):
    with RecordFile(tmp_path, blank()) as file:
        file.record.process["birth"] = "1"  # type: ignore[index]
        assert status_of(file.record) == "died"


@pytest.mark.parametrize(("age_s", "expected"), [(5, "running"), (59, "running"), (61, "died")])
def test_on_another_host_the_heartbeat_decides(age_s: int, expected: str):
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    beat = (now - timedelta(seconds=age_s)).isoformat()
    process = {"pid": os.getpid(), "host": "elsewhere", "birth": None, "heartbeat": beat}
    assert platform.node() != "elsewhere"
    assert status_of(blank(process=process), now) == expected


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_that_said_how_it_ended_did_not_die(status: str):
    process = {"pid": 2**22 + 1, "host": platform.node(), "birth": None, "heartbeat": "2020-01-01T00:00:00+00:00"}
    assert status_of(blank(status=status, process=process)) == status


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 2}', "schema 2; this version reads schema 1. It was written by a newer version."),
        ("{}", "schema None"),
        ("[]", "schema None"),
        ('{"schema": 1}', "is not a complete run record"),
        ('{"schema": 1, "run_id"', "cannot be read as a run record"),
        ("\x00\xff", "cannot be read as a run record"),
    ],
)
def test_what_is_no_record_of_ours_is_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "process",
    [
        {},
        [],
        "pid 3",
        {"pid": "3", "host": "a", "birth": None, "heartbeat": "2026-11-23T12:00:00+00:00"},
        {"pid": 10**30, "host": "a", "birth": None, "heartbeat": "2026-11-23T12:00:00+00:00"},
        {"pid": 3, "host": "a", "birth": None, "heartbeat": "yesterday"},
        {"pid": 3, "host": "a", "birth": None, "heartbeat": "2026-11-23T12:00:00"},  # in whose time zone?
        {"pid": 3, "host": "a", "heartbeat": "2026-11-23T12:00:00+00:00"},
    ],
)
def test_a_record_whose_writer_cannot_be_told_is_refused(tmp_path: Path, process: object):
    (tmp_path / "record.json").write_text(blank(process=process).to_json())
    with pytest.raises(UserError, match="its 'process' names no writer"):
        read(tmp_path)


def test_a_missing_record_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no run record at"):
        read(tmp_path)


# --- facts ---


def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    monkeypatch.setenv("USER", "someone-in-particular")
    facts = environment(threads=1)
    keys = ["python", "torch", "lightning", "onnxruntime", "wandb", "numpy", "os", "cpu", "cores", "threads", "device"]
    assert list(facts) == keys
    text = json.dumps(facts)
    assert "s3cret" not in text
    assert "someone-in-particular" not in text
    assert str(Path.home()) not in text


def test_code_names_version_and_commit():
    state = code_state()
    assert state["version"]
    assert set(state) == {"version", "commit", "dirty"}


def test_knobs_are_flat_and_know_no_init_args():
    config = {"model": {"class_path": "a.b.Net", "init_args": {"dim": 3, "front": {"mels": 40}}}, "seed_everything": 1}
    assert knobs(config) == {"model": "Net", "model.dim": 3, "model.front.mels": 40, "seed_everything": 1}
