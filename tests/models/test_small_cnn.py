"""Numbers in comments are the invariants of the RepCNN dossier, section 9."""

import copy
from types import SimpleNamespace

import lightning as L
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy.export import export, write_onnx
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.deploy.onnx_int8 import write_int8
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.errors import UserError
from lightsleeper.models.family import ExportGraph
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.small_cnn import SpokenWordCNN
from lightsleeper.nn.augment import random_gain
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.foldable import folds, put
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

WORDS = ["yes", "no", "stop"]
SINGLE = 1e-5


def make(folded: bool = False, **arguments) -> SpokenWordCNN:
    torch.manual_seed(0)
    model = SpokenWordCNN(WORDS, **{"width": 8, "kernels": [3, 5], "branches": 2, **arguments})
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.5)
    if folded:
        put(model, folds(model))
    return model.eval()


# 1, 3
@pytest.mark.parametrize("arguments", [{}, {"causal": True}, {"scale": False, "skip": False}, {"branches": 0}])
def test_the_folded_network_gives_the_same_with_the_parameters_of_the_plain_one(arguments: dict):
    model, audio = make(**arguments), sample_audio(3)
    folded, report = finalize(model, {"fold": FoldOnExport()})
    assert (folded(audio) - model(audio)).abs().max() <= SINGLE
    assert report["fold"]["exact_abs_diff"] <= SINGLE
    plain = make(branches=0, causal=arguments.get("causal", False))
    convolutions = [layer for layer in plain.modules() if isinstance(layer, nn.Conv1d)]
    biases = sum(layer.out_channels for layer in convolutions)
    kernels = sum(layer.weight.numel() for layer in convolutions)
    head = sum(value.numel() for value in plain.head.parameters())
    assert sum(value.numel() for value in folded.parameters()) == kernels + biases + head
    assert not any(isinstance(layer, _BatchNorm) for layer in folded.modules())


def test_the_folded_model_is_saved_and_loaded(tmp_path):
    folded, _ = finalize(make(), {"fold": FoldOnExport()})
    save_model(folded, tmp_path, {})
    again = load_model(tmp_path)
    audio = sample_audio(1)
    assert torch.equal(again(audio), folded(audio))
    assert again.words == WORDS


@torch.no_grad()
def offline(model: SpokenWordCNN, audio: Tensor) -> Tensor:
    """Logits of each frame of a clip, of the mean over all frames so far."""
    features = model.frontend.center(model.frontend.power(audio[None]), None)
    hidden = model.layers(features.transpose(1, 2))
    means = hidden.cumsum(2) / torch.arange(1, hidden.shape[2] + 1)
    return model.head(means[0].T)


# 5
@given(seed=st.integers(0, 10_000), folded=st.booleans(), normalize=st.sampled_from(["running", "none"]))
@settings(max_examples=12, deadline=None)
def test_a_stream_equals_the_clip_for_any_chunks(seed: int, folded: bool, normalize: str):
    model = make(folded, causal=True, normalize=normalize, pool_seconds=2.0)
    audio = sample_audio(seed % 3)[0]
    generator = torch.Generator().manual_seed(seed)
    stream, parts, at = model.streaming(), [], 0
    while at < len(audio):
        size = int(torch.randint(1, (200, 700, 5000)[seed % 3], (), generator=generator))
        parts.append(stream.push(audio[at : at + size]))
        at += size
    expected, found = offline(model, audio), torch.cat(parts)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= SINGLE
    assert (found[-1] - model(audio[None])[0]).abs().max() <= SINGLE


# 5
@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_frame_by_frame_three_frames_and_random_chunks_give_the_logits_of_the_clip(folded: bool):
    model = make(folded, causal=True, normalize="running", pool_seconds=2.0).double()
    audio = sample_audio(1)[0].double()
    cuts = torch.randint(len(audio), (20,), generator=torch.Generator().manual_seed(0)).sort().values.tolist()
    for parts in (audio.split(320), audio.split(960), audio.tensor_split(cuts)):
        stream = model.streaming()
        found = torch.cat([stream.push(part) for part in parts])
        assert (found - offline(model, audio)).abs().max() <= 1e-10
        assert (found[-1] - model(audio[None])[0]).abs().max() <= 1e-10


def test_a_stream_averages_over_the_last_frames_only_and_its_state_stays_bounded():
    model = make(causal=True, normalize="none", pool_seconds=0.2)
    stream, audio = model.streaming(), torch.cat([sample_audio(seed)[0] for seed in range(3)])
    sizes = []
    for chunk in audio.split(800):
        logits = stream.push(chunk)
        sizes.append(stream.state_bytes())
    assert max(sizes) <= model.context()["state_bytes"]
    with torch.no_grad():
        hidden = model.layers(model.frontend.center(model.frontend.power(audio[None]), None).transpose(1, 2))
    assert (logits[-1] - model.head(hidden[0, :, -10:].mean(1))).abs().max() <= SINGLE


