import copy

import pytest
import torch
from lightsleeper_callbacks.weights import Target, Transform, attach, attached, carried, detach, find
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel


class Double(Transform):
    """Doubles in training, negates in evaluation, and counts how often it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def soft(self, weight: Tensor) -> Tensor:
        self.computed += 1
        return 2 * weight

    def hard(self, weight: Tensor) -> Tensor:
        self.computed += 1
        return -weight


class AddOne(Double):
    def soft(self, weight: Tensor) -> Tensor:
        return weight + 1

    def hard(self, weight: Tensor) -> Tensor:
        return weight + 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(1, 2, 3))
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def gpt() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def names(targets: list[Target]) -> list[str]:
    return [target.name for target in targets]


def test_without_names_every_linear_convolution_and_attention_weight_is_a_target(net):
    assert names(find(net, exclude=["head"])) == ["body.0.weight", "body.2.weight", "attend.in_proj_weight",
                                                  "attend.out_proj.weight"]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["body.*"], ["body.0.weight", "body.2.weight"]),
        (["Conv1d"], ["body.2.weight"]),
        (["Linear"], ["embed.weight", "body.0.weight", "attend.out_proj.weight"]),
        (["attend.in_proj_weight"], ["attend.in_proj_weight"]),
        (["Embedding"], ["embed.weight"]),
    ],
)
def test_targets_are_named_by_path_pattern_or_type(net, patterns, expected):
    assert names(find(net, patterns)) == expected


def test_layers_of_transformers_are_found(gpt):
    assert names(find(gpt, ["transformer.h.0.*"])) == [
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert find(gpt, ["*.c_fc"])[0].transposed


NEAREST = {"bodi.0": "did you mean 'body.0'", "Linaer": "did you mean 'Linear'", "zzz": "there are embed, body.0"}


@pytest.mark.parametrize(("pattern", "message"), NEAREST.items())
def test_a_name_that_fits_nothing_is_refused_with_the_nearest(net, pattern, message):
    with pytest.raises(ValueError, match=message):
        find(net, [pattern])


def test_a_named_frozen_weight_is_refused_and_an_unnamed_one_left_out(net):
    net.body[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'body.0.weight' is frozen"):
        find(net, ["body.0"])
    assert "body.0.weight" not in names(find(net))


def test_a_module_without_weights_is_refused():
    with pytest.raises(ValueError, match="no trained weight"):
        find(nn.ReLU())


def test_tied_weights_are_one_target_and_stay_tied(gpt):
    target = find(gpt, ["lm_head"])[0]
    assert [type(layer).__name__ for layer, _ in target.owners] == ["Embedding", "Linear"]
    transform = Double()
    attach(target, transform)
    gpt.train()
    ids = torch.arange(8)[None]
    gpt(ids, labels=ids).loss.backward()
    assert transform.computed == 1  # the embedding and the head saw one result
    assert len([p for p in gpt.parameters() if p is target.original]) == 1
    detach(target, transform, target.original)
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    assert type(gpt.lm_head) is nn.Linear


def test_one_result_serves_until_the_weight_changes(net):
    target, transform = find(net, ["body.0"])[0], Double()
    attach(target, transform)
    first = net.body[0].weight
    assert net.body[0].weight is first
    with torch.no_grad():
        target.original.add_(1)
    assert torch.equal(net.body[0].weight, 2 * target.original)
    assert transform.computed == 2


def test_a_backward_pass_frees_the_result_and_gradients_add_up_over_batches(net):
    target, transform = find(net, ["body.0"])[0], Double()
    attach(target, transform)
    x = torch.ones(1, 4)
    for _ in range(2):
        net.body[0](x).sum().backward()
    assert transform.computed == 2
    assert torch.equal(target.original.grad, torch.full((4, 4), 4.0))


def test_evaluation_sees_the_weight_that_ships(net):
    target, transform = find(net, ["body.0"])[0], Double()
    attach(target, transform)
    trained = net.body[0].weight
    net.eval()
    assert torch.equal(net.body[0].weight, -target.original)
    net.train()
    assert torch.equal(net.body[0].weight, trained)


def test_a_result_of_no_grad_is_not_given_to_a_training_step(net):
    target = find(net, ["body.0"])[0]
    attach(target, Double())
    with torch.no_grad():
        net.body[0].weight  # noqa: B018
    assert net.body[0].weight.requires_grad
    with torch.inference_mode():
        net.body[0].weight  # noqa: B018
    assert not net.body[0].weight.is_inference()


def test_activation_checkpointing_gives_the_same_gradient(net):
    target = find(net, ["body.0"])[0]
    attach(target, Double())
    x = torch.randn(3, 4, requires_grad=True)
    net.body[0](x).square().sum().backward()
    plain = target.original.grad.clone()
    target.original.grad = None
    checkpoint(lambda value: net.body[0](value).square().sum(), x, use_reentrant=False).backward()
    assert torch.equal(target.original.grad, plain)


def test_while_hooks_are_on_saved_tensors_every_use_computes_anew(net):
    target, transform = find(net, ["body.0"])[0], Double()
    attach(target, transform)

    def uses() -> int:
        before = transform.computed
        for _ in range(2):
            net.body[0].weight  # noqa: B018
        return transform.computed - before

    with save_on_cpu():
        assert uses() == 2
    assert uses() == 1  # and the hooks work on
    with save_on_cpu(), torch.no_grad():
        assert uses() == 1  # nothing is saved


def test_transforms_chain_and_come_off_one_by_one(net):
    target = find(net, ["body.0"])[0]
    first, second = Double(), AddOne()
    attach(target, first)
    attach(target, second)
    plain = target.original.detach().clone()
    assert torch.equal(net.body[0].weight, 2 * plain + 1)
    assert attached(target, AddOne) is second
    detach(target, first, 3 * plain)
    assert torch.equal(net.body[0].weight, 3 * plain + 1)
    detach(target, second, target.weight)
    assert torch.equal(net.body[0].weight, 3 * plain + 1)
    assert set(net.body[0].state_dict()) == {"weight", "bias"}


def test_a_copy_carries_its_own_transforms(net):
    attach(find(net, ["head"])[0], Double())
    clone = copy.deepcopy(net)
    (target, transform), (_, ours) = next(carried(clone, Double)), next(carried(net, Double))
    assert transform is not ours
    assert target.name == "embed.weight"
    detach(target, transform, torch.zeros_like(target.original))
    assert clone.head.weight.abs().sum() == 0
    assert clone.head.weight is clone.embed.weight
    assert net.head.weight.abs().sum() > 0


def test_a_loaded_state_is_seen_at_once(net):
    target = find(net, ["body.0"])[0]
    attach(target, Double())
    state = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    assert net.body[0].weight.abs().sum() > 0
    net.load_state_dict(state)
    assert net.body[0].weight.abs().sum() == 0
