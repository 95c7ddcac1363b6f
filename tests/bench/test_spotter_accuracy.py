import json
from pathlib import Path

import pytest
from lightsleeper.bench import spotter_accuracy as bench
from lightsleeper.bench import spotter_arms
from lightsleeper.bench.spotter_arms import GROUPS, trainings
from lightsleeper.cli import bench_parsers as command
from lightsleeper.errors import UserError
from lightsleeper.stages.plan import check_settings

STREAMS = 30


def row(arm: str, seed: int, right: int, alarms: int = 1, skipped: float | None = None) -> bench.Row:
    """A finished training that finds ``right`` of 20 words of each stream, and so many alarms beside."""
    f1 = 2 * right / (20 + right + alarms)
    names = {
        "f1": f1,
        "f1_strict": f1,
        "mean_iou": 0.8,
        "mtwv": 0.7,
        "frr": 1 - right / 20,
        "fa_per_hour": 60.0 * alarms,
    }
    metrics = {name: {"value": value, "n": 600} for name, value in (names | {"recall": right / 20}).items()}
    if skipped is not None:
        metrics |= {f"skipped_{name}": {"value": skipped} for name in ("speech", "noise", "silence")}
    return {
        "arm": arm, "label": arm, "seed": seed, "run": f"{arm}-{seed}", "metrics": metrics, "parameters": 100_000,
        "macs": 2_000_000, "encoder_macs": 1_000_000, "fit_s": 100.0, "hours": {"speech": 0.5, "noise": 0.25},
        "streams": {str(number): [20, right + alarms, right] for number in range(STREAMS)},
    }  # fmt: skip


def rows(arm: str, *right: int, **more) -> list[bench.Row]:
    return [row(arm, 7 + number, count, **more) for number, count in enumerate(right)]


def test_the_gain_in_f1_is_that_of_the_means_with_an_interval():
    gain = bench.f1_gain(rows("small", 14, 15, 16), rows("gated", 17, 18, 19), resamples=200)
    expected = [[2 * n / (21 + n) for n in counts] for counts in ((14, 15, 16), (17, 18, 19))]
    assert gain.value == pytest.approx((sum(expected[1]) - sum(expected[0])) / 3)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.n == STREAMS


def test_streams_without_words_and_alarms_on_one_side_only_are_compared_too():
    first, second = row("small", 7, 15), row("gated", 7, 15)
    first["streams"]["noise"] = [0, 40, 0]
    assert bench.f1_gain([first], [second], 100).value > 0


def test_details_become_counts_by_stream():
    details = {
        "streams": {"stream": [0, 3, 5, 6], "content": ["speech"] * 3 + ["noise"], "seconds": [60.0, 60.0, 60.0, 36.0]},
        "words": {"stream": [0, 0, 3], "score": [0.9, None, 0.8]}, "false_alarms": {"stream": [3, 5, 5]},
    }  # fmt: skip
    assert bench.by_stream(details) == {"0": [2, 1, 1], "3": [1, 2, 1], "5": [0, 2, 0], "6": [0, 0, 0]}
    assert bench.hours(details) == pytest.approx({"speech": 0.05, "noise": 0.01})


def test_a_pair_is_compared_over_seeds():
    found = bench.compared(rows("ungated", 18, 18, 19) + rows("gated", 17, 17, 18, skipped=0.4), ["gates"])
    (pair,) = found
    assert (pair["first"], pair["second"], pair["trainings"], pair["better_seeds"]) == (
        "ungated",
        "gated",
        [3, 3],
        [0, 3],
    )
    assert pair["gains"]["f1"] == pytest.approx(pair["f1"]["value"])


def test_the_claims_are_judged_by_their_own_words():
    made = rows("ungated", 18, 18) + rows("gated", 17, 18, skipped=0.98) + rows("small_48", 12, 13)
    result = {"trainings": 9, "groups": ["gates"], "rows": made, "found": bench.compared(made, ["gates"])}
    text = "\n".join(bench.report(result))
    assert "6 of 9 trainings; 600 words in 30 streams: 0.50 h of speech, 0.25 h of noise" in text
    assert "at most 0.01 of F1 lost: lost +0.0" in text
    assert "(97.5 %): MISSED" in text
    assert text.count("97 % of the encoder skipped on") == 2
    assert text.count("98.0 %: reached") == 2
    assert json.loads(json.dumps(result))["found"][0]["gains"]


def test_computation_is_told_with_what_gates_leave_out():
    assert bench.macs_per_hop(row("gated", 7, 10, skipped=0.4), "speech") == 1_600_000
    assert bench.macs_per_hop(row("ungated", 7, 10), "speech") == 2_000_000


def test_arms_without_a_finished_training_are_left_out():
    assert bench.compared(rows("ungated", 10), ["gates", "encoder"]) == []


def test_the_command_offers_the_groups_there_are():
    assert tuple(GROUPS) == command.SPOTTER_GROUPS


def test_every_pair_names_arms_of_its_group():
    for group in GROUPS.values():
        names = {arm.name for arm in group.arms}
        assert {name for pair in group.pairs for name in pair} <= names, group.name


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_is_a_valid_recipe_and_another_one(quick: bool):
    hashes = {}
    for training in trainings(list(GROUPS), 1, quick):
        todo = training.plan
        check_settings(todo)
        hashes[todo.hash] = training.arm.name
    assert len(hashes) == len({arm.name for group in GROUPS.values() for arm in group.arms})


def test_both_arms_begin_with_the_parent_of_their_seed():
    plans = {training.arm.name: training.plan for training in trainings(["gates"], 1, False)}
    for arm in ("gated", "ungated"):
        (step,) = plans[arm].steps.values()
        assert step.hash == plans["parent"].hash


def test_nothing_finished_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="no training"):
        bench.run(tmp_path, collect=True, only=["gates"])


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(1800)
def test_the_quick_form_trains_compares_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    result = bench.run(tmp_path, quick=True, seeds=1, only=["gates"])
    assert [r["arm"] for r in result["rows"]] == ["parent", "ungated", "gated", "small_48", "small_32"]
    assert "5 of 5 trainings" in "\n".join(bench.report(result))
    monkeypatch.setattr(spotter_arms.shared, "_run", lambda *_: pytest.fail("trained again"))
    again = bench.run(tmp_path, quick=True, seeds=1, only=["gates"])
    assert json.dumps(again["found"]) == json.dumps(result["found"])  # nan, where no word was found, equals nan
