"""The exported graphs of an active-speaker detector.

``model`` is one step of a stream with its state, where the network streams: inputs ``faces`` (B, 1, E, E) uint8,
``mfcc`` (B, 4, 13), ``present`` (B,) and ``state`` (B, S), zeros at first; outputs ``score`` (B,), ``ready`` (B,) and
``next_state``. The score is that of the frame ``delay`` steps before; ``present`` 0 brings out the last ones when a
face has left. Otherwise ``model`` judges a clip: ``faces`` (1, T, E, E) and ``mfcc`` (1, 4 T, 13) to ``score`` (1, T).

E is the edge that the encoders take, ``pixels`` in the metadata: 112, small ones 56.

``embed`` is the encoders alone, over clips: ``sound`` and ``face`` (B, T, dim).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightsleeper.models.family import ExportGraph
from lightsleeper.nn.light_asd import COEFFICIENTS, FPS, MFCC_PER_FRAME
from lightsleeper.nn.speaker_net import SpeakerNet, example

CLIP_FRAMES = 25


def graphs(net: SpeakerNet, facts: dict[str, str]) -> list[ExportGraph]:
    """Headline first; ``facts`` go into its metadata."""
    facts = {
        **facts,
        "fps": str(FPS),
        "pixels": str(_edge(net)),
        "mfcc_per_frame": str(MFCC_PER_FRAME),
        "coefficients": str(COEFFICIENTS),
        "modality": net.modality,
    }
    return [_step(net, facts) if net.streams else _clip(net, facts), _embed(net, facts)]


def _step(net: SpeakerNet, facts: dict[str, str]) -> ExportGraph:
    def sample(seed: int) -> dict[str, Tensor]:
        # Two faces to trace with: the exporter takes one for a constant.
        faces, mfcc = example(1, seed, 1 + (seed + 1) % 3, _edge(net))
        generator = torch.Generator().manual_seed(seed)
        state = net.initial(len(faces)).cpu()
        if seed:
            state = torch.rand(state.shape, generator=generator)  # activations, and marks of about half of the columns
        present = torch.ones(len(faces))
        present[0] = float(seed % 4 != 3)
        return {"faces": faces, "mfcc": mfcc, "present": present, "state": state}

    def bench(ms: float) -> dict[str, Tensor]:
        faces, mfcc = example(1, pixels=_edge(net))
        return {"faces": faces, "mfcc": mfcc, "present": torch.ones(1), "state": net.initial(1).cpu()}

    return ExportGraph(
        "model",
        _Step(net).eval(),
        sample,
        ["score", "ready", "next_state"],
        {name: {0: "people"} for name in ("faces", "mfcc", "present", "state")},
        {**facts, "delay": str(net.delay), "state_size": str(net.state_size)},
        bench,
        per="frame",
        chunks_ms=(1000.0 / FPS,),
    )


def _clip(net: SpeakerNet, facts: dict[str, str]) -> ExportGraph:
    return ExportGraph("model", _Clip(net).eval(), _clips(net), ["score"], _CLIP_AXES, facts, per="clip of 1 s")


def _embed(net: SpeakerNet, facts: dict[str, str]) -> ExportGraph:
    return ExportGraph(
        "embed", net.encoders.eval(), _clips(net), ["sound", "face"], _CLIP_AXES, facts, per="clip of 1 s"
    )


_FRAMES = "frames"
_CLIP_AXES = {"faces": {1: _FRAMES}, "mfcc": {1: f"{MFCC_PER_FRAME}*{_FRAMES}"}}


def _clips(net: SpeakerNet) -> Callable[[int], dict[str, Tensor]]:
    def sample(seed: int) -> dict[str, Tensor]:
        faces, mfcc = example(CLIP_FRAMES - 3 * (seed % 4), seed, pixels=_edge(net))
        return {"faces": faces, "mfcc": mfcc}

    return sample


def _edge(net: SpeakerNet) -> int:
    return net.encoders.size.pixels


class _Step(nn.Module):
    def __init__(self, net: SpeakerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, faces: Tensor, mfcc: Tensor, present: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self.net.step(faces, mfcc, present, state))  # type: ignore[return-value]


class _Clip(nn.Module):
    def __init__(self, net: SpeakerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, faces: Tensor, mfcc: Tensor) -> Tensor:
        return self.net(faces, mfcc).softmax(-1)[..., 1]
