"""PDP masks and the callback. Numbers in comments are those of the test list of the PDP dossier (section 9)."""

import copy
import math
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from callbacks.pruned import Regression, batches, mlp, residual, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightsleeper_callbacks import masks
from lightsleeper_callbacks.base import check_alone, check_together
from lightsleeper_callbacks.finalize import finalize, load_compressed, save_compressed
from lightsleeper_callbacks.masking import GroupMask, WeightMask
from lightsleeper_callbacks.pdp import PDPMasking
from lightsleeper_callbacks.schedule import ramp
from lightsleeper_callbacks.weights import carried
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

seeds = st.integers(0, 2**31 - 1)
AT_ONCE = {"start": 0.0, "end": 0.0}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The mask.


def test_the_worked_example():
    weight = torch.tensor([0.1, -0.2, 0.3, -0.4], dtype=torch.float64)
    t = masks.threshold(weight, 2)
    assert float(t) == pytest.approx(0.25)
    expected = torch.tensor([0.00522, 0.09535, 0.93991, 0.99994], dtype=torch.float64)
    assert torch.allclose(masks.soft_mask(weight, t, 0.01), expected, atol=5e-6)
    expected = torch.tensor([0.000522, -0.01907, 0.28197, -0.39998], dtype=torch.float64)
    assert torch.allclose(masks.soft_weight(weight, t, 0.01), expected, atol=5e-6)


@given(seeds, st.sampled_from([None, 1e-4, 1e-2]))
def test_the_mask_is_half_at_the_threshold_even_and_monotone(seed: int, tau: float | None):  # 1
    t = draw(seed, 1).abs()[0] * 0.1 + 0.01
    weight = torch.cat([t[None], -t[None], draw(seed, 50).abs().sort().values])
    mask = masks.soft_mask(weight, t, tau)
    assert torch.allclose(mask[:2], torch.tensor(0.5).double(), atol=1e-9)
    assert torch.equal(mask, masks.soft_mask(-weight, t, tau))
    assert (mask[2:].diff() >= 0).all()
    z = torch.stack([t**2 / (tau or 0.04 * t**2) + 0 * weight, weight**2 / (tau or 0.04 * t**2)]).softmax(0)[0]
    assert torch.allclose(z + mask, torch.ones_like(mask), atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.86, 0.99])
def test_as_many_are_below_half_as_are_to_go(share: float):  # 2
    weight = draw(3, 700)
    pruned = math.floor(share * 700)
    t = masks.threshold(weight, pruned)
    for tau in (None, 1e-3):
        assert int((masks.soft_mask(weight, t, tau) < 0.5).sum()) == pruned
    assert int((~masks.hard_mask(weight.abs(), pruned)).sum()) == pruned


@given(seeds, st.integers(1, 39))
def test_the_threshold_lies_between_pruned_and_kept(seed: int, pruned: int):  # 3
    weight = draw(seed, 5, 8)
    ordered = weight.abs().flatten().sort().values
    t = masks.threshold(weight, pruned)
    assert ordered[pruned - 1] < t < ordered[pruned]
    assert float(t) == pytest.approx(float(ordered[pruned - 1] + ordered[pruned]) / 2)


def test_a_low_temperature_is_magnitude_pruning_and_a_high_one_no_mask():  # 4
    weight = draw(1, 100)
    t = masks.threshold(weight, 60)
    pruned = weight * masks.hard_mask(weight.abs(), 60)
    assert torch.allclose(masks.soft_weight(weight, t, 1e-12), pruned, atol=1e-9)
    assert torch.allclose(masks.soft_mask(weight, t, 1e12), torch.full_like(weight, 0.5))
    assert torch.equal(masks.soft_weight(weight, t, 0.0), pruned)


