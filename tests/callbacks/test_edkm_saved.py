"""eDKM's three techniques: the same gradients from fewer saved bytes."""

import gc
import itertools
import weakref

import edkm_ranks
import pytest
import torch
import torch.multiprocessing as mp
from edkm_ranks import ROUNDS, centroids, gradient, weights
from lightsleeper_callbacks.dkm import dkm
from lightsleeper_callbacks.edkm_saved import SavedTensors, SimulatedShards, _parts
from lightsleeper_callbacks.edkm_saved import dkm as saved_dkm
from torch import Tensor


def context(w: Tensor, marshal: bool, uniquify: bool, shards: int | None, device: str | None = "cpu") -> SavedTensors:
    return SavedTensors(w, marshal, uniquify, SimulatedShards(shards) if shards else None, device)


@pytest.mark.parametrize("device", [None, "cpu"], ids=["kept", "copied"])
@pytest.mark.parametrize("duplicates", [True, False])
@pytest.mark.parametrize("shards", [None, 1, 2, 3])
@pytest.mark.parametrize("uniquify", [False, True])
@pytest.mark.parametrize("marshal", [False, True])
def test_results_and_gradients_are_those_of_the_plain_form(marshal, uniquify, shards, duplicates, device):
    w, c = weights(duplicates=duplicates), centroids()
    expected, _ = dkm(w, c, *ROUNDS)
    result, _ = saved_dkm(w, c, *ROUNDS, saved=context(w, marshal, uniquify, shards, device))
    assert torch.equal(result, expected)
    assert torch.equal(gradient(result, w), gradient(expected, w))


def test_vectors_of_several_numbers_go_through_too():
    w = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected, _ = dkm(w, centroids(2), *ROUNDS)
    result, _ = saved_dkm(w, centroids(2), *ROUNDS)
    assert torch.equal(gradient(result, w), gradient(expected, w))


def kept(marshal: bool, uniquify: bool, shards: int | None) -> int:
    w = weights(1 << 15)
    saved = context(w, marshal, uniquify, shards)
    keep = saved_dkm(w, centroids(), *ROUNDS, saved=saved)
    del keep
    return saved.bytes


def test_each_technique_saves_bytes_and_all_together_the_most():
    found = {key: kept(*key) for key in itertools.product((False, True), (False, True), (None, 8))}
    none, m, mu, ms, mus = (found[k] for k in ((0, 0, None), (1, 0, None), (1, 1, None), (1, 0, 8), (1, 1, 8)))
    assert none > m > ms
    assert m > mu > mus
    assert ms == pytest.approx(m / 8, rel=0.01)
    assert mus == min(found.values())


def test_a_uniquified_map_takes_a_table_and_two_bytes_a_weight():
    w = weights(1 << 15)
    saved = context(w, True, True, None)
    with saved:
        squared = (w - centroids().t()).square()  # one map
    values = len(w.detach().unique())
    assert saved.bytes == 4 * values * 8 + 2 * len(w)
    del squared


def test_a_second_backward_gives_the_same():
    w = weights()
    for shards in (None, 2):
        result, _ = saved_dkm(w, centroids(), *ROUNDS, saved=context(w, True, True, shards))
        first = gradient(result, w, retain_graph=True)
        assert torch.equal(gradient(result, w), first)


def test_a_new_tensor_in_freed_memory_is_not_taken_for_the_old_one():
    w = weights()
    with SavedTensors(w, uniquify=False, device="cpu"):
        results = []
        for factor in range(1, 6):
            # What exp saves is its result: copied, and its own memory freed before the next round takes it.
            results.append((w * factor).exp().sum())
    (found,) = torch.autograd.grad(sum(results), w)
    assert torch.allclose(found, sum(f * (w.detach() * f).exp() for f in range(1, 6)))


def test_a_tensor_changed_in_place_since_is_not_taken_for_the_old_one():
    w, x = weights(), torch.ones(5003, 1)
    with SavedTensors(w, uniquify=False, device="cpu"):
        first = (w * x).sum()
        x.mul_(3)
        second = (w * x).sum()
    (found,) = torch.autograd.grad(first + second, w)
    assert torch.equal(found, torch.full_like(found, 4.0))


def test_a_tensor_kept_without_a_copy_must_not_be_changed():
    w, x = weights(), torch.ones(5003, 1)
    with SavedTensors(w, uniquify=False):
        result = (w * x).sum()
    x.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        result.backward()


def test_maps_that_are_no_function_of_the_weight_are_kept_whole():
    w = weights()
    noise = torch.randn(5003, 8, generator=torch.Generator().manual_seed(3))
    (expected,) = torch.autograd.grad((w * noise).sum(), w)
    saved = SavedTensors(w, device="cpu")
    with saved:
        result = (w * noise).sum()
    assert torch.equal(torch.autograd.grad(result, w)[0], expected)
    assert saved.bytes >= 4 * noise.numel()


def test_nothing_outlives_the_graph():
    w = weights()
    saved = context(w, True, True, None, None)
    result, _ = saved_dkm(w, centroids(), *ROUNDS, saved=saved)
    alive = weakref.ref(saved)
    del saved, result
    gc.collect()
    assert alive() is None


def test_recomputed_activations_give_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    w = weights()

    def forward(weight: Tensor) -> Tensor:
        return saved_dkm(weight, centroids(), *ROUNDS)[0]

    assert torch.equal(gradient(checkpoint(forward, w, use_reentrant=False), w), gradient(forward(w), w))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_equal_in_size_and_join_to_the_whole(count: int):
    flat = torch.arange(10, dtype=torch.float32)
    parts = _parts(flat, count)
    assert len({len(part) for part in parts}) == 1
    assert torch.equal(torch.cat(parts)[:10], flat)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_share_what_they_keep_find_the_same_gradients(count: int, tmp_path):
    mp.spawn(edkm_ranks.saved, (count, str(tmp_path)), count)
    w = weights()
    expected, _ = dkm(w, centroids(), *ROUNDS)
    for rank in range(count):
        result, grad, kept_here = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(result, expected)
        assert torch.equal(grad, gradient(dkm(w, centroids(), *ROUNDS)[0], w))
        alone = context(w, True, True, None)
        saved_dkm(w, centroids(), *ROUNDS, saved=alone)
        assert kept_here < alone.bytes
