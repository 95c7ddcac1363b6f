"""The spec opens each view at something worth seeing, and at nothing where there is nothing."""

from typing import Any

import pyarrow as pa
import pytest
from lightsleeper.dashboard import generate
from lightsleeper.dashboard.payload import build
from lightsleeper.dashboard.rows import TABLE, row
from lightsleeper.dashboard.views import best, views


def payload(contents: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{"key": str(place), "path": f"r/{place}/record.json", **row(one)} for place, one in enumerate(contents)]
    return build(pa.Table.from_pylist(rows, TABLE), "runs")


@pytest.fixture(scope="module")
def many() -> dict[str, Any]:
    return payload(list(generate.records(200, points=9)))


def defaults(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(view.defaults for view in views(found) if view.id == name)


def test_the_scatter_starts_with_what_runs_are_judged_by_against_latency_on_one_machine(many: dict):
    start = defaults(many, "tradeoff")
    assert (start["x"], start["y"]) == ("latency.p50_ms", "test/auc_hard")
    counts = {name: many["runs"]["fingerprint"].count(name) for name in many["machines"]}
    assert counts[start["machine"]] == max(counts.values())


def test_without_latencies_another_cost_is_shown():
    contents = list(generate.records(20))
    for content in contents:
        content["artifacts"] = []
    start = defaults(payload(contents), "tradeoff")
    assert (start["x"], start["machine"]) == ("size.macs", None)


def test_a_sweep_over_two_knobs_starts_with_its_heat_map(many: dict):
    start = defaults(many, "sweep")
    assert start["heat"] == [start["x"], start["series"]]
    by_name = {sweep["name"]: sweep["id"] for sweep in many["sweeps"]}
    options = next(view.options["sweeps"] for view in views(many) if view.id == "sweep")
    context = options[by_name["kws_context_sparsity"]]
    assert (context["x"], context["series"], context["y"]) == (
        "model.past_frames",
        "callbacks.prune.sparsity",
        "test/auc_hard",
    )
    assert options[by_name["lm_bits"]]["series"] is None


def test_a_sweep_without_tests_shows_the_metric_it_compares():
    contents = [one for one in generate.records(60) if one["sweep"].get("name") == "kws_context_sparsity"]
    for one in contents:
        one["metrics"] = {}
    assert defaults(payload(contents), "sweep")["y"] == "val/auc_hard"


def test_the_best_of_each_group_are_shown(many: dict):
    rows = best(many, list(many["curves"]), 3)
    values = [many["metrics"]["test/auc_hard"]["value"], many["metrics"]["test/auc_hard"].get("rows")]
    auc = dict(zip(values[1] or range(200), values[0], strict=True))
    assert [auc[r] for r in rows] == sorted((auc[r] for r in rows), reverse=True)
    assert len({many["runs"]["group"][r] for r in rows}) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_views_exist_without_anything_to_show(count: int):
    contents = [{"schema": 1, "run_id": "a", "recipe": "b"}][:count]
    found = payload(contents)
    assert [view["id"] for view in found["views"]] == ["tradeoff", "sweep", "detection", "runs", "training"]
    assert found["views"][0]["defaults"]["x"] is None