@pytest.mark.parametrize("tau", [None, 1e-3, 1e-1])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_closed_gradient_is_that_of_autograd(tau: float | None, share: float):  # 5
    weight = (0.1 * draw(5, 40)).requires_grad_()
    t = masks.threshold(weight, 20)
    assert torch.autograd.gradcheck(lambda w: masks.soft_weight(w, t, tau, share), (weight,))
    mask = masks.soft_mask(weight, t, tau)
    expected = mask + 2 * weight**2 / (tau or 0.04 * t**2) * mask * (1 - mask)
    (found,) = torch.autograd.grad(masks.soft_weight(weight, t, tau).sum(), weight)
    assert torch.allclose(found, expected, atol=1e-6)


@settings(deadline=None)
@given(seeds, st.sampled_from([None, 1e-2, 0.0]), st.sampled_from([1.0, 0.4]))
def test_thresholds_by_group_equal_thresholds_by_weight(seed: int, tau: float | None, share: float):
    flat = draw(seed, 40)
    t = masks.group_thresholds(flat.view(-1, 4), 2)
    first, second = (flat.clone().requires_grad_() for _ in range(2))
    short = masks.soft_weight(first, t, tau, share, group=4)
    long = masks.soft_weight(second, t.repeat_interleave(4), tau, share)
    assert torch.allclose(short, long)
    assert torch.allclose(*(torch.autograd.grad(y.square().sum(), x)[0] for x, y in ((first, short), (second, long))))


def test_half_precision_is_computed_in_single():
    weight = (0.05 * draw(2, 200)).bfloat16()
    t = masks.threshold(weight, 100)
    assert t.dtype == torch.float32
    weight.requires_grad_()
    result = masks.soft_weight(weight, t, 1e-5)
    result.float().sum().backward()
    assert result.dtype == weight.grad.dtype == torch.bfloat16
    assert torch.equal(result, masks.soft_weight(weight.detach().float(), t, 1e-5).bfloat16())
    assert weight.grad.isfinite().all()


def test_zeros_and_large_weights_give_finite_results():
    weight = torch.tensor([0.0, 0.0, 0.0, 1.0, 1e4]).requires_grad_()
    for pruned in (1, 2, 3):
        result = masks.soft_weight(weight, masks.threshold(weight, pruned), None)
        (gradient,) = torch.autograd.grad(result.sum(), weight)
        assert result.isfinite().all()
        assert gradient.isfinite().all()


@given(seeds)
def test_the_mask_does_not_depend_on_the_scale(seed: int):  # 14
    weight, scale = draw(seed, 30), 0.01
    t = masks.threshold(weight, 12)
    assert torch.allclose(masks.soft_mask(weight, t, 0.1), masks.soft_mask(weight * scale, t * scale, 0.1 * scale**2))
    assert torch.allclose(masks.soft_mask(weight, t), masks.soft_mask(weight * scale, t * scale))


@pytest.mark.parametrize("pruned", [0, 1, 5, 9, 10])
def test_a_hard_mask_is_exact_where_magnitudes_are_equal(pruned: int):
    for magnitude in (torch.ones(10), torch.zeros(2, 5), torch.tensor([1.0, 2, 2, 2, 2, 2, 2, 2, 2, 3])):
        kept = masks.hard_mask(magnitude, pruned)
        assert int(kept.sum()) == 10 - pruned
    ties = masks.hard_mask(torch.ones(10), 4)
    assert ties.tolist() == [True] * 6 + [False] * 4  # the earlier stay


@given(seeds, st.floats(0, 0.99), st.lists(st.integers(2, 40), min_size=1, max_size=6))
def test_budgets_are_the_smallest_of_all(seed: int, sparsity: float, sizes: list[int]):  # 8
    scores = [draw(seed + i, size).abs() for i, size in enumerate(sizes)]
    found = masks.budgets(scores, sparsity, sizes)
    wanted = math.floor(sparsity * sum(sizes) + 1e-9)
    assert sum(found) == wanted
    together = torch.cat(scores).sort().values
    border = together[wanted] if wanted < len(together) else math.inf
    assert found == [int((score < border).sum()) for score in scores]


