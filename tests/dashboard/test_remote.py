"""Runs of a W&B project come back as the rows that their records would have made."""

import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from lightsleeper.dashboard import generate, make, remote
from lightsleeper.dashboard.payload import build
from lightsleeper.dashboard.rows import TABLE, row
from lightsleeper.errors import UserError
from lightsleeper.tracking.record import Record
from lightsleeper.tracking.weights_and_biases import summary, swept, told

PROJECT = "team/kws"


class FakeApi:
    """`wandb.Api` as far as it is used: the runs of one project."""

    def __init__(self, runs: list[Any] | Exception) -> None:
        self._runs = runs

    def runs(self, path: str, per_page: int, lazy: bool) -> list[Any]:
        if isinstance(self._runs, Exception):
            raise self._runs
        return self._runs


def contents(count: int = 30) -> list[dict[str, Any]]:
    found = [json.loads(json.dumps(one)) for one in generate.records(count, points=5)]
    for place, one in enumerate(found):
        one["tracking"] = {"id": f"id{place}", "url": f"https://wandb.ai/{PROJECT}/runs/id{place}"}
        one["config"] = {
            "seed_everything": one["seed"],
            "model": {"class_path": f"lightsleeper.models.{one['family']}", "init_args": {"dim": 144}},
        }
    return found


def online(content: dict[str, Any], **changes: Any) -> SimpleNamespace:
    """The run as W&B's API gives it after `tracking.weights_and_biases` has logged it."""
    record = Record(**content)
    states = {"finished": "finished", "running": "crashed", "failed": "failed", "interrupted": "failed"}
    known = {
        "id": record.tracking["id"],
        "name": record.run_id,
        "job_type": record.recipe,
        "group": record.group,
        "state": states[record.status],
        "created_at": record.started,
        "url": record.tracking["url"],
        "config": {**record.config, "environment": record.environment, **swept(record), "record": told(record)},
        "summary_metrics": {**json.loads(json.dumps(summary(record))), "_runtime": 3, "val/auc_hard": 0.5},
        "sweep": None,
    }
    return SimpleNamespace(**{**known, **changes})