def test_the_context_is_that_of_the_network():
    model = make(causal=True, normalize="none", pool_seconds=0.02)
    assert model.context()["past_ms"] == 30 + 4 * 10 + (2 + 4) * 20
    assert model.context()["future_ms"] == 0
    assert make().context()["past_ms"] is None
    # 6: frame 25 sees features up to 50; the feature 51 changes nothing before it, and feature 50 - 16 is the oldest.
    features = torch.randn(1, 40, 80)
    with torch.no_grad():
        before = model.layers(features)
        for feature, first in ((51, 26), (50, 25), (34, 17)):
            changed = features.clone()
            changed[:, :, feature] += 1
            moved = (model.layers(changed) - before).abs().amax((0, 1)) > 0
            assert not moved[:first].any()
            assert not moved[first + 9 :].any()


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "needs causal: true"), ({"causal": True}, "needs normalize: running or none")]
)
def test_a_network_that_looks_ahead_does_not_stream(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make(**arguments).streaming()


class Behind(nn.Module):
    """The network behind its front end."""

    def __init__(self, model: SpokenWordCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.classify(features)


# 9
@pytest.mark.parametrize("causal", [False, True])
def test_the_exported_folded_network_holds_convolutions_activations_a_mean_and_a_linear_layer(tmp_path, causal: bool):
    model = make(folded=True, causal=causal)
    path = tmp_path / "net.onnx"
    write_onnx(ExportGraph("net", Behind(model), lambda _: {"features": torch.randn(1, 50, 40)}, ["logits"]), path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("Conv") == 5
    assert set(nodes) <= {"Conv", "Relu", "ReduceMean", "Gemm", "Transpose", "Pad"}


def test_the_whole_model_exports_with_audio_in_and_logits_out(tmp_path):
    artifact = export(make(folded=True), tmp_path, ["onnx"], parity_inputs=8)[0]
    assert artifact["parity"]["max_abs_diff"] < 1e-4
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert metadata["words"] == "yes,no,stop"


def tones(count: int, seed: int) -> list[dict]:
    """One pitch a word."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(8000) / 16_000
    items = []
    for number in range(count):
        hertz = (300, 900, 2500)[number % 3] * (1 + 0.1 * float(torch.rand((), generator=generator)))
        noise = 0.05 * torch.randn(8000, generator=generator)
        audio = 0.3 * torch.sin(6.283 * hertz * time) + noise
        items.append({"audio": audio, "word": number % 3, "speaker": number // 6})
    return items


def heard(model: SpokenWordCNN, clips: list[dict]) -> tuple[Tensor, Tensor]:
    """Features and words of clips."""
    audio = torch.stack([clip["audio"] for clip in clips])
    features = model.frontend.center(model.frontend.power(audio), None)
    return features, torch.tensor([clip["word"] for clip in clips])


class Tones(L.LightningDataModule):
    words = WORDS
    test_names = ("",)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(tones(48, 0), 12, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(tones(12, 1), 12)

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(tones(24, 2), 12)]


# 13
@torch.no_grad()
def test_int8_after_the_fold_tells_the_words_apart_as_the_float_network_does(tmp_path):
    model = make(normalize="none")
    features, words = heard(model, tones(48, 0))
    hidden = F.pad(model.layers(features.transpose(1, 2)).mean(2), (0, 1), value=1.0)
    fitted = torch.linalg.solve(hidden.T @ hidden + 0.01 * torch.eye(9), hidden.T @ F.one_hot(words, 3).float())
    model.head.weight.copy_(fitted[:-1].T)
    model.head.bias.copy_(fitted[-1])
    network = Behind(copy.deepcopy(model))
    put(network, folds(network))
    graph = ExportGraph("net", network, lambda _: {"features": torch.randn(1, 48, 40)}, ["logits"])
    write_onnx(graph, tmp_path / "net.onnx")
    trained = [name for name, _ in network.named_parameters()]
    feeds = [{"features": x[None].numpy()} for x in features]
    assert write_int8(tmp_path / "net.onnx", tmp_path / "int8.onnx", trained, feeds)["quantized"] == 5
    features, words = heard(model, tones(90, 2))
    file = OnnxGraph(tmp_path / "int8.onnx")
    found = np.concatenate([file.run({"features": x[None].numpy()})["logits"] for x in features]).argmax(1)
    right = [
        float((said == words).float().mean()) for said in (model.classify(features).argmax(1), torch.tensor(found))
    ]
    assert right[0] > 0.9
    assert right[1] >= right[0] - 0.03


@pytest.mark.parametrize("at", ["export", 4])
def test_it_learns_and_measures(tmp_path, at):
    # A tone that stays is all channel: the mean of the clip would take it away.
    model = make(normalize="none", warp=0.05, noise=0.2, masks=1, gain_db=(-10.0, 5.0), warmup_steps=4).train()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=12, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[FoldOnExport(at)],
    )  # fmt: skip
    trainer.fit(model, datamodule=Tones())
    assert trainer.callback_metrics["val/macro_accuracy"] > 0.9
    trainer.test(model, datamodule=Tones(), verbose=False)
    measured = model.measured
    assert set(model.headline) <= set(measured)
    assert {f"test/recall_{word}" for word in WORDS} <= set(measured)
    assert measured["test/macro_accuracy"].value > 0.9
    assert measured["test/macro_accuracy"].n == 4


def test_gain_is_drawn_for_each_clip():
    audio = torch.full((200, 100), 0.1)
    gains = 20 * (random_gain(audio, (-40.0, 10.0))[:, 0] / 0.1).log10()
    assert -40 <= gains.min() < -30
    assert 0 < gains.max() <= 10


def test_words_that_are_not_those_of_the_data_are_refused():
    model = make()
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(words=["yes", "no"]))
    with pytest.raises(UserError, match=r"model.words \(3\) are not those of the data \(2\): they have besides stop"):
        model.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ["a"]}, "two or more different ones"),
        ({"words": ["a", "a"]}, "two or more different ones"),
        ({"kernels": [4]}, "odd numbers of taps"),
        ({"kernels": []}, "odd numbers of taps"),
        ({"branches": -1}, "branches must be 0 or more"),
        ({"gain_db": (10.0, -40.0)}, "lowest and a highest gain"),
        ({"pool_seconds": 0.0}, "pool_seconds must be above 0"),
    ],
)
def test_arguments_without_sense_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SpokenWordCNN(**{"words": WORDS, **arguments})
