"""Channel pruning: shared masks, removal, and that both give the same outputs (test 12 of the PDP dossier)."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from callbacks.pruned import Regression, batches, residual, scramble, trainer
from lightsleeper_callbacks import channel_masks, masks
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.finalize import finalize, load_compressed, save_compressed
from lightsleeper_callbacks.pdp import PDPMasking
from torch import Tensor, nn

AT_ONCE = {"start": 0.0, "end": 0.0}
PROVEN = 1e-5


def made(network: nn.Module, *shape: int) -> Regression:
    torch.manual_seed(1)
    scramble(network)
    return Regression(network, torch.randn(2, *shape))


def shrunk(model: Regression, **arguments: Any) -> tuple[nn.Module, nn.Module, dict[str, Any], dict[str, Any]]:
    """Masked and narrowed network of one callback, with structure and report; the driver has proved them equal."""
    callback = PDPMasking(mode="channel", **{"sparsity": 0.5, **AT_ONCE, **arguments})
    callback.prepare_once(model)
    callback.step(model, 0.5)
    final, structure, report = finalize(model, [callback])
    return model.eval(), final, structure, report["PDPMasking"]


def test_a_residual_network_shrinks_and_keeps_its_outputs():
    model = residual()
    masked, final, structure, report = shrunk(model)
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(masked(x), final(x), atol=PROVEN)
    kept = {
        name: final.get_submodule(f"network.{name}").out_channels
        for name in ("stem", "conv2", "skip", "conv4", "conv3")
    }
    assert kept["stem"] == kept["conv2"] == final.network.conv3.in_channels
    assert kept["skip"] == kept["conv4"] == final.network.head.in_features
    groups = [8, 8, 16, 16]  # stem + conv2, conv1, skip + conv4, conv3
    assert kept["stem"] + final.network.conv1.out_channels + kept["skip"] + kept["conv3"] == sum(groups) // 2
    assert structure["network.norm4"]["args"]["num_features"] == kept["conv4"]
    assert report["exact_abs_diff"] < PROVEN
    before = sum(p.numel() for p in residual().parameters())
    assert report["compress/parameters_removed"] == 1 - sum(p.numel() for p in final.parameters()) / before
    assert report["compress/parameters_removed"] > 0.5


def test_the_bytes_of_clustered_weights_are_those_that_are_left():
    model = residual()
    callbacks = [PDPMasking(0.5, "channel", **AT_ONCE), EDKMClustering(bits=3, small_bits=3, start=0.0)]
    for callback in callbacks:
        callback.prepare_once(model)
        callback.step(model, 0.5)
    final, _, report = finalize(model, callbacks)
    found = report["EDKMClustering"]
    left = sum(v.numel() * (4 if v.is_floating_point() else v.element_size()) for v in final.state_dict().values())
    clustered = 4 * sum(layer.weight.numel() for layer in final.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    assert found["compress/bytes"] < left
    assert 0 < found["compress/share"] <= clustered / left


def test_a_trained_network_shrinks_after_its_statistics_were_measured_anew(tmp_path: Path):
    model = residual()
    callback = PDPMasking(0.4, "channel")
    data = batches(inputs=(1, 8, 8))
    trainer(callback, max_epochs=3).fit(model, data)
    before = copy.deepcopy(model.state_dict())
    final, structure, report = finalize(model, [callback], batches=lambda: data)
    assert report["PDPMasking"]["exact_abs_diff"] < PROVEN
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    save_compressed(final, tmp_path, structure)
    loaded = load_compressed(tmp_path, residual(seed=9))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), final(x))


def test_tied_layers_have_one_budget_and_one_mask():
    model = residual()
    callback = PDPMasking(0.5, "channel", **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    found = channel_masks.gates(model)
    assert [gate.size for gate in found] == [8, 8, 16, 16]
    assert sum(gate.budget for gate in found) == 24
    model.eval()
    network = model.network
    gone = (network.stem.weight.flatten(1) == 0).all(1)
    for tensor in (network.stem.bias, network.norm.weight, network.norm.bias, network.norm2.weight, network.norm2.bias):
        assert torch.equal(tensor == 0, gone)
    assert torch.equal((network.conv2.weight.flatten(1) == 0).all(1), gone)
    assert int(gone.sum()) == found[0].pruned
    norms = (model.network.stem.parametrizations.weight.original.flatten(1).square().sum(1)
             + model.network.conv2.parametrizations.weight.original.flatten(1).square().sum(1)) / 2  # fmt: skip
    assert torch.equal(~gone, masks.hard_mask(norms.sqrt().detach(), found[0].pruned))


def test_training_multiplies_what_no_norm_would_undo():
    model = residual()
    callback = PDPMasking(0.5, "channel", **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    network = model.network
    gate = channel_masks.gates(model)[0].mask()
    assert network.stem.weight is network.stem.parametrizations.weight.original  # a norm follows
    assert torch.allclose(network.norm.weight, network.norm.parametrizations.weight.original * gate)
    assert torch.allclose(network.norm2.bias, network.norm2.parametrizations.bias.original * gate)


def test_the_gradient_reaches_every_tied_weight_as_autograd_says():
    model = residual().double()
    callback = PDPMasking(0.5, "channel", tau=0.5, **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    network = model.network
    gate = channel_masks.gates(model)[0]
    originals = [getattr(network, n).parametrizations["weight"].original for n in ("stem", "conv2", "norm", "norm2")]
    loss = (network.norm.weight * 0.3).sum() + network.norm2.weight.square().sum()
    found = torch.autograd.grad(loss, originals)
    stem, conv2, norm, norm2 = (w.detach().clone().requires_grad_() for w in originals)
    squares = (stem.flatten(1).square().sum(1) + conv2.flatten(1).square().sum(1)) / 2
    mask = torch.sigmoid((squares - gate.threshold**2) / 0.5)
    expected = torch.autograd.grad(
        (norm * mask * 0.3).sum() + (norm2 * mask).square().sum(), (stem, conv2, norm, norm2)
    )
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_masks_add_no_parameters_and_do_nothing_before_the_ramp():
    model, plain = residual(), residual()
    callback = PDPMasking(0.5, "channel", start=0.5, end=0.6)
    callback.prepare_once(model)
    callback.step(model, 0.4)
    x = torch.randn(2, 1, 8, 8)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))


class Depthwise(nn.Module):
    """Pointwise, depthwise, pointwise, then flattened into a linear layer, with a concatenation on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Conv1d(4, 12, 1)
        self.norm1 = nn.BatchNorm1d(12)
        self.deep = nn.Conv1d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm2 = nn.BatchNorm1d(12)
        self.left = nn.Conv1d(12, 6, 3, padding=1)
        self.right = nn.Conv1d(12, 6, 3, padding=1)
        self.joint = nn.BatchNorm1d(12)
        self.head = nn.Linear(12 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.deep(F.relu(self.norm1(self.inward(x))))))
        x = F.relu(self.joint(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(x.flatten(1))


def test_depthwise_concatenated_and_flattened_channels_shrink():
    masked, final, structure, report = shrunk(made(Depthwise(), 4, 5))
    network = final.network
    assert network.deep.groups == network.inward.out_channels == network.left.in_channels < 12
    assert network.joint.num_features == network.left.out_channels + network.right.out_channels
    assert network.head.in_features == network.joint.num_features * 5
    assert network.inward.out_channels + network.joint.num_features == 12
    x = torch.randn(3, 4, 5)
    assert torch.allclose(masked(x), final(x), atol=PROVEN)
    assert {"network.deep", "network.head", "network.joint"} <= structure.keys()


def test_a_network_without_norms_shrinks():
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 4)
    )
    masked, final, _, _ = shrunk(made(network, 1, 8, 8))
    assert final.network[0].out_channels + final.network[2].out_channels == 8
    x = torch.randn(3, 1, 8, 8)
    assert torch.allclose(masked(x), final(x), atol=PROVEN)


