import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lightsleeper.bench import trainings as shared
from lightsleeper.bench import wakeword_accuracy as bench
from lightsleeper.bench.wakeword_arms import GROUPS, trainings
from lightsleeper.cli import bench_parsers as command
from lightsleeper.errors import UserError
from lightsleeper.stages.plan import check_settings

KEYWORDS = 200


def row(arm: str, seed: int, missed: Sequence[int], start_s: float | None = 0.01, graph: str = "same") -> bench.Row:
    """A finished training that misses these keywords and says ``start_s`` too late where the others began."""
    begin = [10.0 * number for number in range(KEYWORDS)]
    fired = [number not in missed for number in range(KEYWORDS)]
    start = [None if start_s is None or not f else b + start_s for b, f in zip(begin, fired, strict=True)]
    frr = len(missed) / KEYWORDS
    number = {"value": frr, "low": None, "high": None, "n": KEYWORDS, "method": None}
    metrics = {"frr": number, "fa_per_hour": {**number, "value": 0.4}, "negative_hours": {**number, "value": 10.3}}
    return {
        "arm": arm, "label": arm, "seed": seed, "run": f"{arm}-{seed}", "frr": frr, "metrics": metrics,
        "validation": 0.02, "parameters": 12_385, "macs_per_second": None, "state_bytes": 4.0, "latency_ms": 0.1,
        "graph": [graph], "fit_s": 100.0,
        "keywords": {
            "begin_s": begin, "end_s": [b + 0.7 for b in begin], "detected": fired, "start_found_s": start,
            "end_found_s": [b + 0.75 if f else None for b, f in zip(begin, fired, strict=True)],
        },
    }  # fmt: skip


def rows(arm: str, misses: Sequence[int], **more) -> list[bench.Row]:
    return [row(arm, 7 + number, range(count), **more) for number, count in enumerate(misses)]


def test_fewer_misses_are_told_with_both_tests():
    found = bench.compared(rows("plain", [20, 22, 24, 26, 28]) + rows("repcnn", [10, 11, 12, 13, 14]), ["branches"])
    assert [(f["first"], f["second"]) for f in found] == [("plain", "repcnn")]
    assert found[0]["reduction"]["value"] == pytest.approx(0.5)
    assert 0 < found[0]["reduction"]["low"] < 0.5 < found[0]["reduction"]["high"]
    assert found[0]["p_trainings"] == pytest.approx(2 / 252)
    assert found[0]["p_keywords"] < 0.001
    assert found[0]["better_seeds"] == [5, 5]
    assert found[0]["same_graph"]


def test_more_misses_are_told_as_plainly():
    found = bench.compared(rows("plain", [10, 11]) + rows("repcnn", [20, 21]), ["branches"])[0]
    assert found["reduction"]["value"] == pytest.approx(-20 / 21)
    assert found["better_seeds"] == [0, 2]
    text = "\n".join(bench._verdict(found))
    assert "-95 % fewer misses" in text


def test_arms_without_a_finished_training_are_left_out():
    assert bench.compared(rows("plain", [10]), ["branches", "localisation"]) == []


def test_times_are_compared_on_keywords_that_both_fired_for():
    first = [row("dnn_hmm_frames", 7, range(50), start_s=0.08)]
    second = [row("heimdal", 7, range(40, 60), start_s=-0.03, graph="other")]
    found = bench.compared(first + second, ["localisation"])[0]
    assert not found["same_graph"]
    start = found["localisation"]["start"]
    assert start["events"] == KEYWORDS - 60
    assert start["median_s"] == pytest.approx([0.08, 0.03])
    assert start["within_50ms"] == [0, 1]
    assert start["within_100ms"] == [1, 1]
    assert found["localisation"]["end"]["median_s"] == pytest.approx([0.05, 0.05])


def test_a_constant_that_the_other_seeds_know_is_taken_off():
    first = [row("dnn_hmm_frames", seed, range(50), start_s=0.08) for seed in (7, 8)]
    second = [row("heimdal", 7, range(50), start_s=-0.03), row("heimdal", 8, range(50), start_s=0.01)]
    start = bench.compared(first + second, ["localisation"])[0]["localisation"]["start"]
    assert start["median_s"] == pytest.approx([0.08, 0.02])
    assert start["less_a_constant"]["median_s"] == pytest.approx([0.0, 0.04])
    assert start["less_a_constant"]["within_50ms"] == [1, 1]
    found = bench.compared(first[:1] + second[:1], ["localisation"])[0]
    assert "less_a_constant" not in found["localisation"]["start"]
    verdict = bench._verdict(bench.compared(first + second, ["localisation"])[0])
    assert "less the median error of its other seeds" in "\n".join(verdict)


def test_who_does_not_tell_the_start_is_compared_by_the_end_alone():
    found = bench.compared(rows("plain", [1], start_s=None) + rows("repcnn", [1], start_s=None), ["branches"])[0]
    assert found["localisation"].keys() == {"end"}


def test_the_report_shows_spread_and_every_comparison_once():
    made = rows("plain", [20, 22]) + rows("repcnn", [10, 12])
    groups = ["branches", "ablation"]
    result = {"target": 0.5, "trainings": 12, "groups": groups, "rows": made, "found": bench.compared(made, groups)}
    text = "\n".join(bench.report(result))
    assert "4 of 12 trainings; 200 keywords, 10.30 h without one" in text
    assert text.count("repcnn against plain") == 1
    assert "0.1050  0.1000  0.1100" in text
    assert math.isclose(json.loads(json.dumps(result))["found"][0]["p_trainings"], 1 / 3)


def test_trainings_take_turns_so_that_what_is_finished_can_be_compared():
    order = [(training.arm.name, training.seed) for training in trainings(["branches", "localisation"], 2, False)]
    assert order[:4] == [("plain", 7), ("repcnn", 7), ("plain", 8), ("repcnn", 8)]
    assert {name for name, _ in order[4:7]} == {"heimdal", "dnn_hmm_end_to_end", "dnn_hmm_frames"}
    everything = [(training.arm.name, training.seed) for training in trainings(list(GROUPS), 5, False)]
    assert len(everything) == len(set(everything))


def test_the_command_offers_the_groups_there_are():
    assert tuple(GROUPS) == command.GROUPS


def test_every_pair_names_arms_of_its_group():
    for group in GROUPS.values():
        names = {arm.name for arm in group.arms}
        assert {name for pair in group.pairs for name in pair} <= names, group.name


def test_every_arm_is_a_valid_recipe_and_another_one():
    hashes = {}
    for training in trainings(list(GROUPS), 1, quick=False):
        todo = training.plan
        check_settings(todo)
        hashes[todo.hash] = training.arm.name
    assert len(hashes) == len({arm.name for group in GROUPS.values() for arm in group.arms})


def test_the_quick_form_is_valid():
    check_settings(next(trainings(["branches"], 1, quick=True)).plan)


def test_nothing_finished_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="no training"):
        bench.run(tmp_path, collect=True, only=["branches"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_form_trains_compares_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    result = bench.run(tmp_path, quick=True, seeds=1, only=["branches"])
    assert [r["arm"] for r in result["rows"]] == ["plain", "repcnn"]
    assert result["found"][0]["same_graph"]
    assert all(len(r["keywords"]["detected"]) == 40 for r in result["rows"])
    assert np.isfinite([r["frr"] for r in result["rows"]]).all()
    assert "2 of 2 trainings" in "\n".join(bench.report(result))
    monkeypatch.setattr(shared, "_run", lambda *_: pytest.fail("trained again"))
    assert bench.run(tmp_path, quick=True, seeds=1, only=["branches"])["found"] == result["found"]
