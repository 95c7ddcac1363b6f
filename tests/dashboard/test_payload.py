"""The payload has what the records have, in columns, within its budgets."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.dashboard import generate, index, payload
from lightsleeper.dashboard.columns import column, dense, numbers_list
from lightsleeper.dashboard.pareto import front_rows
from lightsleeper.dashboard.rows import TABLE, row
from lightsleeper.dashboard.series import knob
from lightsleeper.run_folder import RECORD

COUNT = 160


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    generate.write(folder, COUNT, points=20)
    return folder


@pytest.fixture(scope="module")
def contents(root: Path) -> list[dict[str, Any]]:
    """The records as they are on disk, in the payload's order."""
    found = [json.loads(path.read_text()) for path in root.rglob(RECORD)]
    return sorted(found, key=lambda content: (content["started"], content["run_id"]))


@pytest.fixture(scope="module")
def built(root: Path) -> dict[str, Any]:
    return json.loads(payload.to_json(payload.build(index.load(root), "runs")))


def of(contents: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
    rows = [{"key": str(place), "path": f"r/{place}/record.json", **row(one)} for place, one in enumerate(contents)]
    return payload.build(pa.Table.from_pylist(rows, TABLE), "runs", **kwargs)


def test_every_record_is_a_row_and_every_metric_comes_back(built: dict, contents: list):
    assert built["runs"]["id"] == [content["run_id"] for content in contents]
    for name in {name for content in contents for name in content["metrics"]}:
        for key in ("value", "low", "high", "n"):
            given = [(content["metrics"].get(name) or {}).get(key) for content in contents]
            expected = np.array([np.nan if one is None else one for one in given])
            np.testing.assert_allclose(dense(built, name, key), expected, rtol=1e-5, err_msg=f"{name} {key}")


def test_costs_come_from_sizes_files_and_the_headline_latency(built: dict, contents: list):
    for place, content in enumerate(contents):
        if content["artifacts"]:
            assert dense(built, "artifact.bytes")[place] == content["artifacts"][0]["bytes"]
            assert built["runs"]["fingerprint"][place] == content["artifacts"][0]["latency"][0]["fingerprint"]
            assert dense(built, "size.nonzero")[place] == content["size"]["nonzero"]


def test_every_knob_of_every_run_comes_back_whether_it_differs_or_not(built: dict, contents: list):
    for place, content in enumerate(contents):
        for name, value in content["knobs"].items():
            if name != "seed_everything":
                assert knob(built, name, place) == value, name
        assert knob(built, "model.none", place) is None
    assert "model.dim" not in built["knobs"]
    assert "model.past_frames" in built["knobs"]


def test_the_parameters_of_a_sweep_are_knobs_even_when_they_do_not_vary():
    content = next(one for one in generate.records(9) if one["sweep"])
    assert set(of([content])["sweeps"][0]["parameters"]) - {"seed_everything"} <= of([content])["knobs"].keys()


def test_sweeps_list_their_runs_newest_first(built: dict, contents: list):
    expected = {content["sweep"].get("id") for content in contents} - {None}
    assert {sweep["id"] for sweep in built["sweeps"]} == expected
    for sweep in built["sweeps"]:
        rows = [place for place, content in enumerate(contents) if content["sweep"].get("id") == sweep["id"]]
        assert sweep["runs"] == rows
    firsts = [sweep["runs"][0] for sweep in built["sweeps"]]
    assert firsts == sorted(firsts, reverse=True)


def test_a_status_is_what_a_reader_should_see(built: dict, contents: list):
    assert {"finished", "failed", "interrupted", "died", "pruned"} <= set(built["runs"]["status"])
    for shown, content in zip(built["runs"]["status"], contents, strict=True):
        if content["sweep"].get("pruned"):
            assert shown == "pruned"
        elif content["status"] == "running":
            assert shown == ("died" if content["process"]["heartbeat"] < "2500" else "running")
        else:
            assert shown == content["status"]


def test_a_run_that_lost_its_heartbeat_after_it_was_indexed_is_shown_as_died():
    content = next(iter(generate.records(1)))
    content.update(
        status="running", process={"pid": 1, "host": "b", "birth": None, "heartbeat": "2026-11-01T00:00:00Z"}
    )
    early, late = (datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2))
    assert of([content], now=early)["runs"]["status"] == ["running"]
    assert of([content], now=late)["runs"]["status"] == ["died"]


@pytest.mark.parametrize("heartbeat", ["yesterday", "", "2026-11-01T00:00:00", "9" * 30])
def test_a_heartbeat_that_is_no_time_is_no_error(heartbeat: str):
    content = next(iter(generate.records(1)))
    content.update(status="running", process={"pid": 10**30, "host": "b", "birth": None, "heartbeat": heartbeat})
    assert of([content])["runs"]["status"] == ["running"]


def test_curves_and_training_come_back_with_their_kinds(built: dict, contents: list):
    for place, content in enumerate(contents):
        names = set(content["curves"]) - {"training"}
        assert set(built["curves"].get(str(place), {})) == names
        for name in names:
            given, shown = content["curves"][name], built["curves"][str(place)][name]
            assert shown["kind"] == ("frr_fah" if "fa_per_hour" in given else "det")
            np.testing.assert_allclose(shown["y"], given["frr"], rtol=1e-3)
        training = built["training"][str(place)]
        assert training["train/loss"]["step"] == content["curves"]["training"]["train/loss"]["step"]


