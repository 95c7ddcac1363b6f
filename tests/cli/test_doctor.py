import os
from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.cli.doctor import command_owner, report


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("LIGHTSLEEPER_", "WANDB_"))]:
        monkeypatch.delenv(name)


def script(folder: Path, text: str) -> str:
    folder.mkdir()
    path = folder / "lightning"
    path.write_text(f"#!/usr/bin/env python\n{text}\n")
    path.chmod(0o755)
    return str(folder)


def test_it_reports_what_decides_whether_a_run_works(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for what in ("python:", "torch:", "devices:", "`lightning`:", "W&B key:", "runs:", "cache:", "extra demo:"):
        assert what in out


def test_a_key_is_never_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret" * 7)
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", "cache")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "present (WANDB_API_KEY)" in out
    assert "s3cret" not in out
    assert "variables set: LIGHTSLEEPER_CACHE" in out


def test_our_script_is_recognised(tmp_path: Path):
    path = script(tmp_path / "ours", "from lightsleeper.cli import main")
    (name, state, fine), *_ = command_owner(path)
    assert fine
    assert "belongs to lightsleeper" in state


def test_the_script_of_another_program_is_named(tmp_path: Path):
    path = script(tmp_path / "theirs", "from lightning_sdk.cli.entrypoint import main_cli")
    (name, state, fine), *_ = command_owner(path)
    assert not fine
    assert "another program: use `lightsleeper`" in state


def test_a_missing_script_is_a_problem(tmp_path: Path):
    ((_, state, fine),) = command_owner(str(tmp_path))
    assert not fine
    assert "not on the PATH" in state


def test_a_full_disk_is_marked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    marks = {name: fine for name, _, fine in report()}
    assert not marks["runs"]
    assert not marks["cache"]
