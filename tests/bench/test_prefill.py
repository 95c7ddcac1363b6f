import json
from pathlib import Path

import pytest
from lightsleeper.bench import prefill_forecast as forecast
from lightsleeper.cli import main


def test_a_forecast_from_an_assumed_rate_says_that_nothing_was_measured(tmp_path: Path, capsys):
    out, times = tmp_path / "out.json", tmp_path / "times.json"
    words = ["bench", "prefill", "--part", "forecast", "--tokens", "4096", "--json", str(out)]
    assert main([*words, "--tflops", "150", "--save-times", str(times)]) == 0
    told = capsys.readouterr().out
    assert told.count("FORECAST, not a measurement") == 2
    assert "an assumed 150 TFLOP/s, nothing measured" in told
    rows = json.loads(out.read_text())["forecast"]
    assert {(row["ranks"], row["gb_per_s"]) for row in rows} == {(p, b) for p in (2, 4, 8) for b in (10, 300)}
    for row in rows:
        assert sum(row["split"]) == row["tokens"]
        assert row["chain_s"] <= row["even_s"] * (1 + 1e-9)
        assert row["one_s"] / row["ranks"] * 0.9 < row["chain_s"] < row["one_s"]
        assert row["gather_s"] >= row["gather-skip_s"]
    # times that were saved give the same forecast
    assert main([*words, "--times", str(times)]) == 0
    assert json.loads(out.read_text())["forecast"] == rows


def test_a_block_of_a_7b_model_has_its_weights_counted():
    """LLaMA-7B: 202 M weights a block, so 404 MFLOP a token at 1 TFLOP/s."""
    times = forecast.assumed("llama-7b", 1.0).times
    assert times.keys(1) + times.rest(1, 0) == pytest.approx(404.8e-6, rel=1e-3)


def test_the_cache_of_a_7b_model_has_the_published_size():
    (llama, falcon) = (forecast.assumed(name, 1.0).layout for name in ("llama-7b", "falcon-7b"))
    assert sum(shape.bytes(1) for shape in llama) == 512 * 1024
    assert sum(shape.bytes(1) for shape in falcon) == 8 * 1024


@pytest.mark.parametrize("text", ["", "[1]", '[{"model": "llama-7b"}]', '[{"model": "other"}]'])
def test_a_file_without_times_is_refused(tmp_path: Path, text: str, capsys):
    (tmp_path / "times.json").write_text(text)
    code = main(["bench", "prefill", "--part", "forecast", "--times", str(tmp_path / "times.json")])
    error = capsys.readouterr().err
    assert (code, len(error.splitlines())) == (2, 1)
    assert "holds no times of blocks" in error


def test_an_unknown_part_is_refused(capsys):
    assert main(["bench", "prefill", "--part", "speed"]) == 2
    assert "bench prefill has no part 'speed'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_and_the_simulator_run_at_their_smallest(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    out = tmp_path / "out.json"
    words = ["bench", "prefill", "--quick", "--part", "table", "simulator", "--tokens", "96", "160", "--json", str(out)]
    assert main(words) == 0
    found = json.loads(out.read_text())
    assert [result["tokens"] for result in found["table"]] == [96, 160]
    for result in found["table"]:
        assert {"chain", "one", "gather", "even split", "predicted split"} <= set(result["methods"])
        assert len({tuple(method["first_token"]) for method in result["methods"].values()}) == 1
    assert {row["link"] for row in found["simulator"]["rows"]} == {"as it is", "slowed down"}
    told = capsys.readouterr().out
    assert "ceiling" in told
    assert "simulator: " in told
