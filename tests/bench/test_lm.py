"""Bits, zeros and perplexity of one language model, with files that hold what was judged."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightsleeper.bench import lm as bench
from lightsleeper.bench import lm_report as report
from lightsleeper.bench.lm_arms import ARMS
from lightsleeper.bench.rounding import round_weights, rounded
from lightsleeper.data.local_text import LocalText
from lightsleeper.data.tokens import byte_tokenizer
from lightsleeper.errors import UserError
from lightsleeper.metrics.language import paired
from lightsleeper.models.causal_lm import CausalLM
from tiny_hosts import LLAMA, write_texts

WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 192}
TINY = replace(bench.SMALL, steps=3, warmup=1, rate=1e-2, context=64, batch=4, documents=3, document_tokens=64, items=6)


def arguments(**more):
    return Namespace(**{"parent": None, "only": None, "steps": None, "documents": None, "items": None, "quick": False,
                        "threads": 1, **more})  # fmt: skip


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of transformers with a tokenizer of bytes."""
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "SMALL", TINY)
    texts = str(write_texts(tmp_path / "texts", words=600))
    monkeypatch.setattr(bench, "LocalText", lambda **given: LocalText(texts, **given))
    torch.manual_seed(0)
    model = CausalLM(config=WIDE)
    model.net.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# --- rounding ---


@pytest.mark.parametrize(("group", "grids"), [("tensor", 1), ("channel", 6), (4, 12)])
def test_rounded_weights_lie_on_the_grid_of_their_group_and_nearest(group, grids: int):
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    values, codes, ends = rounded(weight, 3, group)
    assert (ends.shape, codes.shape, codes.dtype) == ((grids, 2), (48,), torch.uint8)
    low, high = ends.float().unbind(1)
    grid = low[:, None] + (high - low)[:, None] / 7 * torch.arange(8)  # (grids, 8)
    parts, found = weight.view(grids, -1), values.view(grids, -1)
    nearest = (parts[..., None] - grid[:, None]).abs().min(-1).values
    torch.testing.assert_close((parts - found).abs(), nearest, atol=1e-6, rtol=0)
    torch.testing.assert_close(grid.gather(1, codes.view(grids, -1).long()), found)
    assert int(codes.max()) == 7


def test_a_rounded_file_holds_a_tied_weight_once_and_two_ends_a_group():
    model = CausalLM(config=WIDE).eval()
    stored = round_weights(model, 3, 8, "channel")
    table = "net.model.embed_tokens.weight"
    assert len(stored[f"{table}.codes"]) == 257 * 64  # 8 bits
    assert stored[f"{table}.ends"].shape == (257, 2)
    assert len(stored["net.model.layers.0.mlp.up_proj.weight.codes"]) == 192 * 64 * 3 // 8
    assert not any(name.startswith("net.lm_head") for name in stored)
    assert "net.model.norm.weight" in stored
    assert len(model.net.model.layers[0].mlp.up_proj.weight[0].unique()) <= 8


def test_groups_that_divide_no_channel_are_refused():
    with pytest.raises(ValueError, match="groups of 5 inputs do not divide a channel of 8"):
        rounded(torch.zeros(2, 8), 3, 5)


# --- the table ---


def test_a_paired_difference_is_sharper_than_two_intervals():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.full((40, 1), 100.0)
    nats = torch.rand(40, 1, generator=generator) * 200 + 50
    worse = nats + 7 + torch.rand(40, 1, generator=generator)
    first, second = (torch.cat([values, sizes, sizes], 1).double() for values in (worse, nats))
    found = paired(first, second)
    assert found.value == pytest.approx(float((worse - nats).mean()) / 100 / 0.693147, rel=1e-5)
    assert 0 < found.low < found.value < found.high < 2 * found.low
    assert paired(first, first).value == 0


def test_a_finished_way_is_taken_from_the_folder(parent: Path, tmp_path: Path, monkeypatch, capsys):
    only = ["original", "round_group", "kmeans", "edkm"]
    found = bench.run(arguments(parent=str(parent), out=str(tmp_path / "out"), only=only))
    printed = capsys.readouterr().out
    arms = found["arms"]
    assert list(arms) == only
    assert {len(row["documents"]) for row in arms.values()} == {3}
    assert all(arms[name]["bytes"] < arms["original"]["bytes"] / 3 for name in only[1:])
    assert arms["edkm"]["documents"] != arms["kmeans"]["documents"] != arms["original"]["documents"]
    assert f"{arms['edkm']['bytes'] / 1e6:.2f}" in printed
    assert len(arms["edkm"]["choices"]["chosen"]) == 6
    assert 0 <= found["summary"]["quality"]["edkm"]["accuracy"]["value"] <= 1
    assert "without reading the text, by length" in printed
    json.dumps(found)

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(bench.Bench, "_fit", fail)
    again = bench.run(arguments(parent=str(parent), out=str(tmp_path / "out"), only=["kmeans"]))
    assert again["summary"] == found["summary"]  # the others are still there


@pytest.mark.slow
def test_every_way_gives_a_file_and_what_it_is_worth(parent: Path, tmp_path: Path, capsys):
    found = bench.run(arguments(parent=str(parent), out=str(tmp_path / "out")))
    arms = found["arms"]
    assert list(arms) == list(ARMS)
    assert arms["original"]["bytes"] == arms["tuned"]["bytes"]
    assert arms["original"]["zeros"] == pytest.approx(0, abs=1e-3)
    assert all(0.15 < arms[name]["zeros"] < 0.5 for name in ("pdp", "2of4", "pdp_edkm"))  # the embedding has none
    assert arms["round_tensor"]["bytes"] < arms["round_channel"]["bytes"] < arms["round_group"]["bytes"]
    quality = found["summary"]["quality"]
    assert quality["tuned"]["bits_per_byte"]["value"] < quality["original"]["bits_per_byte"]["value"]
    assert len(found["summary"]["pairs"]) == len(report.PAIRS)
    assert "trained on with eDKM against trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [({"only": ["edmk"]}, "bench lm has no 'edmk'. Did you mean 'edkm'"), ({"parent": "nowhere"}, "nowhere")],
)
def test_mistakes_are_told(tmp_path: Path, more: dict, message: str):
    with pytest.raises(UserError, match=message):
        bench.run(arguments(out=str(tmp_path), **more))
