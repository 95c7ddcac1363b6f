"""The views as W&B's workspace and report: objects built, then saved at a local stand-in (`search.wandb_stand_in`)."""

import copy
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from lightsleeper.dashboard.workspace import knob, metric, place, publish, report, workspace
from lightsleeper.errors import UserError
from lightsleeper.tracking.record import Record
from lightsleeper.tracking.weights_and_biases import summary, swept
from search.wandb_stand_in import ENTITY, KEY, PROJECT, StandIn, serving

PRUNE, PAST = "callbacks.prune.sparsity", "requires.encoder.set.model.past_frames"
SWEEP = {"x": PAST, "series": PRUNE, "heat": [PAST, PRUNE], "y": "test/auc_hard", "knobs": [PAST, PRUNE]}


def column(label: str, kind: str, better: str | None, **more: Any) -> dict[str, Any]:
    return {"label": label, "kind": kind, "better": better, "unit": "", "value": [0.5, 0.6], **more}


PAYLOAD: dict[str, Any] = {
    "version": 1,
    "generated": "2026-11-26T05:00:00+00:00",
    "runs": {
        "id": ["a", "b"],
        "fingerprint": ["box", "box"],
        "url": [f"https://wandb.example/x/{ENTITY}/{PROJECT}/runs/1", None],
    },
    "machines": {"box": "AMD EPYC, 2 cores", "pi": "Raspberry Pi"},
    "metrics": {
        "test/auc_hard": column("AUC (hard)", "quality", "higher"),
        "latency.p50_ms": column("Latency, median", "cost", "lower", unit="ms", machine=True, log=True),
        "artifact.gzip_bytes": column("Exported file, gzipped", "cost", "lower", unit="B", log=True),
        "compress.sparsity": column("Sparsity", "compression", "higher"),
    },
    "sweeps": [{"id": "study-1", "name": "study", "parameters": [PAST, PRUNE], "runs": [0, 1]}],
    "views": [
        {
            "id": "tradeoff",
            "title": "Quality against cost",
            "kind": "scatter",
            "defaults": {"x": "latency.p50_ms", "y": "test/auc_hard"},
            "options": {"x": ["latency.p50_ms", "artifact.gzip_bytes", "test/auc_hard"], "y": ["test/auc_hard"]},
        },
        {
            "id": "sweep",
            "title": "Sweeps",
            "kind": "sweep",
            "defaults": {"sweep": "study-1", **SWEEP},
            "options": {"sweeps": {"study-1": SWEEP}},
        },
        {"id": "detection", "title": "Operating points", "kind": "curves", "defaults": {}, "options": {}},
        {"id": "runs", "title": "Runs", "kind": "table", "defaults": {}, "options": {}},
        {
            "id": "training",
            "title": "Training",
            "kind": "training",
            "defaults": {"metric": "val/auc_hard"},
            "options": {"metric": ["train/loss", "val/auc_hard"]},
        },
    ],
}


def two_machines() -> dict[str, Any]:
    payload = copy.deepcopy(PAYLOAD)
    payload["runs"]["fingerprint"] = ["box", "pi"]
    return payload


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in ("WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    with serving([]) as stand_in:
        for name, value in (("BASE_URL", stand_in.url), ("API_KEY", KEY), ("SILENT", "true")):
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield stand_in


def sections(payload: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    model = workspace(payload, ENTITY, PROJECT)._to_model()
    spec = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))["spec"]["section"]
    return {section["name"]: section["panels"] for section in spec["panelBankConfig"]["sections"]}


