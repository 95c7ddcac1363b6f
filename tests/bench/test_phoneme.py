import json
from pathlib import Path

import numpy as np
import pytest
from lightsleeper.bench import phoneme_accuracy as bench
from lightsleeper.bench import phoneme_people as people
from lightsleeper.bench.phoneme_arms import ARMS, ENTRANTS, PAIRS, settings, trainings
from lightsleeper.bench.phoneme_orders import LEAST, Order, keywords_of, mean_auc, read_orders
from lightsleeper.bench.trainings import Training
from lightsleeper.cli import bench_parsers as command
from lightsleeper.errors import UserError
from lightsleeper.stages.plan import check_settings


def row(arm: str, seed: int, **scores: float) -> bench.Row:
    """A finished training; ``scores``: AUC on hard pairs by scorer."""
    metrics = {}
    for scorer, auc in scores.items():
        scorer = "" if scorer == "shipped" else f"{scorer}_"
        for quality, value in (("auc_hard", auc), ("eer_hard", 1 - auc), ("auc_easy", 0.99), ("eer_easy", 0.01)):
            metrics[f"{scorer}{quality}"] = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return {
        "arm": arm, "seed": seed, "run": f"{arm}-{seed}", "metrics": metrics, "parameters": 500_000,
        "latency_ms": 3.0, "enrolment_ms": 0.2, "fit_s": 60.0,
    }  # fmt: skip


def rows() -> list[bench.Row]:
    made = []
    for seed in (7, 8, 9):
        made.append(row("published", seed, shipped=0.9, verifier=0.88 + seed / 1000, cosine=0.6, ctc=0.85))
        made.append(row("dsp", seed, shipped=0.9, dsp=0.86, ctc=0.85))
    return made


def test_a_claim_compares_two_scores_over_seeds():
    found = bench.compare(rows(), "dsp", "verifier")
    assert found is not None
    assert found["auc_hard"]["second"] == pytest.approx(0.888)
    assert found["eer_hard"]["first"] == pytest.approx(0.14)
    assert found["auc_hard"]["better_seeds"] == [3, 3]
    assert found["eer_hard"]["better_seeds"] == [3, 3]
    assert bench.compare(rows(), "cmcd", "verifier") is None


def test_the_table_has_a_line_for_each_score_with_its_interval():
    made = rows()
    pairs = [found for pair in PAIRS if (found := bench.compare(made, *pair))]
    text = "\n".join(bench.report({"trainings": 15, "rows": made, "found": pairs}))
    assert "6 of 15 trainings" in text
    assert "0.8880 [0.878, 0.898]" in text
    assert "0.8870-0.8890" in text
    assert "CMCD" not in text
    assert "paper, LibriPhrase: 0.8421 -> 0.927" in text
    assert json.loads(json.dumps(pairs))


def test_every_claim_and_score_belongs_to_an_arm():
    assert {entrant.arm for entrant in ENTRANTS} == set(ARMS)
    names = {entrant.name for entrant in ENTRANTS}
    assert {name for pair in PAIRS for name in pair} <= names


def test_the_command_offers_the_arms_there_are():
    assert set(command.PHONEME_ARMS) == set(ARMS)


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_is_a_valid_recipe_and_all_share_one_encoder_a_seed(quick: bool):
    hashes, encoders = set(), set()
    for training in trainings(list(ARMS), 1, quick):
        todo = training.plan
        check_settings(todo)
        hashes.add(todo.hash)
        while todo.steps:
            (todo,) = todo.steps.values()
            encoders |= {todo.hash} if todo.recipe.name == "kws_encoder" else set()
    assert len(hashes) == len(ARMS)
    assert len(encoders) == 1


def test_fine_tuning_begins_with_the_runs_of_the_accuracy_part(tmp_path: Path):
    (tmp_path / people.DIGITS).mkdir()
    names = "abcdef"
    text = "path,text,speaker\n" + "".join(f"{name}.flac,zero,{name}\n" for name in names)
    (tmp_path / people.DIGITS / "manifest.csv").write_text(text)
    found = list(people.tuned(tmp_path, 7, False))
    assert len(found) == (3 + 1) * len(people.ARMS)
    assert found[-1][1] == "trained, tested on a and b, without three, seven, nine"
    for name, (arm, _, _) in people.ARMS.items():
        base = Training(arm, 7, settings(arm, 7, False)).plan.hash
        training = next(training for training, _ in found if training.arm.name == name)
        assert training.plan.steps["base"].hash == base


def test_nothing_finished_and_unknown_arms_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="no training"):
        bench.run(tmp_path, collect=True)
    with pytest.raises(UserError, match="no arm 'gru'; expected published"):
        bench.run(tmp_path, only=["gru"])
    monkeypatch.delenv(people.DATA, raising=False)
    with pytest.raises(UserError, match=people.DATA):
        people.run(tmp_path)


def test_an_order_holds_a_keyword_inside_one_of_its_phrases():
    order = Order(Path("a.flac"), (("iced", "coffee"), ("lots", "of", "brown", "sugar")))
    assert order.holds(["coffee"])
    assert order.holds(["brown", "sugar"])
    assert not order.holds(["coffee", "lots"])
    assert not order.holds(["sugar", "brown"])


def test_keywords_are_the_phrases_that_enough_orders_name(tmp_path: Path):
    lines = ["path,contains,seconds,sample_rate"]
    lines += [f"{n}.flac,mocha;  soy milk,1,16000" for n in range(LEAST)] + ["x.flac,latte,1,16000"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    orders = read_orders(tmp_path)
    assert orders[0].contains == (("mocha",), ("soy", "milk"))
    assert sorted(keywords_of(orders)) == ["mocha", "soy milk"]


def test_a_keyword_that_nobody_says_is_not_in_the_mean():
    assert mean_auc({"each": {"a": 0.8, "b": 0.6, "c": float("nan")}}) == pytest.approx(0.7)
    assert np.isnan(mean_auc({"each": {"c": float("nan")}}))


@pytest.mark.slow
@pytest.mark.longest
@pytest.mark.timeout(1800)
def test_the_quick_form_trains_compares_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    result = bench.run(tmp_path, quick=True, seeds=1, only=["published", "dsp"])
    assert [r["arm"] for r in result["rows"]] == ["published", "dsp"]
    assert "2 of 2 trainings" in "\n".join(bench.report(result))
    again = bench.run(tmp_path, quick=True, seeds=1, only=["published", "dsp"], collect=True)
    assert json.dumps(again["found"]) == json.dumps(result["found"])
