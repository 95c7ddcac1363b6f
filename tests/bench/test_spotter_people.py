import json

import pytest
from lightsleeper.bench import spotter_people as bench
from lightsleeper.errors import UserError
from lightsleeper.metrics.exact import rate
from lightsleeper.stages.plan import check_settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as the recordings lie in it, without recordings."""
    monkeypatch.setenv(bench.DATA, str(tmp_path))
    for name in (bench.DIGITS, bench.NEGATIVES, bench.NOISE):
        (tmp_path / name).mkdir(parents=True)
    rows = "".join(f"{name}/{n}.flac,zero,{name}\n" for name in ("d", "a", "c", "b", "f", "e") for n in range(3))
    (tmp_path / bench.DIGITS / "manifest.csv").write_text("path,text,speaker\n" + rows)
    return tmp_path


def row(arm: str, tested: list[str], right: int, alarms: int) -> bench.Row:
    hours = 0.5
    fah = rate(alarms, hours).to_dict()
    none = rate(0, hours).to_dict()
    metrics = {
        "f1": {"value": 0.9},
        "mean_iou": {"value": 0.8},
        "fa_per_hour_negatives": fah,
        "fa_per_hour_noise": none,
    }
    return {
        "arm": arm, "label": arm, "seed": 7, "run": arm, "tested": tested, "metrics": metrics, "parameters": 1000,
        "hours": {"negatives": hours, "noise": hours}, "macs": 2_000_000,
        "encoder_macs": 1_000_000, "fit_s": 10.0, "streams": {"0": [20, right, right]},
    }  # fmt: skip


def test_each_speaker_is_tested_once(folder):
    folds = bench.pairs(bench.speakers(folder / bench.DIGITS))
    assert folds == [("a", "b"), ("c", "d"), ("e", "f")]


@pytest.mark.parametrize("quick", [False, True])
def test_the_gated_network_and_its_rival_begin_with_the_ungated_one_of_their_fold(folder, quick):
    plans = {name: bench.job(name, folder, ("a", "b"), 7, quick).plan for name in bench.ARMS}
    for name in ("longer", "gated"):
        check_settings(plans[name])
        (step,) = plans[name].steps.values()
        assert step.hash == plans["ungated"].hash
        assert plans[name].config["model"]["init_args"]["gated"] is (name == "gated")
        assert plans[name].config["data"]["init_args"]["test_speakers"] == ["a", "b"]
    assert plans["longer"].config["trainer"] == plans["gated"].config["trainer"]


def test_speakers_are_pooled_with_exact_intervals():
    rows = [row("ungated", ["a", "b"], 18, 2), row("ungated", ["c", "d"], 16, 0), row("gated", ["a", "b"], 17, 1)]
    found = bench.pooled(rows, "ungated")
    assert found["frr"]["value"] == pytest.approx(6 / 40)
    assert found["f1"] == pytest.approx(2 * 34 / 74)
    assert (found["fa_per_hour"]["negatives"]["n"], found["fa_per_hour"]["negatives"]["hours"]) == (2, pytest.approx(1))
    assert found["fa_per_hour"]["noise"]["hours"] == pytest.approx(1)
    assert bench.pooled([], "ungated") is None
    result = {"trainings": 6, "rows": rows, "pooled": {name: bench.pooled(rows, name) for name in bench.ARMS}}
    text = "\n".join(bench.report(json.loads(json.dumps(result))))
    assert "3 of 6 trainings, speakers tested: a and b; c and d" in text
    assert "false alarms on negatives: 2 in 1.00 h, 2.0 an hour" in text
    assert "of 40 words missed 15.00 % [" in text


def test_missing_recordings_are_named(folder, monkeypatch):
    (folder / bench.DIGITS / "manifest.csv").unlink()
    with pytest.raises(UserError, match="no spoken_digits/manifest.csv there"):
        bench.recordings()
    monkeypatch.delenv(bench.DATA)
    with pytest.raises(UserError, match="LIGHTSLEEPER_REAL_DATA"):
        bench.recordings()


def test_nothing_finished_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="no training"):
        bench.run(tmp_path / "out", collect=True)
