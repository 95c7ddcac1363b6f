import json
from argparse import Namespace

import pytest
import torch
from lightsleeper.bench import dsp
from lightsleeper.bench.conditions import torch_threads
from lightsleeper.errors import UserError

TINY = Namespace(rows=8, frames=12, tokens=[3, 5], channels=16, repeats=2, reference_rows=4, threads=1)


@pytest.fixture(scope="module")
def result() -> dict:
    return dsp.run(TINY)


def test_the_result_is_json_and_holds_every_figure(result: dict):
    assert json.loads(json.dumps(result)) == result
    assert result["settings"]["tokens"] == [3, 5]
    assert result["conditions"]["threads"] == 1
    assert [row["count"] for row in result["tokens"]] == [3, 5]
    for row in result["tokens"]:
        for name in ("forward", "forward_backward"):
            times = row[name]["plain_ms"]
            assert times["min"] <= times["median"] <= times["max"]
            assert times["repeats"] == 2
            assert row["peak_bytes"][name] > 0


def test_the_batched_form_equals_reference_and_exhaustive_search(result: dict):
    assert result["exhaustive"]["max_difference"] < dsp.EQUAL
    assert all(row["max_difference"] < dsp.EQUAL for row in result["tokens"])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 1), (7, 3), (6, 6), (9, 4)])
def test_both_references_equal_the_exhaustive_search(n: int, m: int):
    generator = torch.Generator().manual_seed(n * 10 + m)
    audio, tokens = torch.randn(n, 3, generator=generator).double(), torch.randn(m, 3, generator=generator).double()
    best = dsp.exhaustive(audio, tokens)
    for reference in (dsp.plain_reference, dsp.inner_reference):
        z, cuts = reference(audio, tokens)
        assert z == pytest.approx(best, abs=1e-12)
        assert float(dsp.measure_cuts(audio, tokens, cuts)) == pytest.approx(best, abs=1e-12)


def test_the_table_names_its_conditions_and_the_verdict(result: dict):
    table = dsp.render(result)
    assert f"torch {torch.__version__}" in table
    assert "1 threads" in table
    assert "equal to 1e-05: yes" in table
    result = json.loads(json.dumps(result))
    result["tokens"][0]["max_difference"] = 1.0
    result["tokens"][0]["forward"]["speedup_plain"] = 99.0
    assert "MISSED" in dsp.render(result)
    assert "equal to 1e-05: NO" in dsp.render(result)


def test_peak_memory_counts_what_lives_at_the_same_time():
    def allocate() -> None:
        first = torch.empty(1 << 20, dtype=torch.uint8)
        second = torch.empty(1 << 21, dtype=torch.uint8)
        del first, second
        torch.empty(1 << 20, dtype=torch.uint8)

    assert dsp.peak_bytes(allocate) == 3 << 20


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"repeats": 0}, {"threads": 0}, {"tokens": [60]}, {"tokens": []}])
def test_values_out_of_range_are_refused(wrong: dict):
    with pytest.raises(UserError, match=f"bench dsp: {next(iter(wrong))} must"):
        dsp.run(Namespace(**wrong))


@pytest.mark.slow
def test_the_batched_form_is_a_hundred_times_faster_than_three_loops():
    found = dsp.run(Namespace(tokens=4, reference_rows=8, repeats=3))
    assert found["tokens"][0]["forward"]["speedup_plain"] >= dsp.TARGET_SPEEDUP
