"""The exported graph of a word spotter: one hop a call, its state in and out, an ONNX If around every gated module.

Against a split that the session drives (a file for each module, gates computed by the host in NumPy), If was faster in
every case: 0.54 against 0.95 ms a hop with half of the modules open, 0.29 against 0.45 ms with none, 0.85 against 1.68
ms with all (width 64, 3 blocks, 20 words; ONNX Runtime 1.32, one thread of a busy machine, fastest tenth of 400 calls).
So there is one file.
"""

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightsleeper.models.family import ExportGraph
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.spotter_judging import TARGET
from lightsleeper.nn.windows import SAMPLE_RATE

if TYPE_CHECKING:
    from lightsleeper.models.word_spotter import WordSpotter


def hop_graph(spotter: "WordSpotter") -> ExportGraph:
    """Inputs ``audio`` (1, hop) and ``state`` (1, S), zeros at the start of a stream; outputs of P output steps:
    ``score``, ``word``, ``begin``, ``end`` (1, P), with gates ``gates`` (1, modules), and ``next_state``.

    Times are seconds from the hop's first sample.
    """
    windowing, encoder = spotter.windowing, spotter.encoder

    def audio(seed: int, hops: int = 1) -> Tensor:
        return sample_audio(seed, float(hops * windowing.slide_ms))[:, : hops * windowing.slide_samples]

    @torch.no_grad()
    def sample(seed: int) -> dict[str, Tensor]:
        state = spotter.initial().cpu()
        if seed:
            _, state = encoder.chain.stream(audio(seed + 1000, 1 + seed % 7), state)
        return {"audio": audio(seed), "state": state}

    return ExportGraph(
        "model",
        _Hop(spotter).eval(),
        sample,
        ["score", "word", "begin", "end", *(["gates"] if spotter.gated else []), "next_state"],
        metadata=_metadata(spotter),
        bench=lambda ms: {"audio": audio(0), "state": spotter.initial().cpu()},
        per="hop",
        chunks_ms=(float(windowing.slide_ms),),
        macs=encoder.macs + encoder.mel_macs + spotter.heads.macs(encoder.steps),
    )


def _metadata(spotter: "WordSpotter") -> dict[str, str]:
    windowing, encoder = spotter.windowing, spotter.encoder
    return {
        "family": type(spotter).__name__,
        "sample_rate": str(SAMPLE_RATE),
        "hop_samples": str(windowing.slide_samples),
        "window_samples": str(windowing.window_ms * SAMPLE_RATE // 1000),
        "state_size": str(encoder.chain.state_size),
        "step_s": repr(windowing.step_s),
        "lead_s": repr(windowing.lead_s),
        "receptive_s": repr(windowing.receptive_s),
        "words": json.dumps(spotter.words),
        "threshold": repr(float(spotter.threshold)),
        "target": TARGET,
        "modules": json.dumps(encoder.modules_named if spotter.gated else []),
        "module_macs": json.dumps(encoder.module_macs if spotter.gated else []),
        "encoder_macs": str(encoder.macs),
    }


class _Hop(nn.Module):
    """`WordSpotter.stream` of one hop, a tensor for each output."""

    def __init__(self, spotter: "WordSpotter") -> None:
        super().__init__()
        self.encoder, self.heads = spotter.encoder, spotter.heads
        self._stream = spotter.stream

    def forward(self, audio: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        score, word, begin, end, gates, state = self._stream(audio, state)
        found = (score, word, begin, end)
        return (*found, state) if gates is None else (*found, gates[:, 0], state)
