import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from lightsleeper.cli import main

BORING = "lightning.pytorch.demos.boring_classes"
RECIPE = f"""\
# A boring net.
seed_everything: 3
model: {{class_path: {BORING}.BoringModel}}
data: {{class_path: {BORING}.BoringDataModule}}
callbacks:
  early:
    class_path: EarlyStopping
    init_args: {{monitor: val/loss}}
trainer: {{max_epochs: 2}}
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run one command line in this process."""

    def run(*words: str) -> Result:
        code = main(list(words))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def spawn() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run one command line in a fresh interpreter."""

    def run(*words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *options, "-m", "lightsleeper", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boring.yaml").write_text(RECIPE)
    return tmp_path / "boring.yaml"
