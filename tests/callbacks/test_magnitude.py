"""Gradual magnitude pruning; what it shares with PDP is tested there."""

from pathlib import Path

import pytest
import torch
from callbacks.pruned import batches, mlp, residual, trainer
from callbacks.test_pdp import resumed
from lightsleeper_callbacks import masks
from lightsleeper_callbacks.finalize import finalize
from lightsleeper_callbacks.magnitude import MagnitudePruning
from lightsleeper_callbacks.masking import WeightMask
from lightsleeper_callbacks.pdp import PDPMasking
from lightsleeper_callbacks.weights import carried


def test_the_sparsity_rises_by_a_cubic():
    callback = MagnitudePruning(0.8)
    assert [callback.shape(done) for done in (0.0, 0.5, 1.0)] == [0.0, 0.875, 1.0]
    model = mlp(width=100)
    callback = MagnitudePruning(0.8, start=0.2, end=0.8)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    assert callback.report(model)["compress/sparsity"] == pytest.approx(0.7, abs=2e-3)
    assert "compress/softness" not in callback.report(model)


def test_pdp_prunes_as_much_at_every_moment_with_the_cubic_ramp():
    model, other = mlp(width=100), mlp(width=100)
    theirs, ours = MagnitudePruning(0.8, start=0.2, end=0.8), PDPMasking(0.8, start=0.2, end=0.8, ramp="cubic")
    for progress in (0.3, 0.5, 0.7, 0.9):
        for callback, network in ((theirs, model), (ours, other)):
            callback.prepare_once(network)
            callback.step(network, progress)
        assert ours.report(other)["compress/sparsity"] == theirs.report(model)["compress/sparsity"]
    with pytest.raises(ValueError, match="'linear' or 'cubic', got 'square'"):
        PDPMasking(0.8, ramp="square")


def test_training_and_evaluation_see_the_same_mask_and_pruned_weights_no_gradient():
    model = mlp()
    callback = MagnitudePruning(0.5, start=0.0, end=0.0)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    target, mask = next(carried(model, WeightMask))
    trained = model.network[0].weight
    kept = masks.hard_mask(target.original.abs(), mask.pruned)
    assert torch.equal(trained, target.original * kept)
    model(torch.randn(3, 8)).sum().backward()
    assert (target.original.grad[~kept] == 0).all()
    assert (target.original.grad[kept] != 0).any()
    assert torch.equal(model.eval().network[0].weight, trained)


@pytest.mark.parametrize("mode", ["unstructured", "n:m"])
def test_the_finalized_module_has_the_zeros_asked_for(mode: str):
    model = mlp()
    callback = MagnitudePruning(0.5, mode, budget="layer")
    trainer(callback, max_epochs=2).fit(model, batches())
    final, _, report = finalize(model, [callback])
    assert int((final.network[0].weight == 0).sum()) == 64
    assert int((final.network[2].weight == 0).sum()) == 32
    assert report["MagnitudePruning"]["compress/sparsity"] == 0.5


def test_channels_are_removed():
    model = residual()
    callback = MagnitudePruning(0.5, "channel")
    data = batches(inputs=(1, 8, 8))
    trainer(callback, max_epochs=2).fit(model, data)
    _, structure, report = finalize(model, [callback], batches=lambda: data)
    assert report["MagnitudePruning"]["exact_abs_diff"] < 1e-5
    assert report["MagnitudePruning"]["compress/parameters_removed"] > 0.5
    assert "network.head" in structure


@pytest.mark.parametrize("mode", ["unstructured", "channel"])
def test_killed_in_mid_ramp_and_resumed_equals_uninterrupted(tmp_path: Path, mode: str):
    resumed(tmp_path, mode, MagnitudePruning)
