import copy
import pickle
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightsleeper_callbacks.base import (
    Compression,
    Phase,
    check_alone,
    check_strategy,
    check_together,
    prepare_in_order,
)
from lightsleeper_callbacks.finalize import NotExactError, finalize, load_compressed, save_compressed
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.foldable import folds, put
from lightsleeper_callbacks.repconv import RepConv1d, RepConv2d
from lightsleeper_callbacks.structure import describe, rebuild
from tiny_rep import SelfFolding
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset

EQUAL = 1e-5


def randomized(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.1, 3, generator=generator)
            norm.weight.data.uniform_(-2, 2, generator=generator)
            norm.bias.data.normal_(generator=generator)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(layer, _BatchNorm) for layer in module.modules())


def assert_folds(module: nn.Module, *inputs: Tensor, layers: int, left: int = 0) -> nn.Module:
    """Fold a copy: ``layers`` places change, ``left`` norms stay, outputs and ``module`` are as before."""
    randomized(module)
    before, state = module(*inputs), copy.deepcopy(module.state_dict())
    copied = copy.deepcopy(module)
    found = folds(copied)
    assert len(found) == layers
    structure = put(copied, found)
    assert (copied(*inputs) - before).abs().max() <= EQUAL * max(1.0, float(before.abs().max()))
    assert norms(copied) == left
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    # From the constructor's network, the description makes a network that takes the folded weights.
    again = copy.deepcopy(module)
    rebuild(again, structure)
    again.load_state_dict(copied.state_dict())
    assert torch.equal(again(*inputs), copied(*inputs))
    assert folds(copied) == {}  # nothing is left to fold
    return copied