def test_a_transposed_convolution_shrinks():
    network = nn.Sequential(nn.ConvTranspose1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 1))
    masked, final, _, _ = shrunk(made(network, 3, 9))
    assert final.network[0].out_channels + final.network[2].out_channels == 8
    x = torch.randn(3, 3, 9)
    assert torch.allclose(masked(x), final(x), atol=PROVEN)


def test_the_hidden_layers_of_a_transformer_encoder_shrink_and_its_stream_stays():
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    masked, final, structure, _ = shrunk(made(nn.TransformerEncoder(layer, 2), 5, 16))
    assert sum(layer.linear1.out_features for layer in final.network.layers) == 32
    assert {name.rpartition(".")[2] for name in structure} == {"linear1", "linear2"}
    x = torch.randn(3, 5, 16)
    assert torch.allclose(masked(x), final(x), atol=PROVEN)


def bert(**settings: Any) -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = BertModel(config, add_pooling_layer=False)
    model.example_input_array = {"input_ids": torch.arange(6)[None]}
    return model


def test_the_hidden_layers_of_bert_shrink():
    masked, final, structure, _ = shrunk(bert(), sparsity=0.25)
    assert sum(layer.intermediate.dense.out_features for layer in final.encoder.layer) == 48
    assert len(structure) == 4
    tokens = torch.randint(30, (2, 7))
    assert torch.allclose(masked(tokens).last_hidden_state, final(tokens).last_hidden_state, atol=PROVEN)