def test_no_layer_loses_all_and_others_make_up_for_it():
    scores = [torch.rand(10) * 1e-3, torch.rand(100) + 1, torch.rand(100) + 1]
    found = masks.budgets(scores, 0.5)
    assert found[0] == 9
    assert sum(found) == 105
    assert masks.budgets([torch.zeros(4), torch.zeros(4)], 0.9) == [3, 3]
    assert masks.uniform_budgets(scores, 0.5) == [5, 50, 50]


# N:M.


@settings(deadline=None)
@given(seeds, st.sampled_from([(1, 4), (2, 4), (3, 4), (4, 8), (1, 2), (5, 7)]))
def test_group_thresholds_and_masks_are_those_of_a_sort(seed: int, pattern: tuple[int, int]):
    n, m = pattern
    weight = draw(seed, 6, 3 * m)
    groups = masks.to_groups(weight, m, -1)
    assert torch.equal(masks.from_groups(groups, weight.shape, -1), weight)
    ordered = weight.view(-1, m).abs().sort(descending=True).values
    assert torch.allclose(masks.group_thresholds(groups, n), (ordered[:, n - 1] + ordered[:, n]) / 2)
    kept = masks.from_groups(masks.hard_group_mask(groups, n), weight.shape, -1).view(-1, m)
    assert (kept.sum(1) == n).all()
    assert torch.equal(weight.view(-1, m).abs()[kept].view(-1, n).amin(1), ordered[:, n - 1])


def test_equal_magnitudes_leave_exactly_n():  # 11
    for value in (0.0, 1.0):
        kept = masks.hard_group_mask(torch.full((5, 4), value), 2)
        assert torch.equal(kept, torch.tensor([[True, True, False, False]] * 5))


def test_groups_of_a_convolution_run_along_its_input_channels():
    weight = draw(0, 3, 8, 2, 2)
    groups = masks.to_groups(weight, 4, 1)
    assert torch.equal(groups[0], weight[0, :4, 0, 0])
    assert torch.equal(masks.from_groups(groups, weight.shape, 1), weight)


@pytest.mark.parametrize("shape", [(6, 8, 1, 1), (6, 8, 3, 3), (6, 8, 1)])
def test_a_convolution_keeps_its_memory_format(shape: tuple[int, ...]):
    weight = torch.randn(shape)
    back = masks.from_groups(masks.to_groups(weight, 4, 1), shape, 1)
    assert torch.equal(back, weight)
    assert back.stride() == weight.stride()


# The callback.


def test_before_the_ramp_training_is_bit_identical_to_a_dense_one():  # 7
    dense, masked = mlp(), mlp()
    trainer(max_epochs=1, limit_train_batches=4).fit(dense, batches())
    callback = PDPMasking(sparsity=0.8, start=0.98, end=0.98)
    trainer(callback, max_epochs=1, limit_train_batches=4).fit(masked, batches())
    x = torch.randn(3, 8)
    assert torch.equal(dense(x), masked(x))