def grids(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """Panel grids of the report: {runset, filters (text), panels}."""
    spec = json.loads(
        report(payload, ENTITY, PROJECT)._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )
    found = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [
        {
            "runset": grid["runSets"][0]["name"],
            "filters": json.dumps(grid["runSets"][0]["filters"]),
            "panels": grid["panelBankSectionConfig"]["panels"],
        }
        for grid in found
    ]


def axes(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in panels if panel["viewType"] == "Scatter Plot"
    ]


# --- names ---


def test_metrics_are_called_as_the_tracker_writes_them():
    record = Record("r", "kws", "F", 1, "g", "h", {}, {})
    record.artifacts = [
        {"format": "onnx", "bytes": 5, "gzip_bytes": 3, "latency": [{"p50_ms": 2.0, "fingerprint": "box"}]}
    ]
    record.metrics = {"test/auc_hard": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 3, "method": "x"}}
    record.size, record.context, record.seconds = {"macs": 7}, {"past_ms": 40.0}, {"fit": 1.0}
    names = summary(record)
    for name in (
        "test/auc_hard",
        "latency.p50_ms",
        "artifact.bytes",
        "artifact.gzip_bytes",
        "size.macs",
        "context.past_ms",
        "seconds.fit",
    ):
        assert metric(name).name in names, name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("model.past_frames", "model.init_args.past_frames"),
        ("model", "model"),
        ("callbacks.prune.sparsity", "callbacks.prune.init_args.sparsity"),
        ("callbacks.prune", "callbacks.prune"),
        ("trainer.max_epochs", "trainer.max_epochs"),
        ("seed_everything", "seed_everything"),
        (PAST, "sweep.requires/encoder/set/model/past_frames"),
    ],
)
def test_knobs_are_called_as_the_config_has_them(name: str, path: str):
    assert knob(name).name == path


def test_a_knob_of_a_step_is_in_the_config_of_its_trial():
    record = Record("r", "kws", "F", 1, "g", "h", {}, {})
    assert swept(record) == {}
    record.sweep = {"parameters": {PAST: 4}}
    section, name = knob(PAST).name.split(".", 1)
    assert swept(record) == {section: {name: 4}}


# --- the workspace ---


def test_every_view_is_a_section_with_panels():
    found = sections(PAYLOAD)
    assert list(found) == [view["title"] for view in PAYLOAD["views"]]
    assert all(found.values())


def test_the_first_plot_is_the_pages_own_with_the_front_as_a_line():
    first = sections(PAYLOAD)["Quality against cost"][0]["config"]
    assert (first["xAxis"], first["yAxis"]) == ("summary:artifacts.0.latency.p50_ms", "summary:test/auc_hard")
    assert first["chartTitle"] == "AUC (hard) against Latency, median (ms)"
    assert first["xAxisLogScale"] is True
    assert first["showMaxYAxisLine"] is True
    assert "showMinYAxisLine" not in first


def test_latencies_of_two_machines_are_never_in_one_plot():
    panels = sections(two_machines())["Quality against cost"]
    assert axes(panels) == [("summary:artifacts.0.gzip_bytes", "summary:test/auc_hard")]
    assert "several machines" in json.dumps(panels)


def test_a_sweep_is_its_quality_over_each_knob():
    panels = sections(PAYLOAD)["Sweeps"]
    assert axes(panels) == [
        ("config:sweep.value.requires/encoder/set/model/past_frames", "summary:test/auc_hard"),
        ("config:callbacks.value.prune.init_args.sparsity", "summary:test/auc_hard"),
    ]
    columns = [column["accessor"] for column in panels[-1]["config"]["columns"]]
    assert columns[-1] == "summary:test/auc_hard"
    assert len(columns) == 3


def many_sweeps() -> dict[str, Any]:
    """Seven, newest first, as a payload has them."""
    payload = copy.deepcopy(PAYLOAD)
    names = [f"study-{number}" for number in reversed(range(7))]
    payload["sweeps"] = [{**PAYLOAD["sweeps"][0], "id": name, "name": name} for name in names]
    shown = next(view for view in payload["views"] if view["kind"] == "sweep")
    shown["options"] = {"sweeps": {name: {**SWEEP, "knobs": [f"model.of_{name}"]} for name in names}}
    return payload


