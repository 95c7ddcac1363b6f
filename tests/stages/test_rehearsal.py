"""Models that need earlier steps are built on stand-ins, which are true enough and leave no trace."""

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightsleeper.deploy.finalize import save_model
from lightsleeper.errors import UserError
from lightsleeper.models.family import Family
from lightsleeper.recipe import load
from lightsleeper.stages.plan import check, plan
from lightsleeper.stages.rehearsal import rehearse
from tiny_family import BuiltOn, TinyData
from tiny_runs import last, prepare, start, two_recipes

RUNS = Path("runs")
BUILT_ON = ["--model.class_path=tiny_family.BuiltOn", "--model.encoder=${requires.encoder}"]
BORING = "--requires.encoder.set={run: {stages: [fit]}, model: lightning.pytorch.demos.boring_classes.BoringModel}"


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.mark.parametrize("recipe", ["kws_finetune", "kws_dsp", "kws_encoder", "kws_cmcd"])
def test_it_draws_no_random_numbers_and_leaves_no_file(recipe: str):
    todo = plan(load([recipe]))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    rehearse(todo, RUNS)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert not list(Path("temporary").iterdir())
    assert not RUNS.exists()


def test_the_model_is_given_a_finished_model_that_loads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BuiltOn, "built", [])
    rehearse(plan(load([two_recipes()], BUILT_ON)), RUNS)
    assert BuiltOn.built == [["model.json", "model.safetensors"]]


def test_a_finished_step_plays_itself(monkeypatch: pytest.MonkeyPatch):
    saved: list[Path] = []

    def save(model: Family, folder: Path, meta: dict[str, Any]) -> Path:
        saved.append(folder)
        return save_model(model, folder, meta)

    start(two_recipes(), "--run.stages=[fit]", "--trainer.max_epochs=1")
    monkeypatch.setattr("lightsleeper.stages.rehearsal.save_model", save)
    rehearse(plan(load([two_recipes()])), RUNS)
    assert not saved
    shutil.rmtree(last("step") / "export")
    rehearse(plan(load([two_recipes()])), RUNS)
    assert len(saved) == 1


@pytest.mark.parametrize(
    "overrides", [[BORING], [*BUILT_ON, "--model.file=checkpoints/best.ckpt"]], ids=["no family", "a checkpoint"]
)
def test_what_a_stand_in_cannot_play_is_left_to_the_run(overrides: list[str]):
    rehearse(plan(load([two_recipes()], overrides)), RUNS)


# --- data ---


def refusing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data modules of so many rows find their data missing."""

    def early(self: TinyData) -> None:
        if self.rows == rows:
            raise UserError("the rows are gone")

    monkeypatch.setattr(TinyData, "check", early, raising=False)


def test_the_data_of_a_step_is_asked_for_before_the_step_runs(monkeypatch: pytest.MonkeyPatch):
    refusing(40, monkeypatch)
    path = two_recipes()
    with pytest.raises(UserError, match=r"^step.yaml:5: data: the rows are gone"):
        start(path, "--requires.encoder.set.data.rows=40")
    assert not list(RUNS.glob("*/*"))


def test_the_data_of_a_finished_step_may_be_gone(monkeypatch: pytest.MonkeyPatch):
    start(two_recipes(), "--data.rows=40", "--run.stages=[fit]", "--trainer.max_epochs=1")
    refusing(48, monkeypatch)
    check(plan(load([two_recipes()], ["--data.rows=40"])), RUNS)
    with pytest.raises(UserError, match="the rows are gone"):
        check(plan(load([two_recipes()])), RUNS)


def test_a_run_that_has_only_its_benchmark_left_needs_no_data(monkeypatch: pytest.MonkeyPatch):
    refusing(48, monkeypatch)
    todo = plan(load([two_recipes()], ["--requires=null", "--model.encoder=null"]))
    check(todo, RUNS, done={"fit", "finalize", "test"})
    with pytest.raises(UserError, match="the rows are gone"):
        check(todo, RUNS, done={"fit", "finalize"})
