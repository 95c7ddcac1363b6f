"""A record may hold anything: it is shown safely, or named and skipped."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.dashboard import generate
from lightsleeper.dashboard.curves import CURVE_POINTS, curve, thin
from lightsleeper.dashboard.payload import build, to_json
from lightsleeper.dashboard.rows import SECTIONS, TABLE, Unreadable, read, row
from lightsleeper.dashboard.safe import text

BASE = json.dumps(next(one for one in generate.records(9, points=7) if one["recipe"] == "kws_dsp" and one["metrics"]))


def record(**changes: Any) -> dict[str, Any]:
    return {**json.loads(BASE), **changes}


def value(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((item for item in row(content)["values"] if item["name"] == name), None)


def shown(content: dict[str, Any]) -> dict[str, Any]:
    """The payload of one record, which has to be JSON."""
    table = pa.Table.from_pylist([{"key": "k", "path": "kws/run/record.json", **row(content)}], TABLE)
    return json.loads(to_json(build(table, "runs")))


def test_a_record_gives_its_numbers_under_the_names_of_the_axes():
    content = record()
    latency = content["artifacts"][0]["latency"][0]
    assert value(content, "test/auc_hard")["low"] == content["metrics"]["test/auc_hard"]["low"]
    assert value(content, "latency.p50_ms")["value"] == latency["p50_ms"]
    assert value(content, "latency.p50_ms")["high"] == latency["p90_ms"]
    assert value(content, "artifact.gzip_bytes")["value"] == content["artifacts"][0]["gzip_bytes"]
    assert value(content, "context.past_ms")["value"] == content["context"]["past_ms"]
    assert value(content, "seconds.total")["value"] == pytest.approx(sum(content["seconds"].values()))
    assert value(content, content["sweep"]["metric"])["value"] == content["sweep"]["value"]


def test_the_compression_of_a_later_callback_speaks_for_the_whole():
    facts = {"prune": {"compress/bytes": 100}, "cluster": {"phase": "cluster", "compress/bytes": 30, "other": 1}}
    content = record(compression=facts)
    assert value(content, "compress.bytes")["value"] == 30
    assert value(content, "compress.other") is None


def test_two_callbacks_of_one_phase_keep_their_own_facts():
    facts = {
        "first": {"phase": "prune", "compress/sparsity": 0.5, "compress/bytes": 90},
        "second": {"phase": "prune", "compress/sparsity": 0.8},
        "cluster": {"phase": "cluster", "compress/bytes": 30},
    }
    content = record(compression=facts)
    assert value(content, "compress.first.sparsity")["value"] == 0.5
    assert value(content, "compress.second.sparsity")["value"] == 0.8
    assert value(content, "compress.sparsity") is None
    assert value(content, "compress.bytes")["value"] == 30


def test_other_exported_files_have_their_own_sizes():
    artifacts = [
        {"format": "onnx", "path": "export/model.onnx", "bytes": 9},
        {"format": "packed", "path": "export/packed.safetensors", "bytes": 3},
        {"format": "coreml", "bytes": 4},
    ]
    assert value(record(artifacts=artifacts), "artifact.packed.safetensors.bytes")["value"] == 3
    assert value(record(artifacts=artifacts), "artifact.coreml.bytes")["value"] == 4
    assert value(record(artifacts=artifacts), "artifact.bytes")["value"] == 9


def test_the_conditions_of_the_headline_latency_are_told():
    assert row(record())["timed"] == "hop of 40 ms, 1 thread, onnx fp32"
    assert row(record(artifacts=[]))["timed"] is None


@pytest.mark.parametrize(
    ("swept", "monitor", "first"),
    [
        ("val/eer_easy", "val/auc_hard", "test/eer_easy"),
        (None, "val/auc_hard", "test/auc_hard"),
        (None, "val/loss", "test/auc_easy"),  # the family's own first headline: a loss tells a reader less
        ("val/unknown", None, "test/auc_easy"),
    ],
)
def test_a_run_is_judged_by_the_twin_of_what_chose_it(swept: str | None, monitor: str | None, first: str):
    content = record(sweep={"metric": swept} if swept else {}, config={"run": {"monitor": monitor}})
    content["metrics"]["test/loss"] = {"value": 0.5}
    assert row(content)["primary"] == first


def test_without_a_headline_a_run_is_judged_by_its_monitor():
    content = record(sweep={}, config={"run": {"monitor": "val/loss"}}, headline=[])
    content["metrics"]["test/loss"] = {"value": 0.5}
    assert row(content)["primary"] == "test/loss"


# --- curves ---


@pytest.mark.parametrize(
    ("content", "kind", "x", "y"),
    [
        ({"far": [0.5, 0.1], "frr": [0.0, 1.0], "threshold": [0, 1]}, "det", [0.5, 0.1], [0.0, 1.0]),
        ({"fpr": [0, 1], "tpr": [0.5, 1]}, "roc", [0, 1], [0.5, 1]),
        ({"fa_per_hour": [0.1, 10], "frr": [0.5, 0.25]}, "frr_fah", [0.1, 10], [0.5, 0.25]),
        ({"kind": "det", "x": [0.5], "y": [0.25]}, "det", [0.5], [0.25]),
        ({"far": [0.5, None, math.nan], "frr": [0.25, 0.25, 0.5]}, "det", [0.5], [0.25]),
    ],
)
def test_a_curve_is_known_by_the_names_of_its_lists(content: dict, kind: str, x: list, y: list):
    found = curve(content)
    assert found is not None
    assert found["kind"] == kind
    np.testing.assert_allclose(found["x"], x, rtol=1e-6)
    np.testing.assert_allclose(found["y"], y, rtol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        *(None, 3, "far", [], {}, {"far": [1]}, {"far": [1], "frr": [1, 2]}, {"far": "ab", "frr": "cd"}),
        *({"x": [1], "y": [1]}, {"kind": "pie", "x": [1], "y": [1]}, {"far": [], "frr": []}),
        {"far": [[1]], "frr": [[1]]},
        {"far": [10**400], "frr": [1]},
    ],
)
def test_what_is_no_curve_is_left_out(content: Any):
    assert curve(content) is None


def test_the_shipped_threshold_is_marked_between_the_points_around_it():
    found = curve({"threshold": [0, 1, 2], "far": [1.0, 0.5, 0.0], "frr": [0.0, 0.25, 1.0]}, ("equal errors", 1.5))
    assert found["points"] == [{"name": "equal errors", "x": 0.25, "y": 0.625}]


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    found = curve({"far": np.linspace(1, 0, 5001).tolist(), "frr": np.linspace(0, 1, 5001).tolist()})
    assert len(found["x"]) == CURVE_POINTS
    assert (found["x"][0], found["x"][-1]) == (1, 0)


@given(st.integers(0, 3000), st.integers(2, 200))
def test_thinning_keeps_order_and_ends(count: int, limit: int):
    kept = thin(count, limit)
    assert len(kept) == min(count, limit)
    assert list(kept) == sorted(set(kept))
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)


# --- hostile files ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no complete JSON"),
        (b'{"schema": 1, "run_id": "a", "metr', "no complete JSON"),
        (b"\xff\xfe\x00", "UTF"),
        (b'{"schema": 1, "run_id": "\xe4"}', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"{}", "schema null"),
        (b'{"schema": 0, "run_id": "a", "recipe": "b"}', "schema 0; this version reads 1"),
        (b'{"schema": 2, "run_id": "a", "recipe": "b"}', "schema 2, written by a newer version"),
        (b'{"schema": true, "run_id": "a", "recipe": "b"}', "schema true"),
        (b'{"schema": 1, "recipe": "b"}', "no 'run_id'"),
        (b'{"schema": 1, "run_id": 7, "recipe": "b"}', "no 'run_id'"),
        (b'{"schema": 1, "run_id": "a", "recipe": "b", "metrics": [1]}', "'metrics' is no object"),
        (b'{"schema": 1, "run_id": "a", "recipe": "b", "sweep": "x"}', "'sweep' is no object"),
        (b'{"schema": ' + b"9" * 6000 + b"}", "no complete JSON"),
    ],
)
def test_what_is_no_record_is_refused_with_a_short_reason(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=reason) as caught:
        read(path)
    assert len(str(caught.value)) < 400


def test_a_folder_a_pipe_and_a_huge_file_are_refused_unread(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**9)
    for name, reason in (("folder", "no file"), ("pipe", "no file"), ("huge", "larger than"), ("none", "No such file")):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / name)


def test_a_record_with_only_its_name_is_shown():
    payload = shown({"schema": 1, "run_id": "a", "recipe": "b"})
    assert payload["runs"]["id"] == ["a"]
    assert payload["metrics"] == {}


def test_a_ten_megabyte_note_is_cut():
    note = "<script>" * 1_300_000
    content = record(error=note, knobs={"note": note, note: 1}, headline=[note], note=note)
    content["metrics"][note] = {"value": 1.0, "low": None, "high": None, "n": 1, "method": note}
    content["config"]["tracking"] = {"notes": note}
    payload = shown(content)
    assert len(to_json(payload)) < 60_000
    assert payload["runs"]["error"][0].startswith("<script>")


@pytest.mark.parametrize("bad", [math.nan, math.inf, "0.5", True, None, [], {}, 10**400, {"value": "x"}])
def test_a_metric_without_a_number_has_no_value(bad: Any):
    content = record()
    content["metrics"]["test/auc_hard"] = {"value": bad, "low": bad, "high": bad, "n": bad, "method": bad}
    content["metrics"]["test/eer_hard"] = bad
    content["size"]["macs"] = bad
    content["artifacts"][0]["latency"][0]["p50_ms"] = bad
    payload = shown(content)
    assert not {"test/auc_hard", "test/eer_hard", "size.macs", "latency.p50_ms"} & payload["metrics"].keys()


@pytest.mark.parametrize("name", [*record(), "note"])
@pytest.mark.parametrize("bad", [None, 3, -1.5, "x", True, [], [[]], {}, {"a": {"b": []}}, [None], {"latency": 3}])
def test_any_field_of_any_type_is_shown_or_named(name: str, bad: Any):
    try:
        payload = shown(record(**{name: bad}))
    except Unreadable:
        assert name in ("schema", "run_id", "recipe", *SECTIONS)
    else:
        assert len(payload["runs"]["id"]) == 1


def test_half_a_surrogate_pair_and_a_nul_are_text():
    assert text("a\ud800b") == "a?b"
    payload = shown(record(run_id="\ud800", error="a\x00b</script>"))
    assert payload["runs"]["id"] == ["?"]
    assert payload["runs"]["error"] == ["a\x00b</script>"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", " https://a"])
def test_only_web_addresses_become_links(url: str):
    assert row(record(tracking={"url": url}))["url"] is None
    assert row(record(tracking={"url": "https://wandb.ai/a"}))["url"] == "https://wandb.ai/a"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*record(), "note"]), ANYTHING, max_size=6))
def test_no_record_breaks_the_dashboard(changes: dict[str, Any]):
    try:
        payload = shown({**record(), **changes})
    except Unreadable:
        return
    assert payload["version"] == 1
