"""The wake-word networks whose speed is compared, and their sizes: weights, work, state, memory of a call."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightsleeper_callbacks.foldable import folds, put
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper import recipe as recipes
from lightsleeper.deploy.arena import arena_bytes
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.liveness import peak_activation_bytes
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.models.bc_resnet import BCResNet
from lightsleeper.models.dnn_hmm import DNNHMM
from lightsleeper.models.ds_tcn import DSTCN
from lightsleeper.models.family import ExportGraph
from lightsleeper.models.heimdal import HEiMDaL
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.models.wakeword_cnn import WakeWordCNN
from lightsleeper.nn.causal import Chain, FrontEnd

MEMORY_MS = (20.0, 320.0)  # audio of one call: the longest hop of a family, and a buffer
FOLDED, NARROW, BRANCHED, PLAIN = "RepCNN folded", "RepCNN-16 folded", "RepCNN branched", "plain CNN"


def _shipped(family: type[WakeWord], recipe: str, **changes: Any) -> WakeWord:
    """The network of a shipped recipe, some of its arguments changed."""
    return family(**{**recipes.load([recipe], []).config["model"]["init_args"], **changes})


NETWORKS: dict[str, Callable[..., WakeWord]] = {
    FOLDED: partial(_shipped, WakeWordCNN, "wakeword_repcnn"),
    NARROW: partial(_shipped, WakeWordCNN, "wakeword_repcnn", width=16),
    BRANCHED: partial(_shipped, WakeWordCNN, "wakeword_repcnn"),
    PLAIN: partial(_shipped, WakeWordCNN, "wakeword_repcnn", branches=0),
    **{f"BC-ResNet-{tau:g}": partial(_shipped, BCResNet, "wakeword_bcresnet", tau=tau) for tau in (1, 1.5, 2, 3, 6, 8)},
    "HEiMDaL 1d": partial(_shipped, HEiMDaL, "wakeword_heimdal"),
    "HEiMDaL bc": partial(_shipped, HEiMDaL, "wakeword_heimdal", encoder="bc"),
    "DNN-HMM": partial(_shipped, DNNHMM, "wakeword_dnn_hmm"),
    "DS-TCN": partial(_shipped, DSTCN, "wakeword_dstcn"),
}
"""At the sizes of the recipes; RepCNN at half its width too, about as accurate as BC-ResNet-1. All but the branched one
are folded, as they ship."""
QUICK = (FOLDED, BRANCHED, "BC-ResNet-1")


@torch.no_grad()
def make(name: str, **changes: Any) -> WakeWord:
    """A network in eval mode, untrained, with batch-norm statistics unlike fresh ones; it never fires."""
    torch.manual_seed(0)
    model = NETWORKS[name](**changes).eval()
    for norm in model.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.8, 1.25)
    if name != BRANCHED:
        put(model, folds(model))
    model.threshold.fill_(1e9)
    return model


def write(model: WakeWord, path: Path) -> dict[str, Any]:
    """Export ``model`` to ``path``; the sizes of network and file."""
    graph = model.export_spec()[0]
    write_onnx(graph, path)
    macs = macs_per_s(model)
    return {
        "parameters": sum(value.numel() for value in model.parameters()),
        "file_bytes": path.stat().st_size,
        **macs,
        "hop_ms": 1000 * model.frame_s,
        "past_ms": model.context()["past_ms"],
        "state_bytes": 4 * model.chain.state_size,
        "activation_bytes": activation_bytes(graph, path),
        "max_difference": largest_difference(model, path),
    }


def activation_bytes(graph: ExportGraph, path: Path) -> dict[str, dict[str, int | None]]:
    """Peak memory of a call with so many ms of audio: counted on ``graph``, and measured on its file."""
    memory = {}
    for ms in MEMORY_MS:
        inputs = inputs_of(graph, ms)
        memory[f"{ms:g}"] = {
            "computed": peak_activation_bytes(graph.module, tuple(inputs.values())),
            "measured": arena_bytes(path, {name: value.numpy() for name, value in inputs.items()}),
        }
    return memory


def inputs_of(graph: ExportGraph, ms: float) -> dict[str, torch.Tensor]:
    """A call with ``ms`` of audio."""
    assert graph.bench is not None  # every wake-word graph has one
    return graph.bench(ms)


def macs_per_s(model: WakeWord) -> dict[str, int]:
    """Multiply-accumulates of a second of audio: of the network, and of the exported front end."""
    front, *others = model.chain.layers
    assert isinstance(front, FrontEnd)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        Chain(*others)(torch.zeros(1, model.n_mels, round(1 / front.log_mel.hop * front.log_mel.sample_rate)))
    return {
        "network_macs_per_s": counter.get_total_flops() // 2,
        "frontend_macs_per_s": front.log_mel.macs * front.log_mel.sample_rate // front.log_mel.hop,
    }


@torch.no_grad()
def largest_difference(model: WakeWord, path: Path) -> float:
    """Between scores of the file, streamed in chunks of 1, 2, 3 ... hops, and of the model on the whole clip."""
    audio = model.whole_hops(0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0)))
    graph, expected = OnnxGraph(path), model(audio)
    state, worst, at, hops = model.initial().numpy(), 0.0, 0, 1
    while at < expected.shape[1]:
        hops = min(hops, expected.shape[1] - at)
        chunk = audio[:, at * model.hop_samples : (at + hops) * model.hop_samples].contiguous()
        found = graph.run({"audio": chunk.numpy(), "state": state})
        state = found["next_state"]
        worst = max(worst, float((torch.from_numpy(found["score"]) - expected[:, at : at + hops]).abs().max()))
        at, hops = at + hops, hops + 1
    return worst
