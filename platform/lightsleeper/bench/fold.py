"""`lightning bench fold`: the spoken-word CNN plain, with branches, and with its branches folded.

All have random batch-norm statistics, and one second of audio as input, whose front end is left out: it is the same for
all. Latency is ONNX Runtime's, which folds a norm behind a convolution by itself; the plain network is timed as it is
exported. A network is timed in every round, in turn, so that a change of the machine's speed meets all alike.
"""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightsleeper_callbacks.foldable import folds, put
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper.bench.conditions import chosen_parts, conditions, torch_threads
from lightsleeper.bench.timing import in_turns, shown, spread
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.liveness import peak_activation_bytes
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.models.family import ExportGraph
from lightsleeper.models.small_cnn import ConvLayer, SpokenWordCNN

EQUAL = 1e-5  # largest difference of outputs in float32 (papers/repcnn 9.1)
WORDS = [f"word{number}" for number in range(12)]
BRANCHES = (1, 2, 4, 8)
FRAMES = 98  # of one second: 30 ms windows every 10 ms
BATCH = 64  # clips in a training step
INPUTS = 16  # clips on which outputs are compared
PARTS = ("deploy", "train")


class Network(nn.Module):
    """The model behind its front end: features (B, frames, mel) to logits (B, words)."""

    def __init__(self, model: SpokenWordCNN) -> None:
        super().__init__()
        self.layers, self.head = model.layers, model.head

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.layers(features.transpose(1, 2)).mean(2))


def run(args: Any = None) -> dict[str, Any]:
    """Measure, print the table, and return the same as JSON-able data.

    ``args``: ``part`` (deploy, train), ``quick``, ``repeats`` (timed rounds), ``threads``. Raises UserError for an
    unknown part.
    """
    quick = bool(getattr(args, "quick", False))
    parts = chosen_parts("fold", getattr(args, "part", None), PARTS)
    threads = getattr(args, "threads", None) or 1
    repeats = getattr(args, "repeats", None) or (50 if quick else 1000)
    width = 16 if quick else 32
    networks = make_networks(width, (4,) if quick else BRANCHES)
    result: dict[str, Any] = {
        "settings": {"width": width, "frames": FRAMES, "repeats": repeats, "batch": BATCH},
        "conditions": conditions(threads, dtype="float32"),
        "networks": {name: size(network) for name, network in networks.items()},
        "max_difference": compare(networks),
    }
    with torch_threads(threads):
        if "deploy" in parts:
            for name, found in latencies(networks, repeats, threads).items():
                result["networks"][name]["latency_ms"] = found
        if "train" in parts:
            for name, found in training_steps(networks, max(3, repeats // 50)).items():
                result["networks"][name]["training_step_ms"] = found
    print(render(result))
    return result


def make_networks(width: int, branches: tuple[int, ...]) -> dict[str, Network]:
    """Plain, with each number of branches, and the one with most branches folded; eval mode, random statistics."""
    torch.manual_seed(0)
    networks = {"plain": Network(SpokenWordCNN(WORDS, width=width, branches=0))}
    for count in branches:
        networks[f"{count} branches"] = Network(SpokenWordCNN(WORDS, width=width, branches=count))
    for network in networks.values():
        randomize(network.eval())
    networks["folded"] = copy.deepcopy(networks[f"{branches[-1]} branches"])
    put(networks["folded"], folds(networks["folded"]))
    return networks


@torch.no_grad()
def randomize(network: nn.Module) -> None:
    """Statistics and affine values unlike the fresh ones, with which a wrong fold could pass; outputs stay near 1."""
    for layer in network.modules():
        for norm in layer.modules() if isinstance(layer, ConvLayer) else ():
            if isinstance(norm, _BatchNorm):
                count = sum(isinstance(other, _BatchNorm) for other in layer.modules())
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.normal_(0, 0.5)
                norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 1.5).div_(count**0.5)
                norm.bias.normal_(0, 0.5 / count**0.5)


def features(rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, FRAMES, 40, generator=torch.Generator().manual_seed(seed))


def size(network: Network) -> dict[str, Any]:
    """Parameters, multiply-accumulates and peak activation bytes of one clip."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(features())
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "macs": counter.get_total_flops() // 2,
        "peak_activation_bytes": peak_activation_bytes(network, (features(),)),
        "norms": sum(isinstance(layer, _BatchNorm) for layer in network.modules()),
    }


@torch.no_grad()
def compare(networks: dict[str, Network]) -> float:
    """Largest difference between the outputs of the folded network and of the one it was folded from."""
    branched = next(network for name, network in reversed(networks.items()) if name.endswith("branches"))
    inputs = features(INPUTS, seed=1)
    return float((branched(inputs) - networks["folded"](inputs)).abs().max())


def latencies(networks: dict[str, Network], repeats: int, threads: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one clip in ONNX Runtime by network."""
    feeds = {"features": features().numpy()}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, network in networks.items():
            path = Path(folder) / f"{name.replace(' ', '-')}.onnx"
            write_onnx(ExportGraph(name, network, lambda seed: {"features": features(seed=seed)}, ["logits"]), path)
            sessions[name] = OnnxGraph(path, threads)
        calls = {name: partial(session.run, feeds) for name, session in sessions.items()}
        return {name: spread(taken) for name, taken in in_turns(calls, repeats, warm_up=20).items()}


def training_steps(networks: dict[str, Network], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of forward and backward of a training batch by network."""
    inputs, words = features(BATCH), torch.arange(BATCH) % len(WORDS)

    def step(network: Network) -> None:
        network.zero_grad()
        F.cross_entropy(network(inputs), words).backward()

    trained = {name: copy.deepcopy(network).train() for name, network in networks.items()}
    calls = {name: partial(step, network) for name, network in trained.items()}
    return {name: spread(taken) for name, taken in in_turns(calls, repeats).items()}


def render(result: dict[str, Any]) -> str:
    """The table, conditions first."""
    settings, conditions = result["settings"], result["conditions"]
    lines = [
        f"fold: CNN of width {settings['width']}, {settings['frames']} frames (1 s), {conditions['threads']} threads, "
        f"torch {conditions['torch']}, Python {conditions['python']}, {conditions['machine']}; median (10th-90th "
        f"percentile) of {settings['repeats']} rounds; training step: batch {settings['batch']}",
        f"{'':14}{'parameters':>12}{'MACs':>12}{'peak act. bytes':>17}{'ONNX Runtime ms':>26}{'training step ms':>26}",
    ]
    for name, row in result["networks"].items():
        lines.append(
            f"{name:14}{row['parameters']:>12,}{row['macs']:>12,}{row['peak_activation_bytes']:>17,}"
            f"{_range(row.get('latency_ms')):>26}{_range(row.get('training_step_ms')):>26}"
        )
    equal = result["max_difference"] <= EQUAL
    lines.append(
        f"folded against branched: largest difference {result['max_difference']:.1e}; equal to {EQUAL:.0e}: "
        f"{'yes' if equal else 'NO'}"
    )
    return "\n".join(lines)


def _range(times: dict[str, float] | None) -> str:
    return "" if times is None else shown(times, 3)
