"""Every file in sweeps/ is a sweep to W&B and to us, and each of its knobs turns something."""

from pathlib import Path

import pytest
import yaml
from lightsleeper.recipe import header, shipped
from lightsleeper.search.sweep_file import SweepFile, read
from lightsleeper.stages.plan import Plan, check_settings, plan
from search.wandb_rules import violations

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "sweeps").rglob("*.yaml"))
SWEEPS = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def planned(sweep: SweepFile, point: dict) -> Plan:
    return plan(sweep.recipe(point))


def test_there_are_sweeps():
    assert {"kws_context_sparsity", "words_sparsity_bits", "words_branches", "lm_bits", "lm_subclone"} <= {
        file.stem for file in FILES
    }


def test_every_sweep_is_shipped():
    assert list(shipped("sweeps").values()) == FILES


@SWEEPS
def test_it_says_what_it_claims_what_to_expect_how_long_and_how_to_run_it(file: Path):
    lines = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert header(file)
    assert [line.partition(":")[0] for line in lines[1:]] == ["# Claim", "# Expect", "# Time", "# Run"]
    assert lines[-1].partition(": ")[2].strip() == f"lightning sweep sweeps/{file.name}"


@SWEEPS
def test_it_is_valid_to_wandb(file: Path):
    content = yaml.safe_load(file.read_text())
    assert violations(content) == []
    assert content["program"].startswith("recipes/")  # W&B shows it, and its agents want one


@SWEEPS
def test_it_reads_by_name_outside_the_repository(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    sweep = read(file.stem)
    sweep.check_local()
    assert sweep.name == file.stem
    assert sweep.metric == sweep.recipe({}).config["run"]["monitor"]
    assert sweep.goal == {"max": "maximize", "min": "minimize"}[sweep.recipe({}).config["run"]["mode"]]


@SWEEPS
def test_its_first_and_last_trial_pass_the_check_stage(file: Path):
    sweep = read(file)
    points = list(sweep.points())
    assert 5 <= len(points) <= 30
    for point in (points[0], points[-1]):
        check_settings(planned(sweep, point))


@SWEEPS
def test_each_knob_changes_what_is_trained(file: Path):
    sweep = read(file)
    first = next(sweep.points())
    start = planned(sweep, first).hash
    for name, parameter in sweep.parameters.items():
        other = planned(sweep, {**first, name: parameter.grid()[-1]}).hash
        assert other != start, name


def test_an_encoder_is_trained_once_for_each_context_and_by_two_workers_at_a_time():
    sweep = read("kws_context_sparsity")
    points = list(sweep.points())
    steps = [planned(sweep, point).steps["encoder"].hash for point in points]
    assert len(set(steps)) == 4
    assert steps[0] != steps[1]  # else the second worker waits for the first one's encoder


def test_without_subcloning_a_language_model_starts_at_random():
    sweep = read("lm_subclone")
    callbacks = [set(planned(sweep, point).config["callbacks"]) for point in sweep.points()]
    assert callbacks == [{"subclone"}] * 6 + [set()] * 6
