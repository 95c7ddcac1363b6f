"""Weights in shards: what is refused, what a unit is, and two processes against one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightsleeper import sharding
from lightsleeper.deploy.finalize import load_model
from lightsleeper.errors import UserError
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper.models.classifier import Classifier
from lightsleeper.stages.checkpoints import load_checkpoint
from lightsleeper.tracking.record import read
from lightsleeper_callbacks import EDKMClustering, FoldOnExport, PDPMasking, SubcloneInitialization
from lightsleeper_callbacks.base import check_strategy
from lightsleeper_callbacks.weights import Transform, carried, release
from tiny_family import TinyFamily
from tiny_hosts import lm_recipe
from tiny_runs import assert_same, last, prepare
from tiny_transformers import gpt2, llama

TESTS = Path(__file__).parent
OVERLAY = TESTS.parent / "recipes" / "overlays" / "fsdp.yaml"


def test_lightning_knows_the_strategy_by_its_name() -> None:
    sharding.register()
    sharding.register()
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy=sharding.NAME, logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy, sharding.FSDP2)


def test_the_units_are_the_blocks_of_the_network() -> None:
    assert [type(block).__name__ for block in sharding.blocks(llama(depth=3))] == ["LlamaDecoderLayer"] * 3
    assert [type(block).__name__ for block in sharding.blocks(gpt2(depth=2))] == ["GPT2Block"] * 2
    assert list(sharding.blocks(torch.nn.Linear(2, 2))) == []


@pytest.mark.parametrize("family", [CausalLM, Classifier])
def test_networks_of_transformers_can_be_sharded(family: type) -> None:
    sharding.check(sharding.FSDP2(), family, "bf16-mixed")


def test_a_family_without_known_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="fsdp2 needs a network of transformers.*TinyFamily has none"):
        sharding.check(sharding.FSDP2(), TinyFamily, "32-true")


def test_a_precision_that_needs_a_scaled_loss_is_refused() -> None:
    with pytest.raises(UserError, match="not in 16-mixed. Did you mean 'bf16-mixed'"):
        sharding.check(sharding.FSDP2(), CausalLM, "16-mixed")


@pytest.mark.parametrize(
    "callback",
    [
        EDKMClustering(),
        PDPMasking(sparsity=0.5),
        PDPMasking(mode="n:m"),
        SubcloneInitialization(parent="anything"),
    ],
    ids=["cluster", "prune", "n:m", "subclone"],
)
def test_methods_that_read_whole_weights_work_in_shards_but_not_in_flat_ones(callback: L.Callback) -> None:
    check_strategy([callback], sharding.FSDP2())
    with pytest.raises(ValueError, match=r"does not work with weights laid out like this \(FSDPStrategy\)"):
        check_strategy([callback], FSDPStrategy())


@pytest.mark.parametrize(
    "callback", [FoldOnExport(at=6), PDPMasking(sparsity=0.5, mode="channel")], ids=["fold", "channel"]
)
def test_methods_that_change_shapes_are_refused_in_shards(callback: L.Callback) -> None:
    with pytest.raises(ValueError, match=r"does not work with weights in shards \(FSDP2\)"):
        check_strategy([callback], sharding.FSDP2())


@pytest.fixture
def clustered(monkeypatch: pytest.MonkeyPatch) -> CausalLM:
    """A network prepared for clustering whose weights pass for sharded ones."""
    model = CausalLM(config=llama(width=16, depth=1, heads=2, tied=True).config.to_dict())
    EDKMClustering(small_below=0).prepare_once(model)
    for module in ("weights", "edkm"):
        monkeypatch.setattr(f"lightsleeper_callbacks.{module}.is_sharded", lambda weight: True)
    return model


def test_only_results_of_tied_weights_wait_for_their_next_use(clustered: CausalLM) -> None:
    release(clustered)
    waiting = {target.name: transform.keeps for target, transform in carried(clustered, Transform)}
    assert waiting.pop("net.model.embed_tokens.weight")
    assert waiting
    assert not any(waiting.values())


def test_clustering_in_shards_needs_a_training_with_an_end(clustered: CausalLM) -> None:
    edkm = EDKMClustering(small_below=0)
    edkm._names = {target.name for target, _ in carried(clustered, Transform)}
    edkm.on_train_start(SimpleNamespace(estimated_stepping_batches=10), clustered)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a training with an end: set max_epochs or max_steps"):
        edkm.on_train_start(SimpleNamespace(estimated_stepping_batches=float("inf")), clustered)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clustered", "subcloned"])
def test_two_processes_with_weights_in_shards_train_what_one_trains(kind: str, tmp_path: Path) -> None:
    found = []
    for count in ("1", "2"):
        path = tmp_path / f"{count}.pt"
        subprocess.run([sys.executable, TESTS / "fsdp_ranks.py", count, kind, path], check=True, capture_output=True)
        found.append(torch.load(path))
    one, two = found
    assert one.keys() == two.keys()
    if kind == "clustered":
        assert bool(one["net.lm_head.parametrizations.weight.0.active"])
    for name, value in one.items():
        assert torch.allclose(value.float(), two[name].float(), atol=1e-4), name


@pytest.mark.slow
def test_a_killed_run_in_shards_continues_bit_for_bit_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch, tmp_path)
    cluster = {"class_path": "EDKMClustering", "init_args": {"small_below": 0}}
    settings = {"stages": ["fit", "finalize", "test", "export"], "formats": ["packed"]}
    path = lm_recipe(Path("tiny.yaml"), callbacks={"cluster": cluster}, run=settings)

    def run(*arguments: str | Path, stop: str = "") -> int:
        environ = {**os.environ, "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-m", "lightsleeper", "run", *map(str, arguments)]
        return subprocess.run(program, env={**environ, "TINY_STOP": stop}, capture_output=True).returncode

    assert run(path, OVERLAY) == 0
    whole = last()
    assert run(path, OVERLAY, stop="step:4:kill") != 0
    assert run("--resume", last().name) == 0
    assert last() != whole
    first, second = (load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, last()))
    assert_same(first["state_dict"], second["state_dict"], "state_dict")
    assert_same(first["optimizer_states"][0]["state"], second["optimizer_states"][0]["state"], "optimizer")
    assert read(whole).metrics == read(last()).metrics
    assert read(last()).artifacts[0]["format"] == "packed"
    assert len(load_model(last()).net.model.layers[0].mlp.up_proj.weight.unique()) <= 256
