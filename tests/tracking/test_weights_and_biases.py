import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lightsleeper.errors import UserError
from lightsleeper.recipe.config import TrackingConfig
from lightsleeper.tracking import weights_and_biases as wandb_tracking
from lightsleeper.tracking.credentials import key_source
from lightsleeper.tracking.record import Record, read
from lightsleeper.tracking.weights_and_biases import Untracked, finish_within, start, summary, wanted_mode
from tiny_runs import FAST, last, prepare, stopped, two_recipes, uninterrupted, write
from tiny_runs import start as run

OFFLINE = "--tracking.mode=offline"


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


def logged(folder: Path) -> list[Any]:
    """The records in a finished W&B log. W&B's service writes it out after `finish` has returned: wait for its end."""
    for _ in range(300):
        paths = list(folder.glob("wandb/offline-run-*/*.wandb"))
        found = parse(paths[0].read_bytes()) if len(paths) == 1 else []
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise AssertionError(f"no complete log among {[str(path) for path in paths]}")


def parse(data: bytes) -> list[Any]:
    """Records up to the first incomplete one: blocks of 32 kB with LevelDB's record headers."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    at, part = 7, b""
    found: list[Any] = []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            try:
                record.ParseFromString(part)
            except DecodeError:
                break  # still being written
            found.append(record)
            part = b""
    return found


def steps(folder: Path) -> list[int]:
    items = [record.history.item for record in logged(folder) if record.WhichOneof("record_type") == "history"]
    return [int(item.value_json) for row in items for item in row if "global_step" in (item.key or item.nested_key[-1])]


def blank(**fields: Any) -> Record:
    required: dict[str, Any] = {"run_id": "20261123-120000-abcd", "recipe": "tiny", "family": "Tiny", "seed": 1}
    return Record(**{**required, "group": "g", "hash": "h", "config": {}, "knobs": {}, **fields})


# --- online or not ---


def test_a_key_is_found_without_being_told(tmp_path: Path):
    assert key_source({"NETRC": str(tmp_path / "none")}) is None
    assert key_source({"WANDB_API_KEY": "k"}) == "WANDB_API_KEY"
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password k\n")
    assert key_source({"NETRC": str(netrc)}) == "netrc"
    assert key_source({"NETRC": str(netrc), "WANDB_BASE_URL": "https://wandb.example.org"}) is None
    netrc.write_text("machine\n")
    assert key_source({"NETRC": str(netrc)}) is None


@pytest.mark.parametrize(
    ("mode", "environ", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_mode_follows_recipe_then_variable_then_key(mode: Any, environ: dict[str, str], expected: str):
    assert wanted_mode(TrackingConfig(mode=mode), {"NETRC": "none", **environ})[0] == expected


def test_online_without_a_key_is_refused():
    with pytest.raises(UserError, match="no W&B key"):
        wanted_mode(TrackingConfig(mode="online"), {"NETRC": "none"})


def test_disabled_imports_no_wandb():
    code = (
        "import sys; from pathlib import Path; from lightsleeper.recipe.config import TrackingConfig;"
        "from lightsleeper.tracking.weights_and_biases import start;"
        "start(TrackingConfig(mode='disabled'), Path('.'), None); assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unreachable_server_means_offline_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert wandb_tracking.INIT_TIMEOUT_S <= 10
    monkeypatch.setattr(wandb_tracking, "INIT_TIMEOUT_S", 2.0)
    tracker = start(TrackingConfig(), tmp_path, blank())
    assert tracker.state["mode"] == "offline"
    assert tracker.note.startswith("W&B: offline (W&B not reachable: ")
    assert len(tracker.note.splitlines()) == 1
    lines = tracker.finish(blank(), tmp_path, 0)
    assert "wandb sync" in lines[0]
    folders = [path.name for path in (tmp_path / "wandb").iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(folders) == 1
    assert folders[0].startswith("offline-run-")


def test_an_unreachable_server_is_an_error_when_online_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_tracking, "INIT_TIMEOUT_S", 1.0)
    with pytest.raises(UserError, match="W&B could not be reached"):
        start(TrackingConfig(mode="online"), tmp_path, blank())


# --- what is logged ---


@pytest.fixture
def offline(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[Path, str]:
    """A run tracked offline and what it printed; made once for all tests that read it."""
    if not OFFLINE_RUN:
        monkeypatch.chdir(tmp_path_factory.mktemp("offline"))
        folder = run(two_recipes(), OFFLINE, "--requires.encoder.set.tracking.mode=offline").absolute()
        printed = capfd.readouterr()
        OFFLINE_RUN.append((folder, printed.out + printed.err))
    return OFFLINE_RUN[0]


OFFLINE_RUN: list[tuple[Path, str]] = []


def test_an_offline_run_has_curves_config_summary_and_lineage_and_stays_in_its_folder(offline: tuple[Path, str]):
    folder, printed = offline
    records = logged(folder)
    assert max(steps(folder)) == 23
    config = next(record.run.config for record in records if record.WhichOneof("record_type") == "run")
    assert {"model", "data", "environment"} <= {update.key for update in config.update}
    artifacts = {record.artifact.name: record.artifact for record in records if record.HasField("artifact")}
    assert {name: item.use_after_commit for name, item in artifacts.items()} == {
        "corpus-TinyData": True,
        "step-model": True,
        "both-model": False,
    }
    root = folder.parents[2]
    assert not list(root.rglob("staging/*"))
    assert f"wandb sync {(folder / 'wandb').relative_to(root)}/offline-run-*" in printed
    assert "wandb:" not in printed
    assert read(folder).tracking["mode"] == "offline"


def test_input_and_output_artifacts_of_one_model_have_one_digest(offline: tuple[Path, str]):
    folder, _ = offline
    step = last("step", folder.parents[1])
    used = next(record.artifact for record in logged(folder) if record.artifact.name == "step-model")
    made = next(record.artifact for record in logged(step) if record.artifact.name == "step-model")
    assert used.digest == made.digest


def test_nothing_personal_is_told_to_the_tracker(offline: tuple[Path, str]):
    folder, _ = offline
    records = logged(folder)  # first: what is not written yet holds nothing personal either
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    assert sys.executable.encode() not in content
    assert b"/tests/" not in content
    assert not next(record.run.host for record in records if record.WhichOneof("record_type") == "run")


def test_a_resumed_offline_run_has_one_whole_log_under_its_old_id():
    path = write()
    assert stopped("step:14:kill", path, FAST, OFFLINE) < 0
    before = read(last()).tracking["id"]
    folder = run(path, FAST, OFFLINE, resume="last")
    assert read(folder).tracking["id"] == before
    assert sorted(set(steps(folder))) == list(range(24))
    (log,) = folder.glob("wandb/offline-run-*")
    assert before in log.name


def test_a_run_resumed_after_its_fit_still_logs_the_curves():
    path = write()
    assert stopped("test:0:kill", path, FAST, OFFLINE) < 0
    folder = run(path, FAST, OFFLINE, resume="last")
    assert sorted(set(steps(folder))) == list(range(24))


def test_tracking_changes_no_number():
    first, second = uninterrupted(FAST), run(write(), FAST, OFFLINE)
    assert read(first).metrics == read(second).metrics
    for name in ("metrics.csv", "export/model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_summary_is_the_record_flat():
    metric = {"value": 0.9, "low": 0.8, "high": None, "n": 3, "method": "bootstrap"}
    artifact = {"format": "onnx", "bytes": 5, "latency": [{"p50_ms": 1.5, "threads": 1}]}
    flat = summary(blank(metrics={"test/auc": metric}, size={"parameters": 7}, artifacts=[artifact]))
    assert flat["test/auc"] == 0.9
    assert flat["test/auc.low"] == 0.8
    assert "test/auc.high" not in flat
    assert flat["size.parameters"] == 7
    assert flat["artifacts.0.latency.p50_ms"] == 1.5


def test_an_upload_that_hangs_is_given_up():
    began = time.monotonic()
    assert not finish_within(lambda: time.sleep(30), 0.2)
    assert time.monotonic() - began < 5


def test_an_upload_that_fails_fails_no_run():
    def broken() -> None:
        raise ConnectionError("gone")

    assert not finish_within(broken, 5)


def test_disabled_has_nothing_to_say():
    tracker = Untracked()
    assert (tracker.loggers, tracker.finish(blank(), Path(), 0)) == ([], [])


# --- sweeps of W&B ---


def test_a_step_does_not_see_the_agent_of_its_sweep(monkeypatch: pytest.MonkeyPatch):
    agent = {"WANDB_SWEEP_ID": "s", "WANDB_SWEEP_PARAM_PATH": "p", "WANDB_RUN_ID": "r"}
    for name, value in agent.items():
        monkeypatch.setenv(name, value)
    forgotten: list[int] = []
    monkeypatch.setattr(wandb_tracking, "_forget_environment", lambda: forgotten.append(1))
    with wandb_tracking.outside_sweep(step=False):
        assert {name: os.environ.get(name) for name in agent} == agent
    with wandb_tracking.outside_sweep(step=True):
        assert not any(name in os.environ for name in agent)
    assert {name: os.environ.get(name) for name in agent} == agent
    assert forgotten == [1]


def test_a_trial_of_wandb_that_is_continued_stays_in_the_project_of_its_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[dict[str, Any]] = []

    def init(mode: str, arguments: dict[str, Any]) -> Any:
        asked.append(arguments)
        raise ConnectionError

    monkeypatch.setattr(wandb_tracking, "_init", init)
    filed = {"id": "r", "project": "sweeps", "entity": "team"}
    for sweep in ({"id": "s", "parameters": {"model.dim": 8}}, {}):
        with pytest.raises(ConnectionError):
            start(TrackingConfig(project="mine", mode="offline"), tmp_path, blank(tracking=filed, sweep=sweep))
    assert [(told["project"], told["entity"]) for told in asked] == [("sweeps", "team"), ("mine", None)]
    assert [told["config"].get("sweep") for told in asked] == [{"model/dim": 8}, None]
