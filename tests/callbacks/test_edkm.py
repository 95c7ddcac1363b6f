"""The clustering callback: what it prepares, carries, snaps, reports and refuses, in real trainings."""

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightsleeper_callbacks import Phase, finalize
from lightsleeper_callbacks.base import Compression, check_alone, check_together
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.edkm_weight import Clustered
from lightsleeper_callbacks.layout import Layout
from lightsleeper_callbacks.weights import Transform, attach, carried, detach, find
from torch import Tensor, nn


class Head(nn.Module):
    """A user's own layer: none that a method knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 2) / 7)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Net(L.LightningModule):
    """Two layers to cluster, and what stays as it is: biases, a norm, a layer of another kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 48), Head())
        self.example_input_array = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self(batch) - batch[:, :2]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 3e-3)

    def train_dataloader(self) -> Any:
        torch.manual_seed(0)
        return torch.utils.data.DataLoader(RandomDataset(32, 64), 8)


class HalfZero(Transform):
    """Stands in for pruning: half of the weights are zero in evaluation, small in training."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (weight.abs() > weight.abs().median()).float())

    def soft(self, weight: Tensor) -> Tensor:
        return weight * (self.mask + 0.05 * (1 - self.mask))

    def hard(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Prune(Compression):
    phase = Phase.PRUNE

    def prepare(self, module: nn.Module) -> None:
        for target in find(module, ["layers.0", "layers.3"]):
            attach(target, HalfZero(target.original.detach()))

    def finalize(self, module: nn.Module) -> nn.Module:
        for target, transform in list(carried(module, HalfZero)):
            detach(target, transform, transform.hard(target.original))
        return module


def callback(**arguments: Any) -> EDKMClustering:
    return EDKMClustering(**{"small_below": 0, **arguments})


def fit(model: L.LightningModule, *callbacks: Any, resume: Path | None = None, **settings: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"max_epochs": 2, "enable_checkpointing": False, "limit_val_batches": 0, **settings}
    trainer = L.Trainer(callbacks=list(callbacks), **quiet, **given)
    trainer.fit(model, ckpt_path=resume)
    return trainer


def transforms(module: nn.Module) -> dict[str, Clustered]:
    return {target.name: transform for target, transform in carried(module, Clustered)}


def prepared(model: nn.Module | None = None, **arguments: Any) -> tuple[Any, EDKMClustering]:
    """A model as at the first training batch."""
    model, edkm = (Net() if model is None else model).train(), callback(**arguments)
    edkm.prepare_once(model)
    edkm.step(model, 0.0)
    return model, edkm


# What is clustered.


def test_it_clusters_what_gets_smaller_and_leaves_the_rest():
    assert list(transforms(prepared()[0])) == ["layers.0.weight", "layers.3.weight"]
    model = nn.Sequential(nn.Linear(16, 20), nn.Linear(20, 30))  # at 8 bits a table takes 1,024 bytes
    assert list(transforms(prepared(model, small_below=10_000)[0])) == ["1.weight"]


def test_small_weights_and_embeddings_get_their_own_bits_and_no_vectors():
    model = nn.Sequential(nn.Embedding(200, 80), nn.Linear(80, 400), nn.Linear(400, 10))
    edkm = EDKMClustering(bits=2, cluster_dim=2, small_bits=6)
    edkm.prepare_once(model)
    assert [t.layout for t in transforms(model).values()] == [Layout(8), Layout(2, 2), Layout(6)]


def test_there_is_nothing_to_do_on_a_network_of_tiny_layers():
    with pytest.raises(ValueError, match="no weight would get smaller at 3 bits"):
        callback(small_below=10_000).prepare_once(BoringModel())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "bits must lie in 1..8, got 0"),
        ({"embedding_bits": 9}, "embedding_bits must lie in 1..8, got 9"),
        ({"cluster_dim": 0}, "cluster_dim must be at least 1"),
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"tau": 0.0}, "tau must be a positive number"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"start": 1.0}, "start is a share of the training"),
        ({"weight_dtype": "float16"}, "weight_dtype must be bfloat16 or float32"),
        ({"backend": "fast"}, "backend must be one of auto, dense, saved, table, chunked; got fast"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        callback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "table", "weight_dtype": "float32"}, "its weights have 32 bits; chunked would"),
        ({"backend": "table", "cluster_dim": 2}, "cluster_dim is 2; chunked would"),
        ({"targets": ["layers.9"]}, "'layers.9'"),
        ({"start": 0.5}, "whose end is unknown"),
    ],
)
def test_what_cannot_work_on_a_model_is_refused_before_training(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        check_alone([callback(**arguments)], Net(), -1)


def test_a_frozen_target_is_refused():
    model = Net()
    model.layers[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        check_alone([callback(targets=["layers.0"])], model)


def test_two_callbacks_may_share_a_model_but_not_a_weight():
    model = Net()
    first, second = callback(bits=2, targets=["layers.0"]), callback(bits=4, targets=["layers.3"])
    first.prepare_once(model)
    second.prepare_once(model)
    first.step(model, 0.0)
    assert [t.is_active for t in transforms(model).values()] == [True, False]
    with pytest.raises(ValueError, match=r"'layers.0.weight' is clustered by another callback"):
        callback().prepare_once(model)


def test_one_bit_leaves_no_room_for_the_zeros_of_pruning():
    with pytest.raises(ValueError, match="with 1 bit a layer has one value beside the zeros"):
        check_together([callback(bits=1), Prune()])


# One step.


def test_all_backends_train_the_same_weights():
    found = {}
    for backend in ("dense", "saved", "table", "chunked"):
        model = Net()
        fit(model, callback(backend=backend), max_steps=4)
        found[backend] = torch.cat([p.detach().flatten() for p in model.parameters()])
    for backend, values in found.items():
        assert torch.allclose(values, found["dense"], atol=2e-5), backend


@pytest.mark.parametrize("arguments", [{"weight_dtype": "float32"}, {"cluster_dim": 2}, {"group_size": 10}])
def test_variants_train_and_snap(arguments: dict[str, Any]):
    model, edkm = Net(), callback(**arguments)
    fit(model, edkm, max_steps=4)
    final, _, _ = finalize(model, [edkm])
    layout = Layout(3, arguments.get("cluster_dim", 1), arguments.get("group_size"))
    for layer in (final.layers[0], final.layers[3]):
        for flat in layout.split(layer.weight.detach()):
            assert len(flat.view(-1, layout.dim).unique(dim=0)) <= 8


def test_forward_passes_between_two_optimizer_steps_see_one_weight():
    model, edkm = prepared()
    first = model.layers[0].weight.detach().clone()
    (model(torch.randn(2, 32)).sum()).backward()
    edkm.step(model, 0.0)  # a second batch of one accumulation window
    assert torch.equal(model.layers[0].weight, first)
    with torch.no_grad():
        model.layers[0].parametrizations.weight.original.mul_(1.0)  # an optimizer's step
    edkm.step(model, 0.0)
    assert not torch.equal(model.layers[0].weight, first)  # the centroids have moved on


def test_accumulated_gradients_equal_those_of_one_batch():
    batch = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    found = []
    for parts in (1, 4):
        model, edkm = prepared()
        for part in batch.chunk(parts):
            edkm.step(model, 0.0)
            (model.training_step(part, 0) / parts).backward()
        found.append(model.layers[0].parametrizations.weight.original.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_recomputed_activations_give_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    batch, found = torch.randn(8, 32), []
    for recompute in (False, True):
        model, _ = prepared()
        result = checkpoint(model, batch, use_reentrant=False) if recompute else model(batch)
        result.square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_evaluation_sees_the_snapped_weight_and_changes_nothing():
    model, edkm = prepared()
    model(torch.randn(2, 32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    assert len(model.layers[3].weight.unique()) <= 8
    edkm.report(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_temperature_follows_the_square_of_the_weights():
    model, scaled = Net(), Net()
    with torch.no_grad():
        scaled.layers[0].weight.mul_(64)  # a power of two: the same digits
    results = []
    for net in (model, scaled):
        prepared(net, eps=0.0, targets=["layers.0"])
        results.append(net.layers[0].weight.detach())
        with torch.no_grad():  # the weights shrink afterwards
            net.layers[0].parametrizations.weight.original.div_(2)
    assert torch.allclose(results[0] * 64, results[1], rtol=1e-4, atol=1e-4)


def test_an_absolute_temperature_is_taken_as_it_is():
    model, _ = prepared(tau=1e-12)  # hard assignment
    values = model.layers[0].weight.detach()
    assert len(values.unique()) <= 8


def test_a_weight_that_starts_constant_waits_until_it_has_values():
    model = Net()
    nn.init.zeros_(model.layers[0].weight)
    _, edkm = prepared(model)
    assert [t.is_active for t in transforms(model).values()] == [False, True]
    with torch.no_grad():
        model.layers[0].parametrizations.weight.original.normal_()
    edkm.step(model, 0.1)
    assert transforms(model)["layers.0.weight"].is_active


def test_a_group_depends_on_its_own_rows_only():
    first, second = Net(), Net()
    with torch.no_grad():
        second.layers[0].weight[10:].normal_()
    for net in (first, second):
        prepared(net, group_size=10, targets=["layers.0"])
    a, b = first.layers[0].weight, second.layers[0].weight
    assert torch.equal(a[:10], b[:10])
    assert not torch.equal(a[10:], b[10:])


def test_numbers_that_fill_no_vector_stay_raw():
    model = nn.Sequential(nn.Linear(33, 21)).train()
    _, edkm = prepared(model, bits=4, cluster_dim=4)
    raw = model[0].parametrizations.weight.original.detach().flatten()[-1]
    assert model[0].weight.flatten()[-1] == raw  # 693 = 4 * 173 + 1
    final, _, _ = finalize(model, [edkm])
    assert final[0].weight.flatten()[-1] == raw
    assert len(final[0].weight.flatten()[:-1].view(-1, 4).unique(dim=0)) <= 16


def test_centroids_keep_their_precision_in_a_half_precision_model():
    model, _ = prepared()
    kept = {name: t.centroids.clone() for name, t in transforms(model).items()}
    model.bfloat16()
    for name, transform in transforms(model).items():
        assert torch.equal(transform.centroids, kept[name])
    result = model(torch.randn(2, 32).bfloat16())
    assert result.dtype == torch.bfloat16
    result.sum().backward()


def test_mixed_precision_does_not_reach_the_sums():
    plain, _ = prepared()
    mixed, _ = prepared()
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed.layers[0].weight
    assert found.dtype == torch.float32
    assert torch.equal(found, plain.layers[0].weight)


# Trainings.


def test_a_training_ends_with_eight_values_a_layer_and_says_so():
    model, edkm = Net(), callback()
    trainer = fit(model, edkm, max_epochs=3)
    assert trainer.callback_metrics["compress/bits_per_weight"] == pytest.approx(8 * _stored() / _clustered())
    final, structure, report = finalize(model, [edkm])
    assert structure == {}
    assert final.state_dict().keys() == Net().state_dict().keys()
    assert all(len(final.layers[i].weight.unique()) <= 8 for i in (0, 3))
    facts = report["EDKMClustering"]
    assert facts["max_abs_diff"] == 0.0  # evaluation has shown the snapped weights all along
    whole = sum(4 * p.numel() for p in final.parameters())
    assert facts["compress/bytes"] == whole - 4 * _clustered() + _stored()
    assert facts["compress/share"] == pytest.approx(4 * _clustered() / whole)
    assert 0 < facts["compress/frobenius_gap"] < 0.3


def _clustered() -> int:
    return 32 * 64 + 64 * 48


def _stored() -> int:
    return _clustered() * 3 // 8 + 2 * 8 * 4


def test_snapping_takes_the_centroids_of_the_last_forward_pass():
    model, edkm = Net(), callback()
    fit(model, edkm)
    last = {name: t.moved[0, :, 0] for name, t in transforms(model).items()}
    final, _, _ = finalize(model, [edkm])
    for name, centroids in last.items():
        assert set(final.get_parameter(name).flatten().tolist()) <= set(centroids.tolist())


def test_clustering_helps_the_network_it_trains_on():
    torch.manual_seed(0)
    plain = Net()
    fit(plain, max_epochs=10)
    trained = Net()
    edkm = callback(bits=2, start=0.5)
    fit(trained, edkm, max_epochs=10)
    afterwards, _, _ = finalize(plain, [prepared_after(plain)])
    final, _, _ = finalize(trained, [edkm])
    batch = torch.randn(512, 32, generator=torch.Generator().manual_seed(9))
    assert final.training_step(batch, 0) < afterwards.training_step(batch, 0)


def prepared_after(model: nn.Module) -> EDKMClustering:
    """Clustering of a trained network, without training."""
    edkm = callback(bits=2)
    edkm.prepare_once(model)
    return edkm


def test_before_its_start_the_network_is_the_plain_one():
    plain, model, edkm = Net(), Net(), callback(start=0.5)
    edkm.prepare_once(model)
    edkm.step(model, 0.4)
    batch = torch.randn(4, 32)
    assert torch.equal(model(batch), plain(batch))
    assert edkm.report(model) == {}


def test_checkpoints_compete_once_clustering_has_begun():
    edkm = callback(start=0.5)
    assert [edkm.settled(progress) for progress in (0.4, 0.5, 0.51, 1.0)] == [False, False, True, True]
    assert callback().settled(0.0)


def test_clustering_begins_at_its_start():
    seen = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(transforms(pl_module)["layers.0.weight"].is_active)

    fit(Net(), callback(start=0.5), Look(), max_epochs=2, limit_train_batches=4)
    assert seen == [False] * 4 + [True] * 4


class Stop(L.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "stopped.ckpt")


@pytest.mark.parametrize("arguments", [{}, {"start": 0.5}, {"cluster_dim": 2, "weight_dtype": "float32"}])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(arguments: dict[str, Any], tmp_path: Path):
    whole = Net()
    fit(whole, callback(**arguments), Stop(8), max_epochs=3, default_root_dir=tmp_path, limit_train_batches=4)
    again = Net()
    fit(again, callback(**arguments), max_epochs=3, limit_train_batches=4, resume=tmp_path / "stopped.ckpt")
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert transforms(again)["layers.0.weight"].is_active


def test_zeros_of_pruning_stay_zeros_and_take_one_of_the_values():
    model, prune, edkm = Net(), Prune(), callback()
    fit(model, edkm, prune, max_epochs=3)
    masks = {t.name: m.mask.clone() for t, m in carried(model, HalfZero)}
    final, _, report = finalize(model, [edkm, prune])
    for name, mask in masks.items():
        weight = final.get_parameter(name)
        assert (weight[mask == 0] == 0).all()
        assert len(weight.unique()) <= 8
        assert (weight != 0).float().mean() > 0.3  # not all went to zero
    assert list(report) == ["Prune", "EDKMClustering"]
    stored = report["EDKMClustering"]["compress/bits_per_weight"]
    assert stored == pytest.approx(8 * _stored() / _clustered())


def test_the_pinned_zero_does_not_move():
    model = Net()
    Prune().prepare_once(model)
    _, edkm = prepared(model)
    for _ in range(3):
        model(torch.randn(2, 32)).sum().backward()
        with torch.no_grad():
            model.layers[0].parametrizations.weight.original.mul_(1.01)
        edkm.step(model, 0.0)
    for transform in transforms(model).values():
        assert transform.keeps_zero
        assert (transform.centroids[:, 0] == 0).all()


def test_a_trained_network_is_not_touched_by_finalize():
    model, edkm = Net(), callback()
    fit(model, edkm)
    before = copy.deepcopy(model.state_dict())
    finalize(model, [edkm])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_boring_models_train_with_it():
    model, edkm = BoringModel(), callback(bits=1, small_bits=1)
    fit(model, edkm, max_epochs=2)
    final, _, _ = finalize(model, [edkm])
    assert len(final.layer.weight.unique()) <= 2


class TinyGPT(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        self.net = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=16, n_embd=32, n_layer=1, n_head=2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(input_ids=batch, labels=batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 1e-3)

    def train_dataloader(self) -> Any:
        data = torch.randint(0, 300, (16, 16), generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(list(data), 4)


def test_tied_embeddings_of_a_language_model_are_one_weight():
    model, edkm = TinyGPT(), callback(group_size=16)
    fit(model, edkm, max_epochs=1)
    names = list(transforms(model))
    assert "net.transformer.wte.weight" in names
    assert not any("lm_head" in name for name in names)
    assert any("c_attn" in name for name in names)  # a Conv1D: inputs first
    final, _, report = finalize(model, [edkm])
    net = final.net
    assert net.lm_head.weight is net.transformer.wte.weight
    assert 8 < len(net.lm_head.weight.unique()) <= 256
    columns = net.transformer.h[0].attn.c_attn.weight.detach()
    assert all(len(part.unique()) <= 8 for part in columns.split(16, dim=1))
    assert report["EDKMClustering"]["compress/share"] > 0.9
    tokens = torch.randint(0, 300, (1, 8))
    assert math.isfinite(float(net(input_ids=tokens, labels=tokens).loss))


@pytest.mark.slow
def test_two_processes_that_share_what_they_save_train_what_one_trains(tmp_path: Path):
    program = Path(__file__).parents[1] / "edkm_ranks.py"
    found = []
    for count in ("1", "2"):
        path = tmp_path / f"{count}.pt"
        subprocess.run([sys.executable, program, count, "saved", path], check=True, capture_output=True)
        found.append(torch.load(path))
    one, two = found
    assert one.keys() == two.keys()
    assert bool(one["layers.0.parametrizations.weight.0.active"])
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items() if value.is_floating_point())