def test_of_many_sweeps_the_newest_are_shown(server: StandIn):
    text = json.dumps(sections(many_sweeps())["Sweeps"])
    assert [f"of_study-{number}" in text for number in range(7)] == [False] + [True] * 6
    shown = [grid["runset"] for grid in grids(many_sweeps()) if grid["runset"].startswith("study")]
    assert shown == [f"study-{number}" for number in (6, 5, 4, 3, 2, 1)]


def test_a_further_exported_file_is_no_axis_because_its_number_is_not_known():
    payload = copy.deepcopy(PAYLOAD)
    name = "artifact.packed.safetensors.bytes"
    payload["metrics"][name] = column("Exported packed.safetensors", "cost", "lower", unit="B")
    payload["views"][0]["options"]["x"].append(name)
    assert "packed" not in json.dumps(sections(payload)["Quality against cost"])


def test_training_curves_start_with_the_pages_choice():
    lines = [(panel["config"]["xAxis"], panel["config"]["metrics"]) for panel in sections(PAYLOAD)["Training"]]
    assert lines == [("trainer/global_step", ["val/auc_hard"]), ("trainer/global_step", ["train/loss"])]


def test_a_payload_without_numbers_still_makes_a_workspace():
    payload = copy.deepcopy(PAYLOAD)
    payload["metrics"], payload["sweeps"] = {}, []
    for view in payload["views"]:
        view["defaults"], view["options"] = {"x": None, "y": None}, {"x": [], "y": []}
    assert sections(payload)["Quality against cost"] == []


# --- the report ---


def test_the_report_has_a_plot_for_each_machine(server: StandIn):
    timed = [grid for grid in grids(two_machines()) if "latency" in json.dumps(axes(grid["panels"]))]
    assert [grid["runset"] for grid in timed] == ["AMD EPYC, 2 cores", "Raspberry Pi"]
    for grid, name in zip(timed, ("box", "pi"), strict=True):
        assert '"artifacts.0.latency.fingerprint"' in grid["filters"]
        assert f'"value": "{name}"' in grid["filters"]


def test_the_report_shows_a_sweep_with_its_own_runs(server: StandIn):
    [grid] = [grid for grid in grids(PAYLOAD) if grid["runset"] == "study"]
    assert '"name": "group"' in grid["filters"]
    assert '"name": "sweep"' in grid["filters"]
    assert grid["filters"].count('"value": "study-1"') == 2


# --- saving ---


def test_both_are_saved_and_linked(server: StandIn):
    lines = publish(PAYLOAD, f"{ENTITY}/{PROJECT}")
    assert server.unknown == []
    assert [view["type"] for view in server.views] == ["project-view", "runs"]
    assert all((view["entityName"], view["projectName"]) == (ENTITY, PROJECT) for view in server.views)
    assert lines[0].startswith(f"workspace: {server.url}/{ENTITY}/{PROJECT}?nw=")
    assert lines[1].startswith(f"report: {server.url}/{ENTITY}/{PROJECT}/reports/")


def test_the_project_is_that_of_the_runs_or_as_asked_for():
    assert place(PAYLOAD, None) == (ENTITY, PROJECT)
    assert place(PAYLOAD, "team/other") == ("team", "other")
    with pytest.raises(UserError, match="expected ENTITY/PROJECT"):
        place(PAYLOAD, "kws")
    payload = copy.deepcopy(PAYLOAD)
    payload["runs"]["url"] = [None, None]
    with pytest.raises(UserError, match="no run here is known to W&B .*: --project ENTITY/PROJECT"):
        place(payload, None)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"--wandb needs wandb-workspaces \(extra reports\)"):
        publish(PAYLOAD, "a/b")


def test_without_a_key_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="--wandb needs a W&B key"):
        publish(PAYLOAD, "a/b")


def test_what_wandb_refuses_is_one_line(server: StandIn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", lambda self: 1 / 0)
    with pytest.raises(UserError, match="W&B did not take the dashboard for a/b: division by zero"):
        publish(PAYLOAD, "a/b")