class Network(nn.Module):
    """Convolutions over time of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad1d((4, 0))
        self.rep = RepConv1d(3, 4, 5, causal=True, branches=2)
        self.plain = nn.Sequential(nn.ReLU(), nn.Conv1d(4, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.rep(self.pad(x))).mean(2))


class Residual(nn.Module):
    """Norms behind convolutions by the order of calls, as in a residual network."""

    def __init__(self, tapped: bool = False) -> None:
        super().__init__()
        self.norm2, self.norm1 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.tapped = tapped
        self.example_input_array = torch.zeros(1, 4, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(x)
        y = self.norm2(self.conv2(self.norm1(first).relu()))
        return (y + (first if self.tapped else x)).relu()


# What folds.


def test_branches_and_norms_fold_and_the_network_can_be_rebuilt():
    folded = assert_folds(Network(), torch.randn(2, 3, 20), layers=3)
    assert type(folded.rep) is nn.Conv1d
    assert type(folded.plain[2]) is nn.Identity
    assert describe(folded.rep)["args"]["padding"] == [0]


def test_a_module_that_folds_in_place_is_rebuilt_by_its_own_method():
    net = nn.Sequential(SelfFolding(), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))
    folded = assert_folds(net, torch.randn(2, 4, 20), layers=3)
    assert put(copy.deepcopy(net), folds(net))["0"] == {"method": "fuse"}
    assert folded[0].folded is not None


def test_a_module_that_returns_its_folded_form_is_replaced():
    class ConvNorm(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))

        @torch.no_grad()
        def fuse(self) -> nn.Conv2d:
            conv, norm = self
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            made = nn.Conv2d(3, 4, 3)
            made.weight.copy_(conv.weight * factor[:, None, None, None])
            made.bias.copy_(norm.bias - norm.running_mean * factor)
            return made

    folded = assert_folds(nn.Sequential(ConvNorm(), nn.ReLU()), torch.randn(1, 3, 9, 9), layers=1)
    assert type(folded[0]) is nn.Conv2d


def test_norms_elsewhere_are_found_on_the_example_input():
    assert_folds(Residual(), torch.randn(1, 4, 8, 8), layers=4)


def test_a_convolution_whose_output_is_used_before_the_norm_stays():
    folded = assert_folds(Residual(tapped=True), torch.randn(1, 4, 8, 8), layers=2, left=1)
    assert isinstance(folded.norm1, nn.BatchNorm2d)


def test_a_linear_layer_folds_where_the_example_shows_a_matrix():
    class Wide(nn.Sequential):
        example_input_array: Tensor | None = None

    net = Wide(nn.Linear(4, 4), nn.BatchNorm1d(4))
    assert folds(net) == {}  # of (B, 4, 4) the norm would take another axis than the layer
    net.example_input_array = torch.zeros(2, 4, 4)
    assert folds(net) == {}
    net.example_input_array = torch.zeros(2, 4)
    assert_folds(net, torch.randn(5, 4), layers=2)


def test_what_is_shared_hooked_or_parametrised_stays():
    shared = RepConv1d(4, 4, 3)
    conv, hooked, masked = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)
    hooked.register_forward_hook(lambda *_: None)
    parametrize.register_parametrization(masked, "weight", nn.Identity())
    net = nn.Sequential(
        shared, shared, conv, nn.BatchNorm1d(4), conv, hooked, nn.BatchNorm1d(4), masked, nn.BatchNorm1d(4)
    )
    assert folds(net) == {}


def test_a_sequence_with_a_forward_of_its_own_is_not_taken_for_one():
    class Reversed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](self[1](x))

    assert folds(Reversed(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4))) == {}


def test_a_namesake_with_arguments_is_not_called():
    class Sampler(nn.Module):
        def reparameterize(self, mean: Tensor, log_variance: Tensor) -> Tensor:
            raise AssertionError("called")

    class Report(nn.Module):
        def fuse(self) -> str:
            return "no module"

    assert folds(nn.Sequential(Sampler(), Report())) == {}


def test_a_module_that_does_not_fold_exactly_is_refused_and_can_be_excluded():
    class Wrong(SelfFolding):
        def fuse(self) -> None:
            super().fuse()
            assert self.folded is not None
            self.folded.bias.data += 0.01

    net = nn.Sequential(Wrong(), RepConv1d(4, 4, 3))
    with pytest.raises(NotExactError, match=r"folding '0' \(Wrong\) changes its outputs by"):
        folds(net)
    with pytest.raises(ValueError, match="changes its outputs"):
        FoldOnExport().check(net)
    assert list(folds(net, ["0"])) == ["1"]
    with pytest.raises(ValueError, match="exclude: no module is called 'wrong'"):
        FoldOnExport(exclude=["wrong"]).check(net)


def test_branches_that_cancel_are_no_reason_to_refuse():
    """In float32 their sum has lost the digits that a comparison would need."""
    layer = randomized(RepConv1d(4, 4, 3, branches=2, scale=False, skip=False))
    first, second = layer.branches
    second.load_state_dict(first.state_dict())
    first[1].weight.data.fill_(3e4)
    second[1].weight.data.fill_(-3e4)
    assert list(folds(nn.Sequential(layer))) == ["0"]


def test_a_module_that_cannot_be_tried_is_refused():
    class Odd(SelfFolding):
        def forward(self, x: Tensor, length: int) -> Tensor:  # type: ignore[override]
            return super().forward(x[..., :length])

    with pytest.raises(ValueError, match=r"'0' \(Odd\) folds, but whether it does so exactly cannot be tried"):
        folds(nn.Sequential(Odd()))


def test_looking_for_folds_draws_no_random_numbers():
    net = nn.Sequential(SelfFolding(), RepConv2d(1, 1, 3), nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2))
    state = torch.get_rng_state()
    assert len(folds(net)) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_the_layers_of_a_transformers_vision_model_fold():
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=3)
    model = transformers.MobileNetV2ForImageClassification(config)
    model.example_input_array = torch.randn(1, 3, 32, 32)
    before = norms(randomized(model))
    put(model, folds(model))
    assert before > 50
    assert norms(model) == 0


# The deliverable.


class Lit(L.LightningModule):
    """`Network` as a LightningModule with momentum and a warm-up."""

    def __init__(self, optimizer: str = "adam") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Network()
        self.rates: list[float] = []
        self.learned: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        self.learned.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        if self.hparams["optimizer"] == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        else:
            optimizer = torch.optim.Adam(self.parameters(), 0.01)
        warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 12))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm_up, "interval": "step"}}


def trainer(*callbacks: L.Callback, epochs: int = 4, **settings) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), max_epochs=epochs, enable_model_summary=False,
        **{**quiet, **settings},
    )  # fmt: skip


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    x = torch.randn(64, 3, 20, generator=generator) + 0.5 * labels[:, None, None]
    return DataLoader(TensorDataset(x, labels), 16)


class Prune(Compression):
    """Records the network it was prepared on, and when it acts."""

    phase = Phase.PRUNE

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.start = start
        self.seen: list[str] = []
        self.steps: list[float] = []

    def prepare(self, module: nn.Module) -> None:
        self.seen.append(type(module.net.rep).__name__)

    def step(self, module: nn.Module, progress: float) -> None:
        self.steps.append(progress)

    def finalize(self, module: nn.Module) -> nn.Module:
        return module


def test_at_export_the_trained_branches_fold_and_the_folder_loads_again(tmp_path: Path):
    model, fold = Lit(), FoldOnExport()
    trainer(fold, epochs=2).fit(model, loader())
    assert isinstance(model.net.rep, RepConv1d)
    x = torch.randn(2, 3, 20)
    final, structure, report = finalize(model, [fold], lambda module: [module(x)])
    assert isinstance(model.net.rep, RepConv1d)  # the trained model stays
    assert report["FoldOnExport"]["exact_abs_diff"] <= EQUAL
    assert report["FoldOnExport"]["compress/folded_layers"] == 2
    assert list(structure) == ["net.rep", "net.plain.1", "net.plain.2"]
    again = load_compressed(save_compressed(final, tmp_path, structure), Lit())
    assert torch.equal(again(x), final(x))


def test_at_an_epoch_it_folds_and_training_goes_on():
    torch.manual_seed(0)
    model, fold, prune = Lit(), FoldOnExport(at=2), Prune()
    run = trainer(prune, fold, epochs=6)
    run.fit(model, loader())
    assert type(model.net.rep) is nn.Conv1d
    assert norms(model) == 0
    assert prune.seen == ["Conv1d"]  # prepared on the plain network only
    assert prune.steps[0] == pytest.approx(2 / 6)  # and silent before
    trained = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters()}
    assert sum(model.learned[-4:]) < 0.8 * sum(model.learned[:4])
    assert fold.report(model) == {"compress/folded_layers": 2.0}


def test_at_an_epoch_rates_go_on_where_they_were():
    folded, branched = Lit(), Lit()
    trainer(FoldOnExport(at=2)).fit(folded, loader())
    trainer().fit(branched, loader())
    assert folded.rates == branched.rates
    assert folded.rates[:3] == pytest.approx([0.01 / 12, 0.02 / 12, 0.03 / 12])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_at_an_epoch_unchanged_parameters_keep_their_optimizer_state(optimizer: str):
    model, seen = Lit(optimizer), {}

    class Watch(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                seen["before"] = copy.deepcopy(trainer.optimizers[0].state[pl_module.net.head.weight])

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 2 and batch_idx == 0:
                state = trainer.optimizers[0].state
                seen["after"] = copy.deepcopy(state[pl_module.net.head.weight])
                seen["others"] = [len(state[p]) for p in pl_module.net.rep.parameters()]

    trainer(FoldOnExport(at=2), Watch()).fit(model, loader())
    assert seen["before"].keys() == seen["after"].keys()
    assert seen["before"]
    for name, value in seen["before"].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(seen["after"][name]))
    assert seen["others"] == [0, 0]  # new parameters start anew


def test_at_the_moment_of_the_fold_the_outputs_stay():
    model, seen = Lit(), []
    x = torch.randn(4, 3, 20)

    class Before(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(pl_module.eval()(x))
            pl_module.train()

    class After(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 2 and batch_idx == 0:
                seen.append(pl_module(x))

    trainer(FoldOnExport(at=2), Before(), After(), epochs=3).fit(model, loader())
    assert (seen[1] - seen[2]).abs().max() <= EQUAL


def test_the_structure_of_a_network_folded_in_training_is_that_of_its_layers_now():
    model, fold = Lit(), FoldOnExport(at=1)
    trainer(fold, epochs=2).fit(model, loader())
    final, structure, _ = finalize(model, [fold], lambda module: [module(torch.ones(1, 3, 20))])
    assert structure["net.rep"] == describe(final.net.rep)
    assert structure["net.plain.2"] == {"type": "Identity", "args": {}}


def test_a_training_that_ends_before_its_epoch_folds_at_export():
    model, fold = Lit(), FoldOnExport(at=5)
    trainer(fold, epochs=8, max_steps=6).fit(model, loader())
    assert isinstance(model.net.rep, RepConv1d)
    assert not fold.settled(0.9)
    final, structure, _ = finalize(model, [fold], lambda module: [module(torch.ones(1, 3, 20))])
    assert type(final.net.rep) is nn.Conv1d
    assert len(structure) == 3


def test_checkpoints_compete_once_the_network_is_folded():
    fold, model = FoldOnExport(at=2), Lit()
    prepare_in_order([fold], model, 4)
    assert not fold.settled(0.5)
    put(model, folds(model))
    assert fold.settled(0.5)
    assert FoldOnExport().settled(0.0)


def test_folded_weights_fold_the_network_that_they_are_loaded_into():
    trained, fresh = Lit(), Lit()
    trainer(FoldOnExport(at=1), Prune(), epochs=2).fit(trained, loader())
    fold, prune = FoldOnExport(at=1), Prune()
    prepare_in_order([fold, prune], fresh, 2)
    assert prune.seen == []
    fresh.load_state_dict(trained.state_dict())
    assert prune.seen == ["Conv1d"]
    x = torch.randn(2, 3, 20)
    assert torch.equal(fresh.eval()(x), trained.eval()(x))


def test_weights_with_branches_load_into_a_prepared_network_and_not_into_a_folded_one():
    model = Lit()
    state = copy.deepcopy(model.state_dict())
    prepare_in_order([FoldOnExport(at=1)], model, 2)
    model.load_state_dict(state)
    assert isinstance(model.net.rep, RepConv1d)
    put(model, folds(model))
    with pytest.raises(RuntimeError, match="from before the network was folded"):
        model.load_state_dict(state)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_of_a_prepared_network_folds_by_itself(copied):
    model = Network()
    fold, prune = FoldOnExport(at=1), Prune()
    prepare_in_order([fold, prune], model, 2)
    clone = copied(model)
    folded = copy.deepcopy(model)
    put(folded, folds(folded))
    clone.load_state_dict(folded.state_dict())
    assert type(clone.rep) is nn.Conv1d
    assert isinstance(model.rep, RepConv1d)
    assert prune.seen == []


def test_frozen_layers_stay_frozen():
    model = Network()
    model.rep.requires_grad_(False)
    put(model, folds(model))
    assert not model.rep.weight.requires_grad
    assert model.plain[1].weight.requires_grad


def test_parameters_that_fold_to_themselves_stay_the_same():
    net = nn.Sequential(SelfFolding())
    gate = net[0].gate.weight
    put(net, folds(net))
    assert net[0].gate.weight is gate


# Refusals.


@pytest.mark.parametrize("at", [0, -1, True, "end", 1.5])
def test_a_place_that_is_none_is_refused(at):
    with pytest.raises(ValueError, match="at must be 'export' or a number of epochs"):
        FoldOnExport(at=at)


def test_an_epoch_beyond_the_training_is_refused():
    with pytest.raises(ValueError, match="at: 4 leaves no epoch to train after the fold"):
        check_alone([FoldOnExport(at=4)], Lit(), 4)
    check_alone([FoldOnExport(at=4)], Lit(), 5)
    check_alone([FoldOnExport(at=4)], Lit(), -1)


def test_a_network_without_anything_to_fold_is_refused():
    with pytest.raises(ValueError, match="there is nothing to fold"):
        check_alone([FoldOnExport()], nn.Sequential(nn.Linear(2, 2)), 4)


def test_pruning_beside_folding_at_export_is_refused_and_beside_an_epoch_it_is_not():
    with pytest.raises(ValueError, match="FoldOnExport cannot work beside Prune: folding at export would undo"):
        check_together([FoldOnExport(), Prune()])
    with pytest.raises(ValueError, match="one folds everything"):
        check_together([FoldOnExport(), FoldOnExport(at=2)])
    check_together([FoldOnExport(at=2), Prune()])


def test_a_ramp_that_starts_before_the_fold_is_refused_with_the_share_that_is_possible():
    with pytest.raises(ValueError, match=r"'Prune' starts at 0.3 of the training, .* set its start to 0.334 or more"):
        check_alone([FoldOnExport(at=4), Prune(0.3)], Lit(), 12)
    check_alone([FoldOnExport(at=4), Prune(0.334)], Lit(), 12)
    check_alone([FoldOnExport(at=6), Prune(0.5)], Lit(), 12)


def test_later_phases_check_the_folded_network():
    class Strict(Prune):
        def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
            assert type(module.net.rep) is nn.Conv1d

    model = Lit()
    check_alone([FoldOnExport(at=1), Strict()], model, 4)
    assert isinstance(model.net.rep, RepConv1d)


def test_several_processes_are_refused_at_an_epoch_only():
    with pytest.raises(ValueError, match="FoldOnExport does not work with several processes"):
        check_strategy([FoldOnExport(at=2)], DDPStrategy())
    check_strategy([FoldOnExport()], DDPStrategy())


def test_averaged_weights_are_refused_at_an_epoch_only():
    with pytest.raises(ValueError, match="cannot work beside EMAWeightAveraging"):
        trainer(FoldOnExport(at=1), EMAWeightAveraging()).fit(Lit(), loader())


def test_other_parameter_groups_after_the_fold_are_refused():
    class Grouped(Lit):
        def configure_optimizers(self):
            groups = [{"params": [p]} for p in self.parameters()]
            return torch.optim.SGD(groups, 0.01)

    with pytest.raises(RuntimeError, match="they cannot be carried over"):
        trainer(FoldOnExport(at=1), epochs=2).fit(Grouped(), loader())