@pytest.mark.parametrize("mode", ["unstructured", "n:m"])
def test_the_finalized_module_has_exact_zeros_and_the_dense_keys(mode: str):  # 6, 10
    model = mlp()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    callback = PDPMasking(0.75, mode, "1:4")
    trainer(callback, max_epochs=2).fit(model, batches())
    before = copy.deepcopy(model.state_dict())
    model.eval()
    x = torch.randn(3, 8)
    final, structure, report = finalize(model, [callback])
    assert structure == {}
    assert {name: value.shape for name, value in final.state_dict().items()} == shapes
    assert torch.allclose(final(x), model(x), atol=1e-6)
    zeros = sum(int((layer.weight == 0).sum()) for layer in (final.network[0], final.network[2]))
    assert zeros == math.floor(0.75 * (8 * 16 + 16 * 4))
    assert not any(
        torch.signbit(layer.weight[layer.weight == 0]).any() for layer in (final.network[0], final.network[2])
    )
    assert report["PDPMasking"]["compress/sparsity"] == 0.75
    assert report["PDPMasking"]["compress/sparsity_model"] == zeros / sum(p.numel() for p in final.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masks_add_no_parameters():  # 6
    model = mlp()
    count = len(list(model.parameters()))
    PDPMasking(0.5).prepare_once(model)
    assert len(list(model.parameters())) == count


def test_budgets_are_fixed_once_at_the_start_of_the_ramp():  # 8
    model = mlp()
    callback = PDPMasking(0.6, start=0.25, end=0.75)
    callback.prepare_once(model)
    callback.step(model, 0.2)
    found = [mask for _, mask in carried(model, WeightMask)]
    assert [mask.budget for mask in found] == [None, None]
    with torch.no_grad():
        found_weights = [target.original for target, _ in carried(model, WeightMask)]
        found_weights[0].mul_(10)
    callback.step(model, 0.3)
    budgets = [mask.budget for mask in found]
    assert sum(budgets) == math.floor(0.6 * 192)
    with torch.no_grad():
        found_weights[1].mul_(1000)
    callback.step(model, 0.9)
    assert [mask.budget for mask in found] == budgets


def test_the_ramp_rises_to_the_budget_and_stays():  # 9
    model = mlp()
    callback = PDPMasking(0.5, start=0.2, end=0.6)
    callback.prepare_once(model)
    seen = []
    for step in range(100):
        callback.step(model, step / 100)
        masked = list(carried(model, WeightMask))
        seen.append([mask.pruned for _, mask in masked])
        if step > 20:
            expected = [math.floor(ramp(step / 100, 0.2, 0.6) * mask.budget + 1e-9) for _, mask in masked]
            assert seen[-1] == expected
    assert all(
        a <= b for before, after in zip(seen, seen[1:], strict=False) for a, b in zip(before, after, strict=True)
    )
    assert seen[60:] == [[mask.budget for _, mask in carried(model, WeightMask)]] * 40
    assert [callback.settled(p) for p in (0.0, 0.59, 0.6, 0.99)] == [False, False, True, True]


def test_evaluation_sees_the_hard_mask_and_training_the_soft_one():
    model = mlp()
    callback = PDPMasking(0.5, **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    layer = model.network[0]
    target, mask = next(carried(model, WeightMask))
    soft = layer.weight
    assert (soft != 0).all()
    assert torch.allclose(soft, masks.soft_weight(target.original, mask.threshold))
    model.eval()
    assert int((layer.weight == 0).sum()) == mask.pruned > 0
    assert torch.equal(layer.weight != 0, masks.soft_mask(target.original, mask.threshold) >= 0.5)


def test_the_ramp_of_n_of_m_blends_with_the_dense_weight():
    model = mlp(width=64)
    callback = PDPMasking(mode="n:m", pattern="2:4", start=0.0, end=0.5)
    callback.prepare_once(model)
    target, mask = next(carried(model, GroupMask))
    dense = target.original.detach().clone()
    callback.step(model, 0.125)
    share = mask.pruned / mask.budget
    assert share == pytest.approx(0.25, abs=0.01)
    blended = (1 - share + share * masks.from_groups(mask.mask(dense), dense.shape, -1)) * dense
    assert torch.allclose(model.network[0].weight, blended)
    model.eval()
    assert ((model.network[0].weight.view(-1, 4) != 0).sum(1) == 2).all()


def test_a_weight_below_the_threshold_comes_back_where_the_loss_wants_it():  # 13
    layer = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1, 11) / 10)
        layer.weight[0, 4] = 0.54  # pruned: five go, the threshold is 0.57
    callback = PDPMasking(0.5, **AT_ONCE)
    callback.prepare_once(layer)
    optimizer = torch.optim.SGD(layer.parameters(), 0.02)
    pruned = []
    for _ in range(20):
        callback.step(layer, 0.1)
        target, mask = next(carried(layer, WeightMask))
        pruned.append(bool(mask.hard(target.original)[0, 4] == 0))
        optimizer.zero_grad()
        (-layer.weight[0, 4]).backward()
        optimizer.step()
    assert pruned[0]
    assert not pruned[-1]


