import pytest
from lightsleeper.bench import spotter_classes as bench


def row(classes: int, **costs: float) -> bench.Row:
    return {"classes": classes, "parameters": 100 * classes, "events": 7, **costs}


def test_a_line_tells_the_fixed_cost_and_that_of_a_thousand_classes():
    rows = [row(n, step_s=0.4 + 0.0002 * n) for n in (10, 100, 1000)]
    found = bench.line(rows, "step_s")
    assert (found["fixed"], found["thousand"], found["off"]) == pytest.approx((0.4, 0.2, 0.0))


def test_what_grows_with_the_square_lies_off_the_line():
    rows = [row(n, step_s=0.1 + 1e-6 * n**2) for n in (10, 30, 100, 300, 1000)]
    assert bench.line(rows, "step_s")["off"] > bench.OFF


def test_all_costs_are_measured_and_memory_is_linear(monkeypatch):
    monkeypatch.setattr(bench, "CLASSES", (64, 128, 512))
    monkeypatch.setattr(bench, "BATCH", 2)
    monkeypatch.setattr(bench, "STEPS_AN_HOUR", 5000)
    result = bench.run(None, quick=True, repeats=1)
    sizes = [found["saved_bytes"] for found in result["rows"]]
    assert (sizes[2] - sizes[0]) / (sizes[1] - sizes[0]) == pytest.approx(7, rel=0.05)
    assert all(found[key] > 0 for found in result["rows"] for key in bench.COSTS)
    text = "\n".join(bench.report(result))
    assert text.count("linear:") == len(bench.COSTS)
