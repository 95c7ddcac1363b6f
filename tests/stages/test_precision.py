from pathlib import Path

import pytest
import torch
from lightsleeper.stages.precision import cpu_has_bf16, precision_note
from tiny_runs import last, prepare, start, two_recipes, write

SHORT = ("--run.stages=[fit]", "--trainer.max_epochs=1", "--trainer.precision=bf16-mixed")


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


def with_bf16(monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    """A CPU with or without the instructions, whatever this one has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": present})


@pytest.mark.parametrize("present", [False, True])
def test_bf16_on_a_cpu_is_noted_where_the_instructions_are_missing(present: bool, monkeypatch: pytest.MonkeyPatch):
    with_bf16(monkeypatch, present)
    assert cpu_has_bf16() == present
    for precision in ("bf16-mixed", "bf16-true", "bf16"):
        note = precision_note({"accelerator": "cpu", "precision": precision})
        assert (note is None) == present
        assert note is None or f"is {precision}, " in note


@pytest.mark.parametrize("precision", [None, 32, "32-true", "16-mixed"])
def test_other_precisions_are_not(precision: object, monkeypatch: pytest.MonkeyPatch):
    with_bf16(monkeypatch, False)
    assert precision_note({"accelerator": "cpu", "precision": precision}) is None


def test_another_device_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    with_bf16(monkeypatch, False)
    device = lambda trainer: torch.device("cuda")  # noqa: E731
    monkeypatch.setattr("lightsleeper.stages.precision.root_device", device)
    assert precision_note({"accelerator": "auto", "precision": "bf16-mixed"}) is None


def test_the_probe_agrees_with_what_linux_lists():
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "flags" not in flags.read_text():
        pytest.skip("no list of x86 flags")
    listed = set(flags.read_text().split())
    assert cpu_has_bf16() == bool(listed & {"avx512_bf16", "amx_bf16"})


def test_a_run_says_it_once_and_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with_bf16(monkeypatch, False)
    folder = start(write(), *SHORT)
    for text in (capsys.readouterr().out, (folder / "log.txt").read_text()):
        (line,) = (line for line in text.splitlines() if "bf16" in line)
        assert "warning: trainer.precision is bf16-mixed" in line
        assert line.endswith(" --trainer.precision=32-true")


def test_a_step_says_how_to_set_it_from_the_command_line(monkeypatch: pytest.MonkeyPatch):
    with_bf16(monkeypatch, False)
    start(two_recipes(), "--run.stages=[fit]", "--requires.encoder.set.trainer.precision=bf16-mixed")
    assert "--requires.encoder.set.trainer.precision=32-true" in (last("step") / "log.txt").read_text()
    assert "32-true" not in (last("both") / "log.txt").read_text()
