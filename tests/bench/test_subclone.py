import json
from argparse import Namespace
from dataclasses import replace

import pytest
from lightsleeper.bench import subclone as bench
from lightsleeper.bench import subclone_report as report
from lightsleeper.errors import UserError

TINY = replace(
    bench.QUICK, parent_width=64, parent_depth=2, parent_tokens=2048, budget=1024, batch=4, length=32, evaluations=4,
    evaluation_samples=8, calibration_batches=1, characters=50_000,
)  # fmt: skip


def arguments(folder, **more):
    return Namespace(
        **{"part": [], "quick": True, "seeds": 2, "threads": 1, "parent": None, "out": str(folder), **more}
    )


def test_the_destination_has_half_the_width_where_heads_need_not_make_it_up():
    from transformers import BertConfig, LlamaConfig

    smollm2 = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                          num_key_value_heads=3, head_dim=64)  # fmt: skip
    half = bench._half(smollm2)
    found = half.hidden_size, half.intermediate_size, half.num_hidden_layers, half.num_attention_heads
    assert found == (288, 768, 15, 4)
    assert (half.num_key_value_heads, half.head_dim) == (2, 64)
    assert bench._half(BertConfig(hidden_size=192, num_attention_heads=3)).hidden_size == 64  # one head of three


def test_a_crossing_lies_between_evaluations():
    assert report.crossing([0, 10, 20], [3.0, 2.0, 1.0], 1.5) == 15
    assert report.crossing([0, 10, 20], [3.0, 2.0, 1.0], 3.0) == 0
    assert report.crossing([0, 10], [3.0, 2.0], 1.0) is None


def made(name, rate, seed, losses, calibration=0):
    return {"start": name, "rate": rate, "seed": seed, "losses": losses, "tokens": [0, 100, 200],
            "seconds": [0, 1, 2], "calibration": {"tokens": calibration, "seconds": 0.1}}  # fmt: skip


def test_the_speed_up_is_taken_at_each_starts_best_rate_with_calibration_counted():
    rows = {
        report.RANDOM: [made("r", 1, 0, [4, 3, 2.5]), made("r", 2, 0, [4, 3, 2]), made("r", 2, 1, [4, 3, 2.2])],
        report.SUBCLONED: [
            made("s", 1, 0, [3, 2, 1], 50),
            made("s", 2, 0, [3, 2, 1.5], 50),
            made("s", 1, 1, [3, 2.2, 1], 50),
        ],
    }
    found = report.summarize(rows, (1, 2), 10)
    row = found[report.SUBCLONED]
    assert (found[report.RANDOM]["rate"], row["rate"]) == (2, 1)
    assert row["tokens"] == {"mean": 150, "min": 150, "max": 150, "seeds": 2}
    assert row["token_speedup"]["mean"] == pytest.approx(200 / 150)
    assert row["second_speedup"]["mean"] == pytest.approx(2 / 1.1)
    assert found[report.RANDOM]["token_speedup"]["mean"] == 1


def test_a_loss_that_is_never_reached_is_said():
    rows = {name: [made(name, 1, 0, [4, 3, 2])] for name in (report.RANDOM, report.QUARTER)}
    rows[report.SUBCLONED] = [made("s", 1, 0, [4, 3.5, 3])]
    rows["no scaling"] = [made("n", 1, 0, [4, 3, 2])]
    found = report.summarize(rows, (1,), 10)
    assert found[report.SUBCLONED]["token_speedup"] is None
    lines = report.verdicts(found)
    assert "MISSED, the loss was not reached" in lines[0]
    assert "no scaling: end loss -1.000 against the default, with one seed" in lines[-1]


def test_it_runs_and_takes_finished_trainings_from_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "QUICK", TINY)
    found = bench.run(arguments(tmp_path))
    printed = capsys.readouterr().out
    assert "llama 2 x 64" in printed
    assert "-> 1 x 32" in printed
    assert set(found["starts"]) == {*bench.SPEED, *bench.ABLATION}
    assert len(found["trainings"]) == 3 * len(found["starts"])
    assert all(run["tokens"][-1] == 1024 for run in found["trainings"] if run["start"] != report.QUARTER)
    json.dumps(found)

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(bench.Bench, "_fit", fail)
    assert bench.run(arguments(tmp_path))["starts"] == found["starts"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"part": ["spead"]}, "has no part 'spead'; expected speed or ablation"),
        ({"parent": "nowhere"}, "cannot be read"),
    ],
)
def test_mistakes_are_told(tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        bench.run(arguments(tmp_path, **more))