def test_the_hidden_layers_of_a_vision_transformer_shrink():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes), add_pooling_layer=False)
    model.example_input_array = torch.randn(1, 1, 8, 8)
    _, final, structure, report = shrunk(model)
    assert len(structure) == 4
    assert report["exact_abs_diff"] < PROVEN


def test_an_activation_that_is_not_zero_at_zero_keeps_its_layer():
    def model() -> Regression:
        return made(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), 8)

    _, final, structure, _ = shrunk(model())
    assert list(structure) == ["network.2", "network.4"]
    with pytest.raises(ValueError, match=r"channels of 'network.0' cannot be removed: the outputs change.*exclude it"):
        PDPMasking(0.5, "channel", targets=["network.0"]).check(model())


class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv1d(4, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv1d(8, 4, 1))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.query(x).view(len(x), 2, 4).mean(2).repeat(1, 4))


@pytest.mark.parametrize(
    ("network", "shape", "target", "message"),
    [
        (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)), (8,), "network.0", "network.1' .LayerNorm"),
        (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), (8,), "network.2", "the network's outputs"),
        (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(1)), (8,), "network.2", "outputs"),
        (Grouped(), (4, 6), "network.0", "'network.2' is a grouped convolution"),
        (nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8, affine=False), nn.Conv1d(8, 2, 1)), (4, 6), "network.0",
         "no weight and bias"),
        (Heads(), (8,), "network.query", "fails|outputs change"),
    ],
)  # fmt: skip
def test_what_cannot_shrink_is_refused_with_the_reason(network: nn.Module, shape: tuple, target: str, message: str):
    with pytest.raises(ValueError, match=f"channels of '{target}' cannot be removed: .*({message})"):
        PDPMasking(0.5, "channel", targets=[target]).check(made(network, *shape))


def test_half_of_an_addition_is_refused_by_name_and_left_alone_otherwise():
    with pytest.raises(ValueError, match="an addition ties them to those of 'network.conv2'"):
        PDPMasking(0.5, "channel", targets=["network.stem"]).check(residual())
    _, final, _, _ = shrunk(residual(), exclude=["network.conv2"])
    assert final.network.stem.out_channels == 8
    assert final.network.conv1.out_channels < 8


def test_gpt2_whose_layers_cannot_be_described_is_refused():
    from transformers import GPT2Config, GPT2Model

    model = GPT2Model(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    model.example_input_array = torch.arange(5)[None]
    with pytest.raises(ValueError, match="cannot trace the network|cannot be removed"):
        PDPMasking(0.5, "channel").check(model)


def test_a_module_without_an_example_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="example_input_array"):
        PDPMasking(0.5, "channel").check(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


class Spec(nn.Module):
    """As a family of models gives its example."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def export_spec(self) -> list[Any]:
        graph = type("Graph", (), {"module": self, "sample": staticmethod(lambda seed: {"x": torch.ones(1, 8)})})
        return [graph()]


def test_an_export_graph_serves_as_example():
    _, final, structure, _ = shrunk(Spec())
    assert final.network[0].out_features == 4
    assert structure["network.2"]["args"]["in_features"] == 4


def test_checking_leaves_the_module_and_the_random_numbers_alone():
    model = residual()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    PDPMasking(0.5, "channel").check(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_tenth_of_each_layer_stays():
    model = residual()
    with torch.no_grad():
        model.network.conv1.weight.mul_(1e-3)
    _, final, _, _ = shrunk(model, sparsity=0.3)
    assert final.network.conv1.out_channels == 1


def test_sparsity_counts_channels_and_parameters():
    model = residual()
    callback = PDPMasking(0.5, "channel", **AT_ONCE)
    callback.prepare_once(model)
    callback.step(model, 0.5)
    found = callback.report(model)
    assert found["compress/sparsity"] == 0.5
    model.eval()
    zeros = sum(
        int((getattr(layer, name) == 0).sum())
        for layer in model.network.children()
        for name in getattr(layer, "parametrizations", {})
    )
    assert found["compress/sparsity_model"] == zeros / sum(p.numel() for p in model.parameters())