def payload(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return build(pa.Table.from_pylist(rows, TABLE), PROJECT)


def local(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": str(place), "path": "a/b/record.json", **row(one)} for place, one in enumerate(found)]


def test_a_run_read_back_has_the_numbers_of_its_record():
    found = [one for one in contents() if one["metrics"] and not one["sweep"]]
    ours, theirs = payload(local(found)), payload(remote.rows(FakeApi([online(one) for one in found]), PROJECT))
    for name in ("id", "recipe", "family", "status", "started", "seed", "group", "fingerprint", "timed", "url"):
        assert theirs["runs"][name] == ours["runs"][name], name
    assert theirs["machines"] == ours["machines"]
    assert theirs["metrics"].keys() == ours["metrics"].keys()
    for name, metric in ours["metrics"].items():
        for key in ("value", "low", "high"):
            assert theirs["metrics"][name][key] == metric[key], (name, key)


def test_trials_of_a_local_sweep_are_a_sweep_and_no_seeds_of_each_other():
    found = [one for one in contents(120) if one["sweep"].get("name") == "kws_context_sparsity"]
    found = [one for one in found if one["status"] == "finished"]
    found[0]["sweep"]["parameters"]["requires.encoder.set.model.dim"] = 32
    found[0]["sweep"]["pruned"] = True
    ids = {one["sweep"]["id"] for one in found}
    assert len(ids) == 1
    trials = [online(one, group=ids.copy().pop()) for one in found]  # as the engine files them at W&B
    ours, theirs = payload(local(found)), payload(remote.rows(FakeApi(trials), PROJECT))
    for name in ("group", "parent", "sweep", "trial", "judged_by", "status"):
        assert theirs["runs"][name] == ours["runs"][name], name
    assert theirs["sweeps"] == ours["sweeps"]
    assert theirs["knobs"]["requires.encoder.set.model.dim"] == ours["knobs"]["requires.encoder.set.model.dim"]


def test_a_run_that_told_nothing_of_itself_has_the_group_of_wandb():
    content = contents()[5]
    run = online(content, group="theirs")
    del run.config["record"]
    assert remote.content(run)["group"] == "theirs"


def test_nested_summaries_are_read_like_flat_ones():
    content = next(one for one in contents() if one["metrics"])
    run = online(content)
    nested: dict[str, Any] = {}
    for name, value in run.summary_metrics.items():
        if name.startswith("size."):
            nested.setdefault("size", {})[name.removeprefix("size.")] = value
        else:
            nested[name] = value
    assert remote.content(online(content, summary_metrics=nested)) == remote.content(run)


def test_a_sweep_of_wandb_is_a_sweep():
    content = next(one for one in contents() if one["metrics"])
    config = {
        "name": "context",
        "method": "bayes",
        "metric": {"name": "val/auc_hard", "goal": "maximize"},
        "parameters": {"model.dim": {"values": [96, 144]}},
    }
    sweep = SimpleNamespace(id="abc", config=config)
    built = payload(remote.rows(FakeApi([online(content, sweep=sweep)]), PROJECT))
    assert built["sweeps"][0] | {"runs": []} == {
        "id": "abc",
        "name": "context",
        "method": "bayes",
        "metric": "val/auc_hard",
        "goal": "maximize",
        "parameters": ["model.dim"],
        "runs": [],
    }
    assert built["metrics"]["val/auc_hard"]["value"] == [0.5]
    assert built["knobs"]["model.dim"]["values"] == [144]


def test_a_foreign_run_is_named_and_skipped():
    foreign = SimpleNamespace(
        id="x", name="sunny-7", state="finished", url="", config={}, summary_metrics={"loss": 1}, sweep=None
    )
    built = payload(remote.rows(FakeApi([foreign, online(contents()[5])]), PROJECT))
    assert len(built["runs"]["id"]) == 1
    assert built["skipped"] == [{"path": "team/kws/x/-", "reason": "a W&B run that lightsleeper has not made"}]


@pytest.mark.parametrize(
    "summary_metrics", [None, {}, {"status": 3}, {"artifacts.x.bytes": 1, "artifacts.9.b": {}}, {"test/a": "NaN"}]
)
def test_odd_summaries_break_nothing(summary_metrics: Any):
    api = FakeApi([online(contents()[5], summary_metrics=summary_metrics, job_type=None)])
    built = payload(remote.rows(api, PROJECT))
    assert len(built["runs"]["id"]) + len(built["skipped"]) == 1


@pytest.mark.parametrize("project", ["kws", "a/b/c", "", "a b/c", "/kws"])
def test_a_project_needs_an_entity(project: str):
    with pytest.raises(UserError, match="expected ENTITY/PROJECT"):
        remote.rows(FakeApi([]), project)


def test_what_wandb_refuses_is_one_line():
    with pytest.raises(UserError, match=r"W&B project team/kws: project not found\.$"):
        remote.rows(FakeApi(ValueError("project not found.\nTraceback ...")), PROJECT)


def test_without_a_key_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no W&B key"):
        remote.connect()


def test_a_run_of_this_machine_is_not_shown_twice(monkeypatch: pytest.MonkeyPatch, tmp_path):
    found = contents(12)
    for one in found[:8]:
        folder = tmp_path / one["recipe"] / one["run_id"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(one))
    monkeypatch.setattr(remote, "connect", lambda: FakeApi([online(one) for one in found[4:]]))
    built = make.Source(tmp_path, project=PROJECT).payload()
    assert sorted(built["runs"]["id"]) == sorted(one["run_id"] for one in found)
    curves = {built["runs"]["id"][int(row)] for row in built["curves"]}
    assert curves == {one["run_id"] for one in found[:8] if set(one["curves"]) - {"training"}}  # only records have them
