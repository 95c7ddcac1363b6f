import json

import pytest
from tiny_family import tiny_recipe


def test_dsp_reports_and_writes_the_same_numbers(cli, tmp_path):
    out = tmp_path / "dsp.json"
    done = cli("bench", "dsp", "--rows", "2", "--frames", "8", "--tokens", "2", "--channels", "4",
               "--repeats", "1", "--reference-rows", "1", "--threads", "1", "--json", str(out))  # fmt: skip
    assert done.code == 0
    assert "B=2 N=8 d=4" in done.out
    assert json.loads(out.read_text())["settings"]["rows"] == 2


def test_loader_states_shares_and_conditions(cli, tmp_path):
    out = tmp_path / "loader.json"
    recipe = tiny_recipe(tmp_path)
    done = cli("bench", "loader", str(recipe), "--steps", "12", "--runs-dir", str(tmp_path), "--json", str(out))
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert found["steps"] == 7  # five are warm-up
    assert 0 < found["wait_share"] < 1
    for name in ("step_ms", "wait_ms", "ready_step_ms"):
        assert 0 < found[name]["p10"] <= found[name]["median"] <= found[name]["p90"]
    assert found["conditions"]["threads"] == 1
    assert found["conditions"]["batch_size"] == 8
    assert done.out.count("target 5 %") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "arguments are required: dsp|loader|overhead"),
        (["dspp"], "invalid choice: 'dspp'"),
        (["dsp", "--rows", "0"], "expected a whole number of at least 1"),
        (["dsp", "--frames", "3", "--tokens", "4"], "tokens must lie in 1..3"),
        (["loader", "TINY", "--steps", "3"], "only 3 training steps were made"),
        (["loader", "TINY", "--set", "trainer.max_epoch=3"], "Did you mean 'max_epochs'?"),
        (["loader", "nothing"], "no recipe 'nothing'"),
        (["wakeword", "--part", "people"], "--part people needs --out DIR"),
        (["wakeword", "--part", "accuracy"], "--part accuracy needs --out DIR"),
        (["wakeword", "--seeds", "3"], "--part speed takes no --seeds"),
        (["wakeword", "--part", "sped"], "invalid choice: 'sped'"),
        (["overhead", "TINY", "--pairs", "x"], "expected a whole number of at least 1, got 'x'"),
    ],
)
def test_mistakes_are_one_line(cli, tmp_path, words, message):
    recipe = str(tiny_recipe(tmp_path))
    failed = cli("bench", *(recipe if word == "TINY" else word for word in words))
    assert failed.code == 2
    assert message in failed.err
    assert len(failed.err.splitlines()) == 1


def test_loader_names_the_step_that_is_missing(cli, tmp_path):
    tiny_recipe(tmp_path, "first")
    second = tiny_recipe(tmp_path, "second", "requires: {encoder: first}\n")
    failed = cli("bench", "loader", str(second), "--runs-dir", str(tmp_path / "runs"))
    assert failed.code == 2
    assert "requires.encoder: run it first: `lightning run first`" in failed.err
