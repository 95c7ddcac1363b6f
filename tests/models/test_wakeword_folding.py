"""Wake-word networks before and after they are folded. Numbers in comments: (R) RepCNN dossier 9, (H) HEiMDaL 10."""

import copy

import pytest
import torch
from lightsleeper.deploy.benchmark import size_of
from lightsleeper.deploy.finalize import finalize
from lightsleeper.nn.causal import Chain
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.foldable import folds, put
from lightsleeper_callbacks.repconv import RepConv1d
from models.wake_streams import FAMILIES, UNDISTURBED, Tones, lively, make, noise, phone_batch, stream, trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SINGLE, DOUBLE = 1e-5, 1e-10


# R1, H10
@pytest.mark.parametrize("name", list(FAMILIES))
@torch.no_grad()
def test_the_folded_network_gives_the_same_outputs(name: str):
    model = lively(make(name))
    folded, audio = copy.deepcopy(model), noise(2, 40, model)
    assert put(folded, folds(folded))
    assert (folded(audio) - model(audio)).abs().max() <= SINGLE
    model.double()
    folded, audio = copy.deepcopy(model), audio.double()
    put(folded, folds(folded))
    assert (folded.chain(audio) - model.chain(audio)).abs().max() <= DOUBLE


# R2
@pytest.mark.parametrize("name", ["repcnn", "heimdal_bc"])
def test_what_is_folded_folds_no_further(name: str):
    model = make(name)
    before = copy.deepcopy(model.state_dict())
    once, _ = finalize(model, {"fold": FoldOnExport()})
    twice, report = finalize(once, {"fold": FoldOnExport()})
    assert report["fold"]["compress/folded_layers"] == 0
    for first, second in ((once.state_dict(), twice.state_dict()), (before, model.state_dict())):
        assert first.keys() == second.keys()
        assert all(torch.equal(value.nan_to_num(), second[key].nan_to_num()) for key, value in first.items())


# R3
@pytest.mark.parametrize(("name", "arguments"), [("repcnn", {"normalize": "none"}), ("heimdal", {})])
def test_the_folded_network_has_the_parameters_and_macs_of_the_plain_one_and_no_norm(name: str, arguments: dict):
    plain, model = make(name, branches=0, **arguments), make(name, branches=4, **arguments)
    kernels = sum(
        value.numel() for layer in plain.modules() if isinstance(layer, nn.Conv1d) for value in layer.parameters()
    )
    biases = sum(layer.num_features for layer in plain.modules() if isinstance(layer, nn.BatchNorm1d))
    put(model, folds(model))
    found = size_of(model)
    assert (found["parameters"], found["macs"]) == (kernels + biases, size_of(plain)["macs"])
    assert not any(isinstance(layer, _BatchNorm) for layer in model.modules())


# R4
def test_one_branch_alone_trains_as_the_plain_network_of_the_same_seed():
    models = [
        make("cnn", shake=False, branches=count, scale=False, skip=False, **UNDISTURBED).train() for count in (0, 1)
    ]
    batch = phone_batch(models[0])
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, 0.9) for model in models]
    for step in range(4):
        states = [list(model.chain.state_dict().values()) for model in models]
        assert all(torch.equal(a, b) for a, b in zip(*states, strict=True)), step
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            outputs = model.outputs(batch["audio"])
            model.loss(outputs, model.times(outputs.shape[2]), batch).backward()
            optimizer.step()


# R9
def test_the_folded_network_is_convolutions_rectifiers_and_a_mean():
    model = make("repcnn", normalize="none")
    put(model, folds(model))
    network = Chain(*list(model.chain.layers)[1:]).eval()
    nodes = torch.export.export(network, (torch.randn(1, 40, 60),)).graph.nodes
    found = {str(node.target).split(".")[1] for node in nodes if node.op == "call_function"}
    assert found - {"pad", "cat", "slice", "flatten", "unflatten", "new_zeros"} == {"conv1d", "relu", "avg_pool1d"}


def test_validation_listens_with_branches_folded(tmp_path, monkeypatch: pytest.MonkeyPatch):
    model = make("repcnn", fa_per_hour=60.0)
    metric = model.new_metric()
    with torch.no_grad():
        for batch in stream(0, 20) + stream(1, 20):
            model._follow(batch, metric)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(RepConv1d, "forward", lambda *_: pytest.fail("a branch listened"))
    model._state = None
    found = trainer(tmp_path, 1).validate(model, datamodule=Tones(), verbose=False)[0]
    assert found["val/score"] == pytest.approx(metric.selection())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value.nan_to_num(), after[name].nan_to_num()) for name, value in before.items())
    assert any(isinstance(layer, RepConv1d) for layer in model.modules())
    assert model._shipped == ()


@pytest.mark.parametrize("how", [{"smaller": [3, 5]}, {"norms": "sum"}, {"scale": False, "skip": False}])
@torch.no_grad()
def test_whatever_the_branches_are_the_same_network_ships(how: dict):
    plain, model = make("cnn"), make("repcnn", normalize="none", pool_frames=1, **how)
    audio = noise(0, 40, model)
    scores = model(audio)
    for network in (plain, model):
        put(network, folds(network))
    assert (model(audio) - scores).abs().max() <= SINGLE
    shapes = [[tuple(value.shape) for value in network.state_dict().values()] for network in (plain, model)]
    assert shapes[0] == shapes[1]