def resumed(folder: Path, mode: str, callback: type[PDPMasking] = PDPMasking) -> None:
    """A run killed in mid-ramp and resumed has the weights and buffers of an uninterrupted one."""
    arguments = {"mode": mode, "start": 0.1, "end": 0.8} | ({} if mode == "n:m" else {"sparsity": 0.6})
    make = residual if mode == "channel" else mlp
    data = batches(inputs=(1, 8, 8)) if mode == "channel" else batches()
    whole = make()
    keep = ModelCheckpoint(folder, filename="mid", every_n_epochs=2, save_top_k=-1, save_on_train_epoch_end=True)
    trainer(callback(**arguments), keep, max_epochs=5, enable_checkpointing=True).fit(whole, data)
    again = make(seed=5)
    trainer(callback(**arguments), max_epochs=5).fit(again, data, ckpt_path=folder / "mid.ckpt", weights_only=True)
    first, second = whole.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(name.endswith("counts") and 0 < int(value[0]) == int(value[1]) for name, value in first.items())


@pytest.mark.parametrize("mode", ["unstructured", "n:m", "channel"])
def test_killed_in_mid_ramp_and_resumed_equals_uninterrupted(tmp_path: Path, mode: str):  # 15
    resumed(tmp_path, mode)


def test_loaded_weights_are_masked_before_any_step():
    model, fresh = mlp(), mlp(seed=3)
    callbacks = [PDPMasking(0.6, start=0.0, end=0.5) for _ in range(2)]
    for callback, module in zip(callbacks, (model, fresh), strict=True):
        callback.prepare_once(module)
    callbacks[0].step(model, 0.3)
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(2, 8)
    assert torch.equal(fresh(x), model(x))
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_finalizing_before_the_ramp_is_over_says_so_and_still_prunes_to_the_target():
    model = mlp()
    callback = PDPMasking(0.75, start=0.0, end=0.9)
    callback.prepare_once(model)
    callback.step(model, 0.3)
    with pytest.warns(UserWarning, match="its ramp was not over"):
        final, _, report = finalize(model, [callback])
    assert report["PDPMasking"]["compress/sparsity"] == 0.75
    assert int((final.network[0].weight == 0).sum()) + int((final.network[2].weight == 0).sum()) == 144


def test_a_mask_that_stays_soft_is_named_once():
    model = mlp()
    callback = PDPMasking(0.5, tau=10.0, **AT_ONCE)
    callback.prepare_once(model)
    with pytest.warns(UserWarning, match=r"softest 'network\.[02]\.weight'.*leave tau out"):
        callback.step(model, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.step(model, 0.6)
    assert callback.report(model)["compress/softness"] > 0.4


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_relative_temperature_separates_at_any_scale():
    for scale in (1e-3, 1.0, 30.0):
        model = mlp(width=256)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        callback = PDPMasking(0.8, **AT_ONCE)
        callback.prepare_once(model)
        callback.step(model, 0.5)
        assert callback.report(model)["compress/softness"] < 0.05


def test_progress_is_logged():
    callback = PDPMasking(0.5)
    runner = trainer(callback, max_epochs=4)
    runner.fit(mlp(), batches())
    assert runner.callback_metrics["compress/sparsity"] == pytest.approx(0.5, abs=0.01)
    assert runner.callback_metrics["compress/sparsity_model"] == pytest.approx(96 / 212, abs=0.01)


def test_lightnings_boring_model_is_pruned():
    model = BoringModel()
    callback = PDPMasking(0.9)
    trainer(callback, max_epochs=2, limit_train_batches=8, limit_val_batches=2).fit(model)
    final, _, _ = finalize(model, [callback])
    assert int((final.layer.weight == 0).sum()) == math.floor(0.9 * 64)


def test_a_transformer_encoder_is_pruned_with_its_attention():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = Regression(nn.TransformerEncoder(layer, 2), torch.randn(2, 5, 16))
    callback = PDPMasking(0.7, **AT_ONCE)
    trainer(callback, max_epochs=1).fit(model, batches(inputs=(5, 16), outputs=(5, 16)))
    x = torch.randn(2, 5, 16)
    hard = model.eval()(x)
    final, _, report = finalize(model, [callback])
    assert report["PDPMasking"]["compress/sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert int((final.network.layers[0].self_attn.in_proj_weight == 0).sum()) > 0
    assert torch.allclose(final(x), hard, atol=1e-6)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))


