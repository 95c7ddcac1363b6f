import json
from argparse import Namespace

import pytest
import torch
from lightsleeper.bench import fold
from lightsleeper.errors import UserError


@pytest.fixture(scope="module")
def result() -> dict:
    return fold.run(Namespace(quick=True, repeats=3, threads=1, part=[]))


@pytest.mark.slow
def test_the_result_is_json_and_holds_every_figure(result: dict):
    assert json.loads(json.dumps(result)) == result
    assert list(result["networks"]) == ["plain", "4 branches", "folded"]
    for row in result["networks"].values():
        for name in ("latency_ms", "training_step_ms"):
            assert 0 < row[name]["p10"] <= row[name]["median"] <= row[name]["p90"]


@pytest.mark.slow
def test_the_folded_network_is_equal_smaller_and_lighter(result: dict):
    plain, branched, folded = result["networks"].values()
    assert result["max_difference"] <= fold.EQUAL
    assert folded["macs"] == plain["macs"] < branched["macs"]
    assert folded["parameters"] < plain["parameters"] < branched["parameters"]  # a bias for the norm's two vectors
    assert folded["peak_activation_bytes"] <= plain["peak_activation_bytes"] < branched["peak_activation_bytes"]
    assert folded["norms"] == 0


@pytest.mark.slow
def test_the_table_names_its_conditions_and_the_verdict(result: dict):
    table = fold.render(result)
    assert f"torch {torch.__version__}" in table
    assert "equal to 1e-05: yes" in table
    assert "equal to 1e-05: NO" in fold.render({**result, "max_difference": 1e-3})


def test_a_single_part_and_an_unknown_one():
    found = fold.run(Namespace(quick=True, repeats=2, part=["train"]))
    assert "latency_ms" not in found["networks"]["plain"]
    with pytest.raises(UserError, match="no part 'depoly'"):
        fold.run(Namespace(part=["depoly"]))
