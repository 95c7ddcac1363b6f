import copy

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from lightsleeper_callbacks import Compression, Phase, finalize, load_compressed, save_compressed
from lightsleeper_callbacks.finalize import NotExactError, estimate_batch_norm
from lightsleeper_callbacks.structure import build, describe, rebuild
from torch import Tensor, nn


class Net(LightningModule):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))
        self.example_input_array = torch.linspace(-1, 1, 12).view(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self(batch).square().mean()
        self.log("train/loss", loss)
        return loss


class Zero(Compression):
    """Zeroes the first rows of the first layer (lossy), then removes them (exact)."""

    phase = Phase.PRUNE

    def __init__(self, rows: int = 2, spoil: float = 0.0, statistics: bool = False) -> None:
        super().__init__()
        self.rows, self.spoil, self.statistics = rows, spoil, statistics

    @property
    def wants_statistics(self) -> bool:
        return self.statistics

    def finalize(self, module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for layer in (module.body[0], module.body[1]):
                layer.weight[: self.rows] = 0
                layer.bias[: self.rows] = 0
        return module

    def simplify(self, module):
        keep = slice(self.rows, None)
        body, width = module.body, module.body[0].out_features - self.rows
        first, norm, last = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2)
        with torch.no_grad():
            first.weight.copy_(body[0].weight[keep])
            first.bias.copy_(body[0].bias[keep] + self.spoil)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).copy_(getattr(body[1], name)[keep])
            last.weight.copy_(body[3].weight[:, keep])
            last.bias.copy_(body[3].bias)
        body[0], body[1], body[3] = first, norm, last
        return module, {path: describe(module.get_submodule(path)) for path in ("body.0", "body.1", "body.3")}

    def report(self, module: nn.Module) -> dict[str, float]:
        return {"compress/width": float(module.body[0].out_features)}


class Later(Compression):
    phase = Phase.CLUSTER

    def finalize(self, module: nn.Module) -> nn.Module:
        assert module.body[0].out_features == 6, "lossy steps come before every exact one"
        assert module.body[0].weight[0].abs().sum() == 0, "pruning comes first"
        return module


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_lossy_steps_come_first_and_are_measured_exact_ones_are_proved(net):
    before = copy.deepcopy(net.state_dict())
    final, structure, report = finalize(net, [Later(), Timer(), Zero()])
    assert list(report) == ["Zero", "Later"]
    assert report["Zero"]["max_abs_diff"] > 1e-3
    assert report["Zero"]["exact_abs_diff"] < 1e-6
    assert report["Zero"]["layers_rebuilt"] == 3
    assert report["Zero"]["compress/width"] == 4
    assert "exact_abs_diff" not in report["Later"]
    assert set(structure) == {"body.0", "body.1", "body.3"}
    assert not final.training
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("spoil", [1e-3, float("nan")])
def test_an_exact_step_that_changes_outputs_is_refused(net, spoil):
    with pytest.raises(NotExactError, match="Zero should leave the outputs as they are, but changed them"):
        finalize(net, [Zero(spoil=spoil)])


def test_a_compressed_model_loads_strictly_from_its_folder(net, tmp_path):
    final, structure, _ = finalize(net, [Zero()])
    save_compressed(final, tmp_path / "out", structure)
    x = torch.randn(5, 4)
    for loaded in (load_compressed(tmp_path / "out"), load_compressed(tmp_path / "out", Net())):
        assert torch.equal(loaded(x), final(x))
    assert loaded.body[0].out_features == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors"]


def test_what_does_not_belong_together_is_refused(net, tmp_path):
    final, structure, _ = finalize(net, [Zero()])
    save_compressed(final, tmp_path, structure)
    other = Net()
    other.more = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="does not fit"):
        load_compressed(tmp_path, other)
    (tmp_path / "model.safetensors").write_bytes(b"0")
    with pytest.raises(ValueError, match="is not the file"):
        load_compressed(tmp_path)
    with pytest.raises(ValueError, match="no compressed model can be read"):
        load_compressed(tmp_path / "none")


def test_batch_norm_statistics_are_those_of_the_batches(net):
    data = [torch.randn(8, 4) + 3 for _ in range(4)]
    final, _, _ = finalize(net, [Zero(statistics=True)], batches=lambda: data)
    hidden = torch.cat([final.body[0](batch) for batch in data])
    assert torch.allclose(final.body[1].running_mean, hidden.mean(0), atol=1e-5)
    per_batch = torch.stack([final.body[0](batch).var(0) for batch in data]).mean(0)
    assert torch.allclose(final.body[1].running_var, per_batch, atol=1e-5)
    assert final.body[1].momentum == 0.1
    assert "log" not in final.__dict__


def test_without_a_wish_statistics_stay(net):
    final, _, _ = finalize(net, [Zero()], batches=lambda: pytest.fail("no batch is needed"))
    assert torch.equal(final.body[1].running_var, torch.ones(4))


def test_only_norms_move_while_statistics_are_taken():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)).eval()
    estimate_batch_norm(module, [torch.ones(4, 2) * 5])
    assert torch.equal(module[1].running_mean, torch.full((2,), 5.0))
    assert not module[1].training


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 2, bias=False),
        nn.Conv1d(4, 8, 5, stride=2, padding=2, dilation=3, groups=4),
        nn.Conv2d(3, 6, (3, 1), padding="same"),
        nn.BatchNorm1d(5, eps=1e-3),
        nn.LayerNorm(7),
        nn.Embedding(5, 3, padding_idx=0),
    ],
)
def test_a_described_layer_is_built_again(layer):
    twin = build(describe(layer))
    assert repr(twin) == repr(layer)
    twin.load_state_dict(layer.state_dict(), strict=True)


def test_what_cannot_be_described_or_placed_is_refused():
    with pytest.raises(TypeError, match="Net is no torch.nn layer"):
        describe(Net())
    with pytest.raises(ValueError, match="'Evil' is no torch.nn layer"):
        build({"type": "Evil"})
    with pytest.raises(ValueError, match="layer 'body.9.x' cannot be rebuilt"):
        rebuild(Net(), {"body.9.x": {"type": "ReLU", "args": {}}})
