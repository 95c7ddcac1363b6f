import json
from pathlib import Path
from typing import Any

import pytest
from lightsleeper.cli import main
from lightsleeper.tracking.record import Record

ARTIFACT = {
    "format": "onnx",
    "precision": "fp32",
    "path": "export/model.onnx",
    "bytes": 120_000,
    "gzip_bytes": 90_000,
    "parity": {"max_abs_diff": 1.2e-6},
    "latency": [
        {"per": "clip", "chunk_ms": 1000.0, "threads": 1, "p50_ms": 3.0, "p90_ms": 4.0, "p99_ms": 5.0, "rtf": 0.003}
    ],
}


def make(root: Path, run_id: str = "20261101-120000-aaaa", **fields: object) -> Path:
    folder = root / "runs" / "kws" / run_id
    folder.mkdir(parents=True)
    values = {"family": "Tiny", "seed": 1, "group": "g", "hash": "h", "config": {}, "knobs": {}, "status": "finished"}
    record = Record(run_id=run_id, recipe="kws", started="2026-11-01T12:00:00+00:00", **{**values, **fields})  # type: ignore[arg-type]
    (folder / "record.json").write_text(record.to_json())
    return folder


def metric(value: float, low: float | None = None, high: float | None = None) -> dict[str, object]:
    return {"value": value, "low": low, "high": high, "n": 10, "method": None}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTSLEEPER_RUNS", raising=False)
    monkeypatch.setenv("COLUMNS", "140")


def test_a_finished_run_shows_quality_size_latency_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(
        tmp_path,
        metrics={"test/loss": metric(0.3), "test/auc_hard": metric(0.934, 0.921, 0.945)},
        headline=["test/auc_hard"],
        artifacts=[ARTIFACT],
        size={"parameters": 23_000, "nonzero": 12_000, "macs": 5_000_000, "peak_memory_bytes": 10_400_000},
        context={"past_ms": None, "future_ms": 120.0, "state_bytes": 2048},
        threshold={"value": 0.5, "target": "equal error rate"},
        seconds={"fit": 200.0, "export": 2.0},
    )
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert out.index("test/auc_hard") < out.index("test/loss")
    for text in (
        "0.934 [0.921, 0.945]",
        "23,000, 12,000 not zero",
        "unlimited back, 120 ms ahead, 2.0 kB of state",
        "120.0 kB, 90.0 kB gzipped, equals the model to 1.2e-06",
        "1000 ms clip, 1 thread(s)",
        "p50 3.00, p90 4.00, p99 5.00 ms, 0.0030 of real time",
        "0.5 (equal error rate)",
        "fit 3 min 20 s, export 2.0 s",
        "lightning detect 20261101-120000-aaaa --keyword",
    ):
        assert text in out


def test_a_wake_word_is_tried_with_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = {"value": 0.9, "target": "0.5 false alarms an hour on validation streams"}
    make(tmp_path, artifacts=[ARTIFACT], threshold=target)
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert "try it:      lightning listen 20261101-120000-aaaa FILE.wav" in out
    assert "detect" not in out


@pytest.mark.parametrize(
    ("family", "formats", "use"),
    [
        ("ActiveSpeaker", ["onnx"], "detect 20261101-120000-aaaa CLIP.mp4"),
        ("WordSpotter", ["onnx"], "detect 20261101-120000-aaaa FILE.wav"),
        ("CausalLM", ["onnx", "packed"], 'generate 20261101-120000-aaaa --prompt "def main("'),
        ("CausalLM", ["onnx"], None),
    ],
)
def test_what_a_model_is_tried_with_depends_on_its_family(
    family: str, formats: list[str], use: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make(tmp_path, family=family, artifacts=[{**ARTIFACT, "format": name} for name in formats])
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert (f"try it:      lightning {use}" in out) if use else ("try it" not in out)


def test_a_metric_that_ends_like_another_is_no_scorer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = ("test/frr", "test/fa_per_hour", "test/frr_at_0.5_fa_per_hour")
    make(tmp_path, metrics={name: metric(0.1) for name in names}, headline=["test/frr", "test/fa_per_hour"])
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert "test/frr_at_0.5_fa_per_hour" in out
    assert "shipped" not in out


def test_a_compressed_run_shows_what_each_callback_did_and_the_headline_before(tmp_path: Path, capsys: Any):
    make(
        tmp_path,
        metrics={"test/auc_hard": metric(0.934, 0.921, 0.945)},
        headline=["test/auc_hard"],
        compression={
            "prune": {"phase": "prune", "compress/sparsity": 0.8, "max_abs_diff": 0.0312},
            "cluster": {"phase": "cluster", "compress/bits_per_weight": 3.01, "max_abs_diff": 0.0},
        },
        reference={
            "run_id": "20261101-110000-bbbb",
            "metrics": {"test/auc_hard": metric(0.95, 0.94, 0.96)},
            "size": {},
        },
    )
    assert main(["show"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "prune sparsity 0.8, moved outputs by 0.0312" in lines
    assert "cluster bits_per_weight 3.01" in lines
    assert "test/auc_hard before 0.95 [0.94, 0.96]" in lines


def test_a_run_that_died_says_how_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    process = {"pid": 2**22 + 1, "host": __import__("platform").node(), "birth": None}
    process["heartbeat"] = "2026-11-01T12:00:00+00:00"
    make(tmp_path, status="running", process=process)
    assert main(["show", "20261101"]) == 0
    out = capsys.readouterr().out
    assert "died" in out
    assert "lightning run --resume 20261101-120000-aaaa" in out


def test_a_failed_run_shows_its_error_and_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path, status="failed", error="clip [red]3[/red] is no audio")
    assert main(["show"]) == 0
    assert "clip [red]3[/red] is no audio" in capsys.readouterr().out


def test_many_metrics_are_cut_unless_all_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path, metrics={f"test/m{index:02}": metric(0.1) for index in range(20)})
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert "test/m19" not in out
    assert "and 8 more: lightning show --all" in out
    assert main(["show", "--all"]) == 0
    assert "test/m19" in capsys.readouterr().out


def test_json_is_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path)
    assert main(["show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == "20261101-120000-aaaa"


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (make(tmp_path) / "record.json").write_text('{"schema": 99}')
    assert main(["show", "20261101"]) == 2
    assert "written by a newer version" in capsys.readouterr().err


def test_all_scorers_of_a_model_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = ("", "dsp_", "unseen_words/", "unseen_words/dsp_")
    metrics = {f"test/{name}auc_hard": metric(0.9 - i / 100, 0.8, 0.95) for i, name in enumerate(names)}
    metrics["test/wake_words/auc_hard"] = metric(float("nan"))
    metrics |= {f"test/{name}auc_hard_w1": metric(0.7) for name in names}
    make(tmp_path, metrics=metrics, headline=["test/auc_hard"])
    assert main(["show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [words[:2] for line in lines if len(words := line.split()) == 4 and words[2] == "[.800"]
    assert rows == [["shipped", "0.900"], ["dsp", "0.890"], ["shipped", "0.880"], ["dsp", "0.870"]]
    assert [line.strip() for line in lines].index("unseen_words") > lines.index(next(x for x in lines if "0.890" in x))
    assert ["shipped", "-"] in [line.split() for line in lines]  # a set of one class
