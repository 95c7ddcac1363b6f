from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.tracking.record import read
from tiny_runs import prepare, write

SHORT = ("--run.stages=[fit,finalize]", "--trainer.max_epochs=1")


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


def test_a_recipe_an_overlay_and_overrides_become_one_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    overlay = tmp_path / "wide.yaml"
    overlay.write_text("model: {init_args: {width: 16}}\n")
    line = ["run", str(write()), str(overlay), "--runs-dir", "there", "--data.rows=16", *SHORT]
    assert main(line) == 0
    (folder,) = (tmp_path / "there" / "tiny").iterdir()
    record = read(folder)
    assert record.knobs["model.width"] == 16
    assert record.knobs["data.rows"] == 16
    printed = capfd.readouterr()
    assert folder.name in printed.out
    assert f"lightning show {Path('there/tiny') / folder.name}" in printed.out  # an id alone would not be found there
    assert printed.err == ""


def test_the_runs_folder_is_a_variable_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LIGHTSLEEPER_RUNS", str(tmp_path / "mine"))
    assert main(["run", str(write()), *SHORT]) == 0
    assert len(list((tmp_path / "mine" / "tiny").iterdir())) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], "no recipe given"),
        (["no_such"], "no recipe 'no_such'"),
        (["--resume", "last"], "no last run"),
        (["--resume", "2026"], "no run '2026'"),
        (["tiny.yaml", "--resume", "2026"], "no run '2026'"),
        (["tiny.yaml", "--model.widht=3"], "Did you mean 'width'"),
        (["tiny.yaml", "--trainer.max_epochs=soon"], "trainer.max_epochs: expected"),
        (["tiny.yaml", "--run.stages=[fitt]"], "fit"),
        (["tiny.yaml", "--tracking.mode=onlin"], "Did you mean 'online'"),
        (["tiny.yaml", "--run-dir", "x"], "Did you mean '--runs-dir'"),
    ],
)
def test_a_wrong_line_is_one_message_and_exit_code_2(line: list[str], expected: str, capfd: pytest.CaptureFixture[str]):
    write()
    assert main(["run", *line]) == 2
    printed = capfd.readouterr()
    assert expected in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) <= 2
    assert not Path("runs").exists()