@pytest.mark.parametrize("mode", ["unstructured", "n:m"])
def test_gpt2_is_pruned_through_its_own_linear_layer(mode: str):
    model = gpt2()
    callback = PDPMasking(0.5, mode, **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    tokens = torch.randint(40, (2, 6))
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    final, _, _ = finalize(model, [callback])
    weight = final.transformer.h[0].mlp.c_fc.weight  # (inputs, outputs)
    if mode == "n:m":
        assert ((weight.t().reshape(-1, 4) != 0).sum(1) == 2).all()
    assert (final.transformer.wte.weight != 0).all()  # tied to the head: only who names it prunes it
    assert final.lm_head.weight is final.transformer.wte.weight
    assert gpt2().state_dict().keys() == final.state_dict().keys()


def test_a_tied_embedding_that_is_named_is_pruned_once_and_stays_tied():
    model = gpt2()
    callback = PDPMasking(0.5, targets=["lm_head"], **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    tokens = torch.randint(40, (2, 6))
    model.train()(input_ids=tokens, labels=tokens).loss.backward()
    final, _, report = finalize(model, [callback])
    assert final.lm_head.weight is final.transformer.wte.weight
    assert int((final.lm_head.weight == 0).sum()) == 320
    assert report["PDPMasking"]["compress/sparsity"] == 0.5


def test_bert_is_pruned_and_saved(tmp_path: Path):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    model = BertModel(config)
    callback = PDPMasking(0.8, targets=["encoder.*"], **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    final, structure, report = finalize(model, [callback])
    assert report["PDPMasking"]["compress/sparsity"] == pytest.approx(0.8, abs=1e-3)
    save_compressed(final, tmp_path, structure)
    loaded = load_compressed(tmp_path, BertModel(config))
    tokens = torch.randint(30, (2, 6))
    assert torch.equal(loaded(tokens).last_hidden_state, final(tokens).last_hidden_state)


def test_two_callbacks_prune_their_own_layers_in_any_order():
    results = []
    for order in (1, -1):
        model = mlp()
        first, second = PDPMasking(0.5, targets=["network.0"]), PDPMasking(mode="n:m", targets=["network.2"])
        first.name, second.name = "a", "b"
        trainer(*[first, second][::order], max_epochs=2).fit(model, batches())
        final, _, _ = finalize(model, [first, second][::order])
        results.append(final.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())
    assert int((results[0]["network.0.weight"] == 0).sum()) == 64
    assert ((results[0]["network.2.weight"].view(-1, 4) != 0).sum(1) == 2).all()


def test_gradient_accumulation_and_a_copy_in_training_work():
    model = mlp()
    callback = PDPMasking(0.5)
    trainer(callback, max_epochs=4, accumulate_grad_batches=2).fit(model, batches())
    clone = copy.deepcopy(model)
    x = torch.randn(2, 8)
    assert torch.equal(clone.eval()(x), model.eval()(x))
    assert copy.deepcopy(callback).sparsity == 0.5


def test_a_mixed_precision_run_keeps_exact_zeros():
    model = mlp()
    callback = PDPMasking(0.5)
    trainer(callback, max_epochs=2, precision="bf16-true").fit(model, batches())
    final, _, _ = finalize(model, [callback])
    assert sum(int((final.network[i].weight == 0).sum()) for i in (0, 2)) >= 96


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a sparsity"),
        ({"sparsity": 1.0}, "0 <= sparsity < 1; got 1.0"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"sparsity": 0.5, "mode": "random"}, "got 'random'"),
        ({"sparsity": 0.5, "start": 0.9, "end": 0.5}, "got 0.9 and 0.5"),
        ({"sparsity": 0.5, "end": 1.0}, "got 0.16 and 1.0"),
        ({"sparsity": 0.5, "tau": 0.0}, "got 0.0"),
        ({"mode": "n:m", "pattern": "4:2"}, "got '4:2'"),
        ({"mode": "n:m", "pattern": "half"}, "got 'half'"),
        ({"mode": "n:m", "sparsity": 0.8}, "leave it out"),
        ({"sparsity": 0.5, "targets": "encoder"}, "a list of names"),
        ({"sparsity": 0.5, "budget": "even"}, "got 'even'"),
    ],
)
def test_impossible_arguments_are_refused_with_the_value(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        PDPMasking(**arguments)


def test_unknown_and_frozen_layers_are_refused():
    with pytest.raises(ValueError, match="did you mean 'network.0'"):
        PDPMasking(0.5, targets=["netwrk.0"]).check(mlp())
    model = mlp()
    model.network[0].requires_grad_(False)
    with pytest.raises(ValueError, match="'network.0.weight' is frozen"):
        PDPMasking(0.5, targets=["network.*"]).check(model)
    assert [t.name for t in PDPMasking(0.5)._targets(model)] == ["network.2.weight"]


def test_a_pattern_that_does_not_fit_is_refused_where_named_and_passed_over_where_not():
    model = Regression(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), None)
    with pytest.raises(ValueError, match=r"'network.0.weight' has 6 inputs, no multiple of 4"):
        PDPMasking(mode="n:m", targets=["Linear"]).check(model)
    assert [t.name for t in PDPMasking(mode="n:m")._targets(model)] == ["network.1.weight"]
    with pytest.raises(ValueError, match="fits none"):
        PDPMasking(mode="n:m", exclude=["network.1"]).check(model)


