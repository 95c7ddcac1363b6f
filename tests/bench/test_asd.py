"""What `bench asd` trains is valid, and what it says of finished trainings follows from their numbers."""

from pathlib import Path
from typing import Any

import pytest
from lightsleeper.bench import asd, asd_arms, asd_context, asd_modality, asd_speed
from lightsleeper.bench.asd_arms import Row
from lightsleeper.cli import bench as command
from lightsleeper.errors import UserError
from lightsleeper.stages.plan import check_settings


def row(arm: str, seed: int, score: float) -> Row:
    return {"arm": arm, "label": arm, "seed": seed, "metrics": {"map": {"value": score}}, "fit_s": 1.0}


def grid(by: dict[tuple[int, int], list[float]]) -> list[Row]:
    return [row(f"past {p} future {f}", 7 + n, one) for (p, f), found in by.items() for n, one in enumerate(found)]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("group", asd_context.GROUPS)
def test_every_training_is_a_valid_run_that_takes_its_encoders_from_the_first(group: str, quick: bool):
    todo = asd_context.trainings(group, [7, 8], quick)
    for training in (todo[0], todo[-1]):
        plan = training.plan
        check_settings(plan)
        if group != "whole":
            (first,) = asd_arms.with_seeds(asd_arms.encoder(quick), [training.seed])
            assert plan.steps["encoder"].hash == first.plan.hash
            assert plan.config["model"]["init_args"]["encoders_from"] == "${requires.encoder}"


def test_the_grid_has_the_decisive_points_with_every_seed_and_the_others_once():
    todo = asd_context.trainings("grid", [7, 8, 9], quick=False)
    names = [(training.arm.name, training.seed) for training in todo]
    assert len(names) == len(set(names)) == 3 * 7 * 2 + 7 * 3
    assert len(asd_arms.PASTS) >= 6
    assert len(asd_arms.FUTURES) >= 5
    assert ("past 8 future 2", 9) in names
    assert ("past 8 future 4", 8) not in names


def test_points_trained_whole_are_those_of_the_grid():
    assert all(past in asd_arms.PASTS and future in asd_arms.FUTURES for past, future in asd_arms.WHOLE)
    (training,) = asd_arms.with_seeds(asd_arms.whole(32, 8, quick=True), [7])
    settings = training.plan.config["model"]["init_args"]
    assert (settings["fusion"], settings["past_frames"], settings["future_frames"]) == ("transformer", 32, 8)
    assert settings["encoders_from"] is None


def test_where_the_transformer_meets_the_gru_is_the_least_past_from_which_on_it_is_not_behind():
    found = asd_context.cells(grid({(0, 0): [0.5], (2, 0): [0.8], (8, 0): [0.69], (32, 0): [0.75]}))
    assert asd_context.meets(found, {7: 0.7}, 0) == 32
    assert asd_context.meets(found, {7: 0.6}, 0) == 2
    assert asd_context.meets(found, {7: 0.9}, 0) is None


def test_gains_are_within_seeds():
    moved, spread, seeds = asd_context.gain({7: 0.5, 8: 0.6, 9: 0.9}, {7: 0.6, 8: 0.8}) or (0.0, 0.0, 0)
    assert (moved, seeds) == (pytest.approx(0.15), 2)
    assert spread == pytest.approx(0.0707, abs=1e-4)
    assert asd_context.gain({7: 0.5}, {8: 0.6}) is None


def test_the_report_has_the_table_the_meeting_point_both_sides_and_the_order():
    rows = grid({(0, 0): [0.5, 0.6], (32, 0): [0.8, 0.82], (0, 8): [0.6, 0.62], (32, 8): [0.9]})
    rows += [row("gru", 7, 0.7), row("gru", 8, 0.75), row("whole 32 0", 7, 0.85), row("whole 32 8", 7, 0.84)]
    text = "\n".join(asd_context.report({"rows": rows, "seeds": [7, 8], "flexible": [(0, 0, 0.4), (32, 8, 0.8)]}))
    first, every = text.split("mean over seeds 7, 8")
    assert "      32  0.8000  0.9000" in first
    assert "      32  0.8100       -" in every  # one seed has no place among means of two
    assert "future 8: at or above the GRU from past 32 on, 1 seed" in text
    assert "past from (0, 0) to (32, 0): +0.2600 +- 0.0566 over 2 seeds" in text
    assert "future from (0, 0) to (0, 8): +0.0600" in text
    assert "past 32, future 0: 0.8500 trained whole, 0.8000 on kept vectors" in text  # of seed 7, as the other
    assert "order of these points: NOT the same" in text
    assert "one model, tested with each budget" in text


def test_the_modality_verdict_is_on_means():
    rows = [row("both", 7, 0.9), row("both", 8, 0.8), row("audio", 7, 0.6), row("video", 7, 0.75)]
    text = "\n".join(asd_modality.report({"rows": rows, "seeds": [7, 8]}))
    assert "audio alone is 25.0 mAP behind both; claimed 15: reached" in text
    assert "video alone is 10.0 mAP behind both; claimed 15: MISSED" in text


def test_the_fused_detector_of_part_modality_is_the_encoder_of_part_context():
    runs = [
        asd_arms.with_seeds(arm, [7])[0].plan.hash
        for arm in (asd_modality._arm("both", False), asd_arms.encoder(False))
    ]
    assert runs[0] == runs[1]


def test_a_step_is_bound_by_the_ceiling_that_needs_longer():
    ceilings = {"macs_per_s": 1e9, "bytes_per_s": 1e9}
    assert asd_speed.judged(1.0, macs=1000, moved=4000, ceilings=ceilings)["bound"] == "memory"
    found = asd_speed.judged(1.0, macs=4_000_000, moved=1000, ceilings=ceilings)
    assert (found["bound"], found["compute_ms"]) == ("compute", 4.0)


def test_faces_a_core_are_those_whose_frames_fit_into_forty_milliseconds():
    found = asd_speed._face_row({"batch": 4}, {"min": 8.0, "median": 9.0})
    assert (found["ms_per_face"], found["faces_per_core"]) == (2.0, 20.0)


@pytest.mark.slow
def test_the_speed_part_measures_fusion_encoders_and_files():
    found = asd_speed.run(None, quick=True, repeats=5)
    assert [one["past"] for one in found["fusion"]] == list(asd_speed.QUICK_PASTS)
    assert found["fusion"][0]["state_bytes"] == 4 * (2 * 9 * 128 + 9)
    assert {(one["model"], one["precision"]) for one in found["faces"]} == {
        (model, precision) for model in ("causal", "framewise", "bigru") for precision in asd_speed.PRECISIONS
    }
    assert list(asd_speed.report(found))


def arguments(**given: Any) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["asd", *(word for name, value in given.items() for word in (f"--{name}", str(value)))])


def test_what_a_part_does_not_take_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="bench asd --part speed takes no --seeds"):
        asd.run(arguments(part="speed", seeds=2))
    with pytest.raises(UserError, match="bench asd --part context needs --out DIR"):
        asd.run(arguments(part="context"))
    with pytest.raises(UserError, match="is finished"):
        asd_modality.run(tmp_path, collect=True)