def test_an_unreadable_record_is_named_and_the_others_are_shown(root: Path, tmp_path: Path):
    generate.write(tmp_path, 3, points=5)
    for place in range(payload.SKIPPED + 7):
        (tmp_path / "bad" / f"{place}").mkdir(parents=True)
        (tmp_path / "bad" / f"{place}" / RECORD).write_text("{")
    built = payload.build(index.load(tmp_path), "runs")
    assert len(built["runs"]["id"]) == 3
    assert len(built["skipped"]) == payload.SKIPPED
    assert built["more_skipped"] == 7
    assert built["skipped"][0]["path"].startswith("bad/")
    assert "JSON" in built["skipped"][0]["reason"]


def test_budgets_leave_out_and_say_so(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(payload, "METRIC_BYTES", 20_000)
    monkeypatch.setattr(payload, "CURVE_BYTES", 20_000)
    monkeypatch.setattr(payload, "TRAINING_BYTES", 20_000)
    built = payload.build(index.load(root), "runs")
    assert len(json.dumps(built["metrics"], separators=(",", ":"))) < 24_000
    assert built["metrics_left_out"]
    assert "test/auc_hard" in built["metrics"]  # what runs are judged by is the last to go
    for name in ("curves", "training"):
        assert len(json.dumps(built[name], separators=(",", ":"))) < 24_000
        assert built[f"{name}_left_out"] > 0
        assert len(built[name]) > 3


def test_the_curves_of_the_front_and_of_the_newest_runs_are_kept_first(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(payload, "CURVE_BYTES", 60_000)
    built = payload.build(index.load(root), "runs")
    kept = set(map(int, built["curves"]))
    front = set(front_rows(built, "artifact.bytes", built["views"][0]["defaults"]["y"]).tolist())
    assert front <= kept
    others = sorted(kept - set(payload._leaders(built)))
    whole = [row for row, name in enumerate(built["runs"]["recipe"]) if name != "lm_edkm"]
    assert others[-1] >= whole[-8]
    assert built["curves_left_out"] > 0


def test_a_mask_chooses_the_runs(root: Path, contents: list):
    built = payload.build(index.load(root), "runs", keep=lambda runs: np.array(runs["recipe"]) == "lm_edkm")
    assert built["runs"]["id"] == [one["run_id"] for one in contents if one["recipe"] == "lm_edkm"]


def test_no_runs_make_an_empty_payload():
    built = payload.build(TABLE.empty_table(), "runs")
    assert built["runs"]["id"] == []
    assert json.loads(payload.to_json(built))["metrics"] == {}
    assert [view["id"] for view in built["views"]] == ["tradeoff", "sweep", "detection", "runs", "training"]


def test_two_machines_that_look_alike_keep_a_piece_of_their_fingerprint():
    contents = [one for one in generate.records(60) if one["artifacts"]]
    for one in contents:
        one["environment"] = {"cpu": "AMD EPYC", "cores": 2}
    labels = of(contents)["machines"]
    assert len(set(labels.values())) == len(labels) > 1


def test_generated_records_are_the_same_each_time_and_valid():
    first, second = (json.dumps(list(generate.records(40)), sort_keys=True) for _ in range(2))
    assert first == second
    assert len({one["run_id"] for one in generate.records(200)}) == 200


# --- numbers ---


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_numbers_keep_six_digits_and_anything_else_is_null(values: list[float]):
    for before, after in zip(values, numbers_list(np.array(values)), strict=True):
        if not np.isfinite(before):
            assert after is None
        else:
            assert after == pytest.approx(before, rel=1e-5, abs=1e-290)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.integers(-9, 9))
def test_six_digits_are_written_with_six_digits(values: list[int], exponent: int):
    given = np.array(values) * 10.0**exponent
    for number in numbers_list(given):
        digits = json.dumps(number).lower().partition("e")[0].replace(".", "").replace("-", "").strip("0")
        assert len(digits) <= 7


def test_counts_stay_whole():
    assert numbers_list(np.array([1522128.0, np.nan, 3.0])) == [1522128, None, 3]


@given(st.lists(st.none() | st.floats(-1, 1, width=32), min_size=1, max_size=30))
def test_a_column_comes_back_sparse_or_not(values: list[float | None]):
    rows = np.array([place for place, value in enumerate(values) if value is not None], dtype=int)
    if not len(rows):
        return
    known = np.array([value for value in values if value is not None], dtype=float)
    numbers = {"value": known, "low": known - 1, "high": known * np.nan, "n": np.full(len(rows), 5.0)}
    metric = json.loads(json.dumps(column(rows, numbers, len(values))))
    whole = {"metrics": {"m": metric}, "runs": {"id": values}}
    expected = np.array([np.nan if value is None else value for value in values], dtype=float)
    np.testing.assert_allclose(dense(whole, "m"), expected, rtol=1e-5)
    np.testing.assert_allclose(dense(whole, "m", "low"), expected - 1, rtol=1e-5)
    assert np.isnan(dense(whole, "m", "high")).all()
    np.testing.assert_array_equal(dense(whole, "m", "n")[rows], 5)