def test_an_endless_training_is_refused():
    with pytest.raises(ValueError, match="max_epochs: -1"):
        PDPMasking(0.5).check(mlp(), -1)


def test_a_layer_pruned_by_two_callbacks_is_refused_before_training():
    first, second = PDPMasking(0.5), PDPMasking(mode="n:m")
    check_together([first, second])
    with pytest.raises(ValueError, match="pruned by another callback"):
        check_alone([first, second], mlp())


# Several processes.


class Shards(L.LightningDataModule):
    def train_dataloader(self) -> object:
        world, data = self.trainer.world_size, batches(rows=8).dataset
        sampler = DistributedSampler(data, world, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, 8 // world, sampler=sampler)


class Save(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.path.with_suffix(f".{trainer.world_size}.{trainer.global_rank}"))


def test_two_processes_equal_one(tmp_path: Path):
    for how in ({}, {"strategy": "ddp_fork", "devices": 2}):
        runner = trainer(PDPMasking(0.6), Save(tmp_path / "state"), max_epochs=3, use_distributed_sampler=False, **how)
        runner.fit(mlp(), datamodule=Shards())
    one, two, other = (torch.load(tmp_path / f"state.{name}") for name in ("1.0", "2.0", "2.1"))
    assert one.keys() == two.keys()
    # The order of a sum differs, 1e-7; a weight on the border has 13 times its dense gradient, in each of 24 steps.
    assert all(torch.allclose(value, two[name], atol=1e-3) for name, value in one.items())
    assert all(torch.equal(value, other[name]) for name, value in two.items())


def test_a_layer_of_small_weights_keeps_a_share_of_them_under_a_global_budget() -> None:
    net = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 20))
    with torch.no_grad():
        net[1].weight.mul_(1e-4)
    callback = PDPMasking(0.8, start=0.0, end=0.5)
    callback.prepare(net)
    callback.step(net, 0.9)
    kept = [int((layer.weight != 0).sum()) for layer in callback.finalize(net)]
    assert kept == [550, 50]  # a quarter of an even 200 in the second; 600 of 3,000 in all
