"""Every recipe, as its own `Run:` line has it, is valid; the main one goes through all stages at its smallest."""

import json
import re
import shlex
from pathlib import Path

import pytest
from lightsleeper.cli import main
from lightsleeper.recipe import shipped
from lightsleeper.tracking.record import read
from mistakes import no_hub
from tiny_runs import prepare

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
OVERLAYS = [file for file in RECIPES if file.parent.name == "overlays"]
BASES = [file for file in RECIPES if file not in OVERLAYS]
HUB = "nor reachable on the hub"
"""What is left to say of a recipe whose weights are on the hub, where there is none."""
SMALLER = (
    "{train_phrases: 96, vocabulary: 500, max_words: 2, episodes: 4, validation_episodes: 2, held_out_voices: 6, "
    "batch_size: 16}"
)


def command(file: Path) -> list[str]:
    """The words after `lightning run` in the file's comment."""
    line = re.search(r"^# Run: +lightning run (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None, f"{file.name} has no line '# Run:'"
    return shlex.split(line[1])


def test_the_shipped_recipes_are_those_of_the_folder():
    assert BASES
    assert OVERLAYS
    names = {file.relative_to(ROOT / "recipes").with_suffix("").as_posix() for file in RECIPES}
    assert names == set(shipped())


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.relative_to(ROOT / "recipes").as_posix())
def test_the_line_that_a_recipe_says_to_run_is_valid(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    no_hub(monkeypatch)
    words = command(file)
    assert file.relative_to(ROOT).as_posix() in words
    code = main(["validate", *words])
    error = capsys.readouterr().err
    assert not code or HUB in error, error


@pytest.mark.parametrize("base", BASES, ids=lambda file: file.stem)
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda file: file.stem)
def test_an_overlay_fits_the_recipe_it_names_and_is_refused_clearly_elsewhere(
    base: Path, overlay: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its `# Run:` line says which recipe it is for; on others it may be valid or is refused in one line."""
    no_hub(monkeypatch)
    code = main(["validate", str(base), str(overlay)])
    error = capsys.readouterr().err
    if code and HUB not in error:
        assert code == 2
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
        assert base.relative_to(ROOT).as_posix() not in command(overlay), error


@pytest.mark.slow
def test_the_main_recipe_goes_through_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The command of the README, on a corpus of a hundred phrases: only its accuracy means nothing."""
    prepare(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    small = [
        f"--data={SMALLER}".replace("--data=", "--data.init_args="),
        f"--requires.encoder.set.data.init_args={SMALLER}",
    ]
    words = ["run", "kws_dsp", "overlays/tiny", "--trainer.accelerator=cpu", "--run.parity_inputs=4", *small]
    words += ["--requires.encoder.set.trainer.accelerator=cpu"]
    assert main(words) == 0, capsys.readouterr().err
    folder = next(Path("runs/kws_dsp").glob("20*"))
    record = read(folder)
    assert record.status == "finished"
    assert set(record.stages.values()) == {"finished"}
    assert list(record.stages) == ["requires", "fit", "finalize", "test", "export", "benchmark"]
    assert {"test/auc_easy", "test/auc_hard", "test/dsp_auc_hard", "test/ctc_auc_hard"} <= set(record.metrics)
    assert record.artifacts[0]["latency"][0]["p50_ms"] > 0
    assert max(record.artifacts[0]["parity"]["test_rows"]["max_abs_diff"].values()) < 1e-2
    capsys.readouterr()
    assert main(["data", "listen", *words[1:3], *small, "--count", "1", "--out", "clips"]) == 0
    assert main(["detect", "last", "--keyword", "turn on the light", "clips/000.wav", "--no-trim", "--json"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("[\n") :])
    assert found[0]["keyword"] == "turn on the light"
    assert main(["show", "last"]) == 0
    assert "test/auc_hard" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_verifier_reuses_encoder_and_phoneme_vectors_and_a_changed_encoder_makes_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    prepare(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    encoder = "--requires.vectors.set.requires.encoder.set"
    small = [f"--{place}trainer.accelerator=cpu" for place in ("", "requires.vectors.set.")]
    small += [f"{encoder}.trainer.accelerator=cpu", "--run.stages=[fit,finalize]"]
    words = ["run", "kws_phoneme", "overlays/phoneme_tiny", *small]
    steps = []
    for change in ([], ["--model.verifier=aligned"], [f"{encoder}.model.blocks=1"]):
        assert main([*words, *change]) == 0, capsys.readouterr().err
        steps.append({name: len(list(Path("runs", name).glob("20*"))) for name in ("kws_encoder", "kws_p2v")})
    assert steps == [
        {"kws_encoder": 1, "kws_p2v": 1},
        {"kws_encoder": 1, "kws_p2v": 1},
        {"kws_encoder": 2, "kws_p2v": 2},
    ]
