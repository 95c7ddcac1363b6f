"""The ways to read multiple-choice items: all find the same, and the shared context computes less."""

import json
from pathlib import Path

import pytest
from lightsleeper.bench.choices import LM_EVAL, ONE, OWN, SHARED
from lightsleeper.cli import main

WORDS = ["bench", "choices", "--quick", "--items", "8", "--timed", "2", "--batch", "2", "--repeats", "1"]


def measured(tmp_path: Path, *more: str) -> dict:
    assert main([*WORDS, *more, "--json", str(tmp_path / "out.json")]) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_every_way_finds_the_same_and_a_shared_context_computes_less(tmp_path: Path, capsys) -> None:
    found = measured(tmp_path)
    for row in found["speed"].values():
        assert row["same_choice"] == 1
        assert row["difference"] < 1e-3
    assert found["speed"][SHARED]["positions"] < 0.6 * found["speed"][ONE]["positions"]
    assert found["speed"][ONE]["positions"] <= found["speed"][OWN]["positions"]
    assert found["accuracy"]["majority_accuracy"]["value"] == 0.25
    told = capsys.readouterr().out
    assert all(way in told for way in (SHARED, OWN, ONE, "mcnemar_majority"))


@pytest.mark.slow
def test_lm_eval_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    row = measured(tmp_path, "--part", "speed")["speed"][LM_EVAL]
    assert row["same_choice"] == 1
    assert row["difference"] < 1e-3


def test_what_cannot_be_measured_is_one_line(tmp_path: Path, capsys) -> None:
    assert main([*WORDS, "--part", "sped"]) == 2
    assert "bench choices has no part 'sped'" in capsys.readouterr().err
    assert main([*WORDS, "--parent", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
