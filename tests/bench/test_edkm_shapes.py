"""Peaks of single weights in their own processes, and what is added up from them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightsleeper.bench import edkm_forecast, edkm_shapes
from lightsleeper.bench.edkm_forecast import Step, figures
from lightsleeper.bench.edkm_shapes import MODELS, Shape, estimate
from lightsleeper.bench.edkm_step import FiledShards, measure

LAYER = Shape("layer", 192, 128, 2)


def row(technique: str, kept: int, peak: int, shape: Shape = LAYER) -> dict[str, Any]:
    return {"rows": shape.rows, "columns": shape.columns, "bits": shape.bits, "technique": technique,
            "kept": kept, "peak": peak}  # fmt: skip


def test_the_shapes_are_those_of_the_published_models() -> None:
    weights = {name: sum(shape.weights * shape.count for shape in shapes) for name, shapes in MODELS.items()}
    assert weights["SmolLM2-135M"] == 134_515_008 - (2 * 30 + 1) * 576  # without its norms
    assert weights["LLaMA-7B"] == 6_738_415_616 - (2 * 32 + 1) * 4096


def test_each_technique_keeps_less_than_dense_and_the_default_least() -> None:
    kept = {name: measure(192, 128, 3, name, "cpu").kept for name in ("dense", "U", "S", "M+U+S", "table")}
    assert kept["dense"] > kept["S"] > kept["M+U+S"]
    assert kept["dense"] > kept["U"] > kept["M+U+S"] > kept["table"]


def test_shards_in_files_give_the_whole_back(tmp_path) -> None:
    flat = torch.arange(13, dtype=torch.int16)
    part, whole = FiledShards(4, tmp_path).scatter(flat, torch.clone)
    assert torch.equal(part, flat[:4])
    assert torch.equal(whole(), flat)


def test_an_estimate_follows_what_was_measured_of_the_same_technique() -> None:
    wide = Shape("wide", 1024, 1024, 1)
    alone = estimate(wide, "dense", [], "cuda")
    assert alone > 4 * 8 * 20 * wide.weights
    known = row("dense", 0, 1000 * wide.weights, wide)
    assert estimate(replace(wide, rows=2048), "dense", [known], "cuda") == 2 * (8 + 1000) * wide.weights
    assert estimate(wide, "table", [known], "cuda") < alone


def test_what_would_not_fit_is_said_and_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    found = edkm_shapes.run(quick=True, threads=1, limit=1000)
    assert all(entry["refused"].startswith("needs about 1 GB") for entry in found["rows"])
    assert "not tried" in capsys.readouterr().out


def test_a_step_adds_up_shares_maps_and_soft_weights() -> None:
    size = LAYER.weights
    rows = [row("dense", kept=100 * size, peak=118 * size)]
    alone = Step(3, (LAYER,), ())
    # 12 bytes a weight of weights and moments, 3 layers of 2 weights with maps and soft weights, 10 + 4 to work with.
    assert alone.peak(rows, "dense") == 12 * 6 * size + 6 * 104 * size + 14 * size
    spread = replace(alone, gpus=2).peak(rows, "dense")
    assert spread == 12 * 3 * size + 6 * 104 * size + 14 * size + 4 * 2 * (2 + 1) * size
    again = replace(alone, recomputed=5.0).peak(rows, "dense")
    assert again < alone.peak(rows, "dense")


def test_indices_in_parts_shrink_with_the_number_of_processes_and_tables_do_not() -> None:
    size = LAYER.weights
    rows = [row("U", 2 * size + 800, 20 * size), row("M+U+S", size // 4 + 800, 20 * size)]
    assert figures(LAYER, "M+U+S", rows, 1).kept == 2 * size + 800
    assert figures(LAYER, "M+U+S", rows, 16).kept == size / 8 + 800


def test_a_shape_without_a_row_is_scaled_from_the_largest_of_its_technique() -> None:
    rows = [row("dense", 100, 100 + 8 * LAYER.weights + 40)]
    found = figures(replace(LAYER, rows=384, bits=4), "dense", rows, 1)
    assert (found.kept, found.working) == (400, 160)


@pytest.mark.slow
def test_the_sum_of_the_parts_is_near_a_whole_model() -> None:
    shapes = [{**row("table", kept.kept, kept.peak, shape)} for shape in edkm_forecast.SMALL_BLOCK
              for kept in [measure(shape.rows, shape.columns, 3, "table", "cpu")]]  # fmt: skip
    found = edkm_forecast.check(shapes, "table", 10**10, 1)
    assert 0.7 < found["forecast"] / found["measured"] < 1.4
