"""Every figure lies beside the table it was drawn from, whatever runs are called."""

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lightsleeper.dashboard import figures, generate
from lightsleeper.dashboard.drawing import COLOURS, coloured, lines, to_csv
from lightsleeper.dashboard.pareto import front_rows
from lightsleeper.dashboard.payload import build
from lightsleeper.dashboard.rows import TABLE, row

ALL = ["detection_det", "detection_frr_fah", "detection_roc", "heatmap", "runs", "sweep", "tradeoff", "training"]
HOSTILE = ["=1+1", "<script>alert(1)</script>", "$\\frac{$", "a\x00\n\u202eb", "x" * 400, "日本", "-2"]


def payload(contents: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [{"key": str(place), "path": f"r/{place}/record.json", **row(one)} for place, one in enumerate(contents)]
    return build(pa.Table.from_pylist(rows, TABLE), "runs")


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return payload(list(generate.records(90, points=12)))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_view_is_a_picture_beside_its_data(built: dict, tmp_path: Path):
    written = figures.write(built, tmp_path, "png")
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == ALL
    assert sorted(path.stem for path in tmp_path.glob("*.csv")) == ALL
    assert sorted(written) == sorted(tmp_path.iterdir())
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_csv_alone_draws_nothing(built: dict, tmp_path: Path):
    figures.write(built, tmp_path, "csv")
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv"}


def test_the_scatter_table_has_one_machine_and_marks_the_front(built: dict, tmp_path: Path):
    figures.write(built, tmp_path, "csv")
    rows = table(tmp_path / "tradeoff.csv")
    start = built["views"][0]["defaults"]
    assert {line["fingerprint"] for line in rows} == {start["machine"]}
    front = front_rows(built, start["x"], start["y"], start["machine"])
    assert {line["id"] for line in rows if line["front"] == "True"} == {built["runs"]["id"][row] for row in front}


def test_the_sweep_table_has_the_mean_over_seeds(built: dict, tmp_path: Path):
    figures.write(built, tmp_path, "csv")
    start = built["views"][1]["defaults"]
    x, by, y = start["x"], start["series"], start["y"]
    metric = built["metrics"][y]
    values = dict(zip(metric.get("rows", range(90)), metric["value"], strict=True))
    sweep = next(sweep for sweep in built["sweeps"] if sweep["id"] == start["sweep"])
    rows = table(tmp_path / "sweep.csv")
    assert sum(int(line["runs"]) for line in rows) == sum(
        built["runs"]["status"][r] == "finished" and values.get(r) is not None for r in sweep["runs"]
    )
    for line in rows:
        knobs = [(built["knobs"][name], line[name]) for name in (x, by)]
        of = [r for r in sweep["runs"] if all(str(k["values"][k["code"][r]]) == text for k, text in knobs)]
        seeds = [values[r] for r in of if built["runs"]["status"][r] == "finished"]
        assert float(line[f"{y}.mean"]) == pytest.approx(sum(seeds) / len(seeds))
        assert float(line[f"{y}.low"]) == min(seeds)


def test_the_run_table_has_every_run_and_metric(built: dict, tmp_path: Path):
    figures.write(built, tmp_path, "csv")
    rows = table(tmp_path / "runs.csv")
    assert [line["id"] for line in rows] == built["runs"]["id"]
    assert set(built["metrics"]) <= rows[0].keys()
    assert {f"knob {name}" for name in built["knobs"]} <= rows[0].keys()


def test_svg_with_hostile_names_is_whole_xml_and_holds_no_markup_of_theirs(tmp_path: Path):
    contents = json.loads(json.dumps(list(generate.records(40, points=9))))
    for place, content in enumerate(contents):
        name = HOSTILE[place % len(HOSTILE)]
        content["recipe"] = name
        content["run_id"] += name
        content["error"] = name
        for section in ("metrics", "knobs", "curves"):
            content[section] = {
                f"{key}{HOSTILE[1]}$": value for key, value in content[section].items() if key != "training"
            }
        content["headline"] = [f"{key}{HOSTILE[1]}$" for key in content["headline"]]
        if content["sweep"]:
            content["sweep"]["parameters"] = {
                f"{key}{HOSTILE[1]}$": [value, name] for key, value in content["sweep"]["parameters"].items()
            }
            content["sweep"]["name"] = name
        if content["artifacts"]:
            content["artifacts"][0]["latency"][0]["fingerprint"] = "$m"
            content["environment"]["cpu"] = "$\\x{"
    figures.write(payload(contents), tmp_path, "svg")
    pictures = list(tmp_path.glob("*.svg"))
    assert len(pictures) >= 6
    for path in pictures:
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(path.read_bytes()).iter()}
        assert "script" not in tags


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_or_no_results_give_the_figures_that_can_be_drawn(count: int, tmp_path: Path):
    contents = [{"schema": 1, "run_id": "a", "recipe": "b"}, *generate.records(3)][:count]
    figures.write(payload(contents), tmp_path, "png")
    assert (tmp_path / "runs.csv").exists() == (count > 0)


def test_groups_of_runs_with_equal_settings_shown_keep_a_line_each():
    contents = [one for one in generate.records(40, points=9) if one["recipe"] == "lm_edkm" and one["metrics"]][:3]
    for place, one in enumerate(contents):
        one.update(group=f"g{place}", sweep={}, knobs={})
    built = payload(contents)
    names = [name for name, *_ in lines(built, [0, 0, 1, 2])]
    assert len(set(names)) == 3


def test_more_names_than_colours_share_a_grey():
    found = coloured([f"n{place}" for place in range(12)])
    assert len(found) == len(COLOURS)
    assert found[-1][0] == "5 others"
    assert sorted(row for _, rows, _ in found for row in rows) == list(range(12))


def test_a_cell_that_looks_like_a_formula_is_text_and_a_number_stays_one():
    assert to_csv({"a": ["=HYPERLINK()", "@x", "-x", -1.5, None]}) == "a\n'=HYPERLINK()\n'@x\n'-x\n-1.5\n\"\"\n"
