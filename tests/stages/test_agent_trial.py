"""What a run learns from the agent of a W&B sweep that started it."""

import json
from pathlib import Path

import pytest
from lightsleeper.recipe.config import RunConfig
from lightsleeper.stages.sweep import AGENT_ENTRY, agent_entry, agent_trial

SETTINGS = RunConfig(monitor="val/loss", mode="min")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("wandb_version: 1\nmodel.dim:\n  desc: null\n  value: 96\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(path))
    monkeypatch.delenv(AGENT_ENTRY, raising=False)


def test_alone_there_is_no_sweep(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.setenv(AGENT_ENTRY, json.dumps({"defer": ["benchmark"]}))
    assert agent_entry(SETTINGS) == {}
    assert agent_trial(SETTINGS) is None


@pytest.mark.usefixtures("agent")
def test_under_wandb_agent_the_entry_is_what_can_be_known():
    entry = agent_entry(SETTINGS)
    assert (entry["id"], entry["name"], entry["parameters"]) == ("abc", "abc", {"model.dim": 96})
    assert (entry["metric"], entry["goal"], entry["method"]) == ("val/loss", "minimize", None)
    assert agent_trial(SETTINGS) is None  # nobody would do later what it left


@pytest.mark.usefixtures("agent")
def test_under_our_agents_the_entry_is_the_sweeps_and_stages_are_left(monkeypatch: pytest.MonkeyPatch):
    told = {"name": "mine", "method": "bayes", "metric": "val/auc", "goal": "maximize", "defer": ["benchmark"]}
    monkeypatch.setenv(AGENT_ENTRY, json.dumps(told))
    trial = agent_trial(SETTINGS)
    assert trial is not None
    assert trial.defer == {"benchmark"}
    assert {key: trial.entry[key] for key in ("name", "method", "metric", "goal")} == {
        key: told[key] for key in ("name", "method", "metric", "goal")
    }
    assert trial.entry["parameters"] == {"model.dim": 96}


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_variable_of_somebody_else_is_no_error(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(AGENT_ENTRY, text)
    assert agent_entry(SETTINGS)["name"] == "abc"
