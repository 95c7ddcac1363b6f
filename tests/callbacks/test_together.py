"""Every subset of the four methods, in any written order: a correct result, or a refusal that names two and why."""

import copy
from itertools import combinations
from typing import Any

import lightning as L
import pytest
import torch
from lightsleeper_callbacks import Compression, finalize, load_compressed, save_compressed
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.pdp import PDPMasking
from lightsleeper_callbacks.repconv import RepConv1d
from lightsleeper_callbacks.subclone import SubcloneInitialization
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, LENGTH, WIDTH = 32, 8, 16
EPOCHS = 4
BLOCKS = ("init", "fold", "prune", "cluster")
SUBSETS = [subset for size in range(5) for subset in combinations(BLOCKS, size)]


def gpt(width: int, layers: int) -> GPT2LMHeadModel:
    sizes = {"vocab_size": VOCAB, "n_positions": LENGTH, "n_head": width // 8, "bos_token_id": 0, "eos_token_id": 0}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=layers, **sizes, **dropout))


class Host(L.LightningModule):
    """A language model of transformers and, over its states, a convolution with branches."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lm = gpt(WIDTH, 2)
        self.conv = RepConv1d(WIDTH, WIDTH, 3, branches=2)
        self.out = nn.Linear(WIDTH, VOCAB)
        self.example_input_array = torch.arange(2 * LENGTH).view(2, LENGTH) % VOCAB

    def forward(self, input_ids: Tensor) -> Tensor:
        states = self.lm.transformer(input_ids).last_hidden_state
        return self.out(self.conv(states.mT).relu().mT) + self.lm.lm_head(states)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        ids = batch["input_ids"]
        return nn.functional.cross_entropy(self(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 3e-3)


def loader() -> DataLoader[Any]:
    ids = torch.randint(VOCAB, (24, LENGTH), generator=torch.Generator().manual_seed(0))
    return DataLoader([{"input_ids": row} for row in ids], 8)


def callbacks(subset: tuple[str, ...], at: str | int = 1) -> list[Compression]:
    torch.manual_seed(1)
    makers = {
        "init": lambda: SubcloneInitialization(gpt(2 * WIDTH, 4).eval(), calibration_batches=1),
        "fold": lambda: FoldOnExport(at=at),
        "prune": lambda: PDPMasking(0.5, start=0.3, end=0.6),
        "cluster": lambda: EDKMClustering(3, small_bits=3, embedding_bits=4, small_below=100, start=0.3),
    }
    return [makers[name]() for name in subset]


def fit(methods: list[Compression], folder: Any = None, epochs: int = EPOCHS, **settings: Any) -> Host:
    torch.manual_seed(0)
    model = Host()
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*methods, *settings.pop("extra", [])],
    )  # fmt: skip
    trainer.fit(model, loader(), **settings)
    return model


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_every_subset_in_any_order_gives_a_plain_model_with_all_their_properties(subset, tmp_path):
    at = 1 if {"prune", "cluster"} & set(subset) else "export"
    forward, backward = callbacks(subset, at), callbacks(subset, at)[::-1]
    model, other = fit(forward), fit(backward)
    before = copy.deepcopy(model.state_dict())
    final, structure, report = finalize(model, forward)
    twin, _, _ = finalize(other, backward)

    # The written order is nothing; the trained model stays; the deliverable is plain and comes back from its folder.
    assert [entry["phase"] for entry in report.values()] == [
        {"init": "initialize"}.get(name, name) for name in BLOCKS if name in subset
    ]
    state = final.state_dict()
    assert state.keys() == twin.state_dict().keys()
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in state.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parametrize.is_parametrized(layer) for layer in final.modules())
    loaded = load_compressed(save_compressed(final, tmp_path, structure))
    assert torch.equal(loaded(model.example_input_array), final(model.example_input_array))

    # Each method's own promise holds after all others.
    folded = "fold" in subset
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in final.modules()) is not folded
    weights = {name: value for name, value in final.named_parameters() if "h." in name and value.ndim > 1}
    weights["out"] = final.out.weight
    if folded:
        weights["conv"] = next(value for name, value in final.named_parameters() if "conv" in name and value.ndim > 2)
    if "prune" in subset:
        zeros = sum(int((value == 0).sum()) for value in weights.values())
        total = sum(value.numel() for value in weights.values())
        assert zeros / total >= 0.45
    if "cluster" in subset:
        assert max(value.unique().numel() for value in weights.values()) <= 8
    assert final.lm.lm_head.weight is final.lm.transformer.wte.weight


@pytest.mark.parametrize("late", [("prune",), ("cluster",), ("prune", "cluster")], ids="-".join)
def test_folding_at_export_beside_pruning_or_clustering_is_refused_before_training(late):
    with pytest.raises(ValueError, match=r"FoldOnExport cannot work beside \w+: .*set at: N"):
        fit(callbacks(("fold", *late), at="export"))


class Stop(L.Callback):
    """Saves between two epochs and ends the training there."""

    def __init__(self, epoch: int, path: Any) -> None:
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_all_four_resumed_equal_the_uninterrupted_training(epoch, tmp_path):
    whole = fit(callbacks(BLOCKS))
    fit(callbacks(BLOCKS), extra=[Stop(epoch, tmp_path / "stop.ckpt")])
    resumed = fit(callbacks(BLOCKS), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
