import json

from lightsleeper.bench import confusables


def test_the_builder_is_timed_against_a_step_on_its_batch(capsys, monkeypatch):
    monkeypatch.setattr(confusables, "KEYWORDS", 3)
    monkeypatch.setattr(confusables, "RECORDINGS", 2)
    found = json.loads(json.dumps(confusables.batches(confusables.rows(quick=True), repeats=2)))
    assert (found["rows"], found["recordings"]) == (3 * 3 * 2, 6)
    assert found["made_per_step"] > 1
    assert found["share_without_workers"] < 0.5


def test_together_and_plain_draw_the_same_and_together_is_faster(monkeypatch):
    monkeypatch.setattr(confusables, "RECORDINGS", 4)
    found = confusables.generator(repeats=2)
    assert found["keywords"] == 32 * 4
    assert found["per_s"]["together"] > found["per_s"]["plain"]
