"""A keyword that a tiny network learns in seconds: a tone that rises and falls again, among other tones and noise."""

from typing import Any

import lightning as L
import torch
from lightsleeper.models.bc_resnet import BCResNet
from lightsleeper.models.dnn_hmm import DNNHMM
from lightsleeper.models.ds_tcn import DSTCN
from lightsleeper.models.heimdal import HEiMDaL
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.models.wakeword_cnn import WakeWordCNN
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

RATE, CLIP_S, KEYWORD_S, CHUNK = 16_000, 1.2, 0.4, 3200
LENGTH = int(RATE * KEYWORD_S)
SMALL: dict[str, Any] = {"width": 12, "kernels": [5, 7], "dilations": [1, 2]}
UNDISTURBED = {"gain_db": None, "warp": 0.0, "masks": 0}  # a few seconds of training are for tones as they are
FAMILIES: dict[str, tuple[type[WakeWord], dict[str, Any]]] = {
    "cnn": (WakeWordCNN, {**SMALL, "branches": 0}),
    "repcnn": (WakeWordCNN, {**SMALL, "branches": 2, "normalize": "exponential", "pool_frames": 3}),
    "bc_resnet": (BCResNet, {"tau": 0.5, "pool_frames": 2}),
    "heimdal": (HEiMDaL, SMALL),
    "heimdal_bc": (HEiMDaL, {"encoder": "bc", "tau": 0.5}),
    "dnn_hmm": (DNNHMM, {"states": 4, "width": 12, "longest_s": 1.0}),
    "ds_tcn": (DSTCN, {"width": 8, "layers": 3, "kernel": 4}),
}


def make(name: str, shake: bool = True, **arguments: Any) -> WakeWord:
    """A family in eval mode, with batch-norm statistics unlike fresh ones."""
    torch.manual_seed(0)
    family, given = FAMILIES[name]
    model = family(**{**given, **arguments})
    for norm in model.modules() if shake else ():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.3)
    return model.eval()


@torch.no_grad()
def lively(model: WakeWord, seconds: int = 4) -> WakeWord:
    """With weights that let a signal through (each layer's outputs have a standard deviation of one): fresh ones give
    nearly the same score for all audio."""
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d))]
    hooks = [layer.register_forward_hook(_even) for layer in layers]
    model(torch.cat([batch["audio"] for batch in stream(0, seconds)], 1))
    for hook in hooks:
        hook.remove()
    return model


def _even(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    scale, mean = 1 / output.std(), output.mean()
    for name, value in layer.named_parameters():
        value -= mean if name == "bias" else 0
        value *= scale
    return (output - mean) * scale


def tone(low: float, high: float, seconds: float = KEYWORD_S) -> Tensor:
    steps = int(RATE * seconds)
    rise = torch.cat([torch.linspace(low, high, steps // 2), torch.linspace(high, low, steps - steps // 2)])
    return 0.3 * torch.sin(2 * torch.pi * rise.cumsum(0) / RATE)


def background(samples: int, generator: torch.Generator) -> Tensor:
    audio = 0.02 * torch.randn(samples, generator=generator)
    for _ in range(samples // RATE):
        at = int(torch.randint(0, samples - RATE // 2, (), generator=generator))
        low, high = [(900.0, 300.0), (500.0, 500.0), (2000.0, 2500.0)][int(torch.randint(3, (), generator=generator))]
        audio[at : at + LENGTH] += tone(low, high)
    return audio


def clips(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    items = []
    for number in range(count):
        audio, begin, end = background(int(RATE * CLIP_S), generator), float("nan"), float("nan")
        if number % 2:
            at = int(torch.randint(2000, len(audio) - LENGTH - 1600, (), generator=generator))
            audio[at : at + LENGTH] = tone(300, 900) + 0.02 * torch.randn(LENGTH, generator=generator)
            begin, end = at / RATE, at / RATE + KEYWORD_S
        items.append({"audio": audio, "keyword": number % 2, "begin_s": begin, "end_s": end, "clip": number})
    return items


def stream(number: int, seconds: int) -> list[dict[str, Any]]:
    """Chunks of a stream with the keyword every four seconds; odd streams have none."""
    generator = torch.Generator().manual_seed(100 + number)
    audio, events = background(RATE * seconds, generator), []
    for second in range(2, seconds - 1, 4) if number % 2 == 0 else ():
        audio[RATE * second :][:LENGTH] = tone(300, 900) + 0.02 * torch.randn(LENGTH, generator=generator)
        events.append((float(second), second + KEYWORD_S))
    parts = audio.split(CHUNK)
    return [
        {
            "audio": part[None],
            "stream": number,
            "first": at == 0,
            "last": at + 1 == len(parts),
            "start_s": at * CHUNK / RATE,
            "events": events,
        }
        for at, part in enumerate(parts)
    ]


class Tones(L.LightningDataModule):
    test_names = ("",)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(clips(64), 16, shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(stream(0, 20) + stream(1, 20), batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> list[DataLoader]:
        return [DataLoader(stream(2, 22) + stream(3, 20), batch_size=None)]  # type: ignore[arg-type]


def noise(seed: int, hops: int, model: WakeWord) -> Tensor:
    return sample_audio(seed, 1000.0 * hops * model.frame_s)[:, : hops * model.hop_samples]


def phone_batch(model: WakeWord, hops: int = 30) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "audio": noise(0, hops, model).repeat(2, 1),
        "keyword": torch.tensor([0, 1]),
        "begin_s": torch.tensor([float("nan"), 0.1]),
        "end_s": torch.tensor([float("nan"), 0.4]),
        "phones": torch.randint(0, 40, (2, 2 * hops)),
    }


def trainer(folder, epochs: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(callbacks),
    )  # fmt: skip
