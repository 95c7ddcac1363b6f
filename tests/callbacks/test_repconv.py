"""Numbers in comments are the invariants of the RepCNN dossier, section 9."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper_callbacks.repconv import RepConv1d, RepConv2d, delta, fold_norm, place
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SINGLE, DOUBLE = 1e-5, 1e-10  # largest difference, as a share of the largest output where that is above 1


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode with statistics and affine values unlike the fresh ones."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            for value, low, high in (
                (norm.running_mean, -1, 1), (norm.running_var, 0.1, 3), (norm.weight, -2, 2), (norm.bias, -1, 1),
            ):  # fmt: skip
                value.data.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return module.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return float((first - second).detach().abs().max() / max(1.0, float(first.detach().abs().max())))


# 1
@given(
    seed=st.integers(0, 2**31 - 1),
    kernel=st.sampled_from([1, 3, 5, 7, 13]),
    kind=st.sampled_from(["full", "grouped", "depthwise", "multiplied"]),
    branches=st.sampled_from([1, 2, 4]),
    smaller=st.lists(st.sampled_from([1, 3, 5]), max_size=2),
    scale=st.booleans(),
    skip=st.booleans(),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 2),
    causal=st.booleans(),
    norms=st.sampled_from(["branch", "sum"]),
)
@settings(max_examples=60, deadline=None)
def test_folded_equals_unfolded(seed, kernel, kind, branches, smaller, scale, skip, dilation, stride, causal, norms):
    out, groups = {"full": (4, 1), "grouped": (4, 2), "depthwise": (4, 4), "multiplied": (8, 4)}[kind]
    smaller = [size for size in smaller if size <= kernel]
    layer = RepConv1d(4, out, kernel, stride, dilation, groups, branches, smaller, scale, skip, causal, norms)
    randomized(layer, seed)
    x = draw(2, 4, 40 + seed % 3, seed=seed)
    for kind_, tolerance in ((torch.float32, SINGLE), (torch.float64, DOUBLE)):
        layer.to(kind_)
        folded = layer.reparameterize()
        assert type(folded) is nn.Conv1d
        assert distance(layer(x.to(kind_)), folded(x.to(kind_))) <= tolerance


# 1: every combination, differences in absolute terms
@pytest.mark.parametrize("kernel", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_every_combination_folds_to_the_same_outputs(kernel: int, causal: bool):
    x, either = draw(2, 4, 33), (False, True)
    for groups, branches, scale, skip, dilation, stride in product((1, 4), (1, 2, 4), either, either, (1, 2), (1, 2)):
        layer = RepConv1d(4, 4, kernel, stride, dilation, groups, branches, scale=scale, skip=skip, causal=causal)
        randomized(layer)
        for kind, tolerance in ((torch.float32, SINGLE), (torch.float64, DOUBLE)):
            layer.to(kind)
            assert (layer(x.to(kind)) - layer.reparameterize()(x.to(kind))).abs().max() <= tolerance


@given(
    seed=st.integers(0, 2**31 - 1),
    kernel=st.sampled_from([(1, 1), (3, 3), (3, 5), (5, 1)]),
    groups=st.sampled_from([1, 4]),
    branches=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, (2, 1)]),
    dilation=st.sampled_from([1, (2, 1)]),
)
@settings(max_examples=30, deadline=None)
def test_folded_equals_unfolded_over_height_and_width(seed, kernel, groups, branches, stride, dilation):
    layer = randomized(RepConv2d(4, 4, kernel, stride, dilation, groups, branches, [(1, 1)]), seed).double()
    x = draw(2, 4, 11, 13, seed=seed)
    folded = layer.reparameterize()
    assert type(folded) is nn.Conv2d
    assert distance(layer(x), folded(x)) <= DOUBLE


def test_a_norm_folds_into_a_linear_layer_and_into_one_with_a_bias():
    pair = randomized(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))).double()
    weight, bias = fold_norm(pair[0].weight, pair[0].bias, pair[1])
    x = draw(7, 5)
    assert distance(pair(x), F.linear(x, weight, bias)) <= DOUBLE


def test_a_norm_without_affine_values_folds_and_one_without_statistics_is_refused():
    pair = randomized(nn.Sequential(nn.Linear(5, 3), nn.Identity())).double()
    norm = nn.BatchNorm1d(3, affine=False).double().eval()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(0.25)
    x = draw(7, 5)
    assert distance(norm(pair(x)), F.linear(x, *fold_norm(pair[0].weight, pair[0].bias, norm))) <= DOUBLE
    with pytest.raises(ValueError, match="without running statistics"):
        fold_norm(pair[0].weight, None, nn.BatchNorm1d(3, track_running_stats=False))


def test_a_small_kernel_lands_on_its_taps_and_a_delta_passes_channels_on():
    assert place(torch.ones(1, 1, 2), (5,), (3,)).flatten().tolist() == [0, 0, 0, 1, 1]
    x = draw(2, 6, 9)
    for groups in (1, 2, 6):
        assert torch.equal(F.conv1d(x, delta(6, groups, (3,), (2,)), groups=groups), x[..., 2:])


# 2
def test_folding_leaves_the_layer_as_it_was():
    layer = randomized(RepConv1d(4, 4, 5, branches=2))
    before = copy.deepcopy(layer.state_dict())
    state = torch.get_rng_state()
    layer.reparameterize()
    assert torch.equal(torch.get_rng_state(), state)  # draws no random numbers
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# 3
def test_the_folded_layer_has_the_parameters_of_a_plain_convolution():
    folded = RepConv1d(6, 6, 7, groups=6, branches=4).reparameterize()
    plain = nn.Conv1d(6, 6, 7, padding=3, groups=6)
    assert {name: value.shape for name, value in folded.named_parameters()} == {
        name: value.shape for name, value in plain.named_parameters()
    }
    assert repr(folded) == repr(plain)


# 4
def test_one_branch_alone_trains_as_a_plain_convolution_and_norm():
    torch.manual_seed(0)
    layer = RepConv1d(3, 4, 5, scale=False, skip=False)
    plain = nn.Sequential(nn.Conv1d(3, 4, 5, padding=2, bias=False), nn.BatchNorm1d(4))
    plain.load_state_dict(layer.branches[0].state_dict())
    optimizers = [torch.optim.SGD(module.parameters(), 0.1, 0.9) for module in (layer, plain)]
    x, y = draw(8, 3, 20).float(), draw(8, 4, 20, seed=1).float()
    for _ in range(5):
        for module, optimizer in zip((layer, plain), optimizers, strict=True):
            optimizer.zero_grad()
            F.mse_loss(module(x).relu(), y).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), plain.state_dict().values(), strict=True))


# 5
@pytest.mark.parametrize("folded", [False, True])
def test_a_causal_layer_fed_with_its_past_equals_the_padded_clip(folded: bool):
    layer = randomized(RepConv1d(4, 4, 7, dilation=2, groups=4, branches=2, causal=True))
    assert layer.past == 12
    layer = layer.reparameterize() if folded else layer
    x = draw(1, 4, 30).float()
    whole = layer(nn.ZeroPad1d((12, 0))(x))
    assert whole.shape == x.shape
    kept, parts = torch.zeros(1, 4, 12), []
    for chunk in x.split([1, 3, 10, 1, 15], 2):
        kept = torch.cat([kept, chunk], 2)
        parts.append(layer(kept))
        kept = kept[..., chunk.shape[2] :]
    assert distance(whole, torch.cat(parts, 2)) <= 1e-6


# 6
def test_a_causal_layer_does_not_see_the_future():
    layer = randomized(RepConv1d(4, 4, 5, branches=2, causal=True))
    x = draw(1, 4, 30).float()
    changed = x.clone()
    changed[..., 20:] += 1
    first, second = layer(x), layer(changed)
    assert torch.equal(first[..., : 20 - layer.past], second[..., : 20 - layer.past])
    assert not torch.equal(first[..., 20 - layer.past], second[..., 20 - layer.past])


# 7
def test_gradient_flows_to_every_branch_and_branches_start_different():
    torch.manual_seed(0)
    layer = RepConv1d(4, 4, 5, branches=3, kernels=[3])
    F.mse_loss(layer(draw(8, 4, 20).float()).relu(), draw(8, 4, 20, seed=1).float()).backward()
    assert len(layer.branches) == 5  # three whole, one of 3 taps, one of 1
    assert layer.skip is not None
    assert all(value.grad is not None and value.grad.any() for value in layer.parameters())
    middles = torch.stack([conv.weight[..., conv.kernel_size[0] // 2] for conv, _ in layer.branches])
    assert len(middles.unique(dim=0)) == 5


# 10
def test_a_shifted_input_gives_a_shifted_output_in_the_interior():
    layer = randomized(RepConv1d(4, 4, 5, branches=2))
    x = draw(1, 4, 40).float()
    assert distance(layer(x)[..., 5:-5], layer(x.roll(3, 2))[..., 8:-2]) <= 1e-6


def test_scale_and_skip_are_there_where_they_are_legal_only():
    assert RepConv1d(4, 4, 5).skip is not None
    assert RepConv1d(4, 4, 5, stride=2).skip is None
    assert RepConv1d(4, 8, 5).skip is None
    assert len(RepConv1d(4, 4, 1).branches) == 1  # one tap already
    assert len(RepConv1d(4, 4, 5, kernels=[1]).branches) == 2


def test_a_frozen_layer_stays_frozen_and_its_type_stays():
    layer = RepConv1d(4, 4, 5).bfloat16().requires_grad_(False)
    folded = layer.reparameterize()
    assert folded.weight.dtype is torch.bfloat16
    assert not any(value.requires_grad for value in folded.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "must be odd"),
        ({"kernel_size": 5, "kernels": [2]}, "must be odd"),
        ({"kernel_size": 5, "kernels": [7]}, "must lie within"),
        ({"kernel_size": 5, "branches": 0}, "branches must be 1 or more; got 0"),
        ({"kernel_size": 5, "stride": 0}, "stride must be 1 or more"),
        ({"kernel_size": (3, 3)}, "takes sizes of 1 numbers"),
    ],
)
def test_sizes_that_cannot_be_aligned_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RepConv1d(4, 4, **arguments)


def test_one_norm_behind_the_sum_makes_the_branches_one_convolution():
    layer = RepConv1d(4, 4, 3, branches=2, norms="sum")
    x = draw(8, 4, 20).float()
    weights = sum(place(conv.weight, (3,), layer._first(conv.kernel_size)) for conv, _ in layer.branches)
    weights = weights + delta(4, 1, (3,), (1,)).float()
    alone = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4))
    alone[0].weight.data.copy_(weights)
    assert distance(layer.train()(x), alone.train()(x)) <= SINGLE  # in training, too: nothing non-linear in between
    assert sum(isinstance(module, _BatchNorm) for module in layer.modules()) == 1


def test_where_norms_stand_is_one_of_two():
    with pytest.raises(ValueError, match="norms must be 'branch' or 'sum'"):
        RepConv1d(4, 4, 3, norms="none")  # type: ignore[arg-type]
