from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.tracking.record import Record


def make(run_id: str, recipe: str = "kws", **fields: object) -> Path:
    folder = Path("runs") / recipe / run_id
    folder.mkdir(parents=True)
    values = {"family": "Tiny", "seed": 1, "group": "g", "hash": "h", "config": {}, "knobs": {}, "status": "finished"}
    record = Record(run_id=run_id, recipe=recipe, started="2026-11-01T12:00:00+00:00", **{**values, **fields})  # type: ignore[arg-type]
    (folder / "record.json").write_text(record.to_json())
    return folder


def metric(value: float) -> dict[str, object]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 10, "method": "bootstrap"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTSLEEPER_RUNS", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["runs", *words]) == 0
    return capsys.readouterr().out


def test_an_empty_folder_is_said_to_be_empty(capsys: pytest.CaptureFixture[str]):
    assert out(capsys) == "no runs under runs\n"


def test_the_list_has_status_time_and_headline(capsys: pytest.CaptureFixture[str]):
    metrics = {"test/loss": metric(0.3), "test/auc": metric(0.9)}
    make("20261101-120000-aaaa", metrics=metrics, headline=["test/auc"], seconds={"fit": 61.0, "test": 1.0})
    make("20261102-120000-bbbb", "other", status="failed", error="clip 3 is no audio")
    bad = make("20261103-120000-cccc")
    (bad / "record.json").write_text("{")
    lines = out(capsys).splitlines()
    first = next(line for line in lines if "aaaa" in line)
    assert "1 min 2 s" in first
    assert "test/auc 0.9 [0.89, 0.91]" in first
    assert "clip 3 is no audio" in next(line for line in lines if "bbbb" in line)
    assert any(line.startswith("warning: ") and "cccc" in line for line in lines)
    assert "bbbb" not in out(capsys, "list", "kws")


def test_compare_shows_settings_and_metrics_that_differ_side_by_side(capsys: pytest.CaptureFixture[str]):
    make("a-run", knobs={"model.dim": 64, "model.bits": 3}, metrics={"test/auc": metric(0.9)}, size={"parameters": 10})
    make("b-run", knobs={"model.dim": 96, "model.bits": 3}, metrics={"test/auc": metric(0.8)}, size={"parameters": 20})
    text = out(capsys, "compare", "a-run", "b-run")
    dim = next(line for line in text.splitlines() if "model.dim" in line)
    assert dim.split() == ["model.dim", "64", "96"]
    assert "model.bits" not in text
    auc = next(line for line in text.splitlines() if "test/auc" in line)
    assert auc.split() == ["test/auc", "0.9", "[0.89,", "0.91]", "0.8", "[0.79,", "0.81]"]
    assert "parameters: 10 | 20" in text


def test_clean_is_a_dry_run_until_it_is_told_yes(capsys: pytest.CaptureFixture[str]):
    failed, fine = make("a-failed", status="failed"), make("b-fine")
    (failed / "big").write_bytes(b"x" * 5000)
    text = out(capsys, "clean", "--failed")
    assert f"would remove {failed}" in text
    assert failed.exists()
    text = out(capsys, "clean", "--failed", "--yes")
    assert f"removed {failed}" in text
    assert "freed" in text
    assert not failed.exists()
    assert fine.exists()


def test_clean_by_name_takes_only_that_run(capsys: pytest.CaptureFixture[str]):
    first, second = make("a-run"), make("b-run")
    out(capsys, "clean", "b-run", "--yes")
    assert first.exists()
    assert not second.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["clean"], "say which: --failed"),
        (["clean", "--older-than", "soon"], "expected a number and d, h or m"),
        (["compare", "a-run"], "expected two runs, got 1"),
        (["compare", "a-run", "nothing"], "no run 'nothing'"),
        (["cleen"], "Did you mean 'clean'?"),
    ],
)
def test_a_wrong_line_is_refused(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]):
    make("a-run")
    assert main(["runs", *words]) == 2
    assert expected in capsys.readouterr().err
