"""The exported graphs of a phoneme keyword spotter.

`model` takes a clip and a keyword's phones. `encoder` and `match` are the same in two: the encoder runs once, and any
number of keywords ask frames of it, each its own stretch. The phoneme table lies inside `match`: enrolling a keyword is
nothing but finding its phones.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightsleeper.models.family import ExportGraph
from lightsleeper.models.kws_encoder import FRAME_MS, SAMPLE_RATE, sample_audio
from lightsleeper.nn.ctc import keyword_score_static
from lightsleeper.phones import BLANK, CLASSES, PHONES

if TYPE_CHECKING:
    from lightsleeper.models.kws_phoneme import KeywordPhoneme

EXPORT_PHONES = 48  # longest keyword of an exported graph: four long words


def graphs(model: "KeywordPhoneme") -> list[ExportGraph]:
    """`model`, `encoder` and `match`, the headline first.

    `model`: ``audio`` (1, samples), ``phones`` (1, 48) 0-padded, ``phone_count`` (1,). `encoder`: ``audio`` to
    ``features`` (1, N, d) and ``log_probs`` (1, N, 40). `match`: K keywords, each with its own frames: ``features``
    (K, N, d) and ``log_probs`` (K, N, 40), 0-padded, ``frame_count`` (K,) of them valid; ``phones`` (K, P), 0-padded,
    and ``phone_count`` (K,). K, N and P may differ from call to call. Outputs of `model` and `match`: ``score`` (K,),
    each of the parts that count in it (K,), ``cuts`` (K, P+1) in frames.
    """
    detector, encoder = _Detector(model), _Encoder(model)
    outputs = ["score", *model.counted(), "cuts"]
    metadata = {
        "family": type(model).__name__,
        "sample_rate": str(SAMPLE_RATE),
        "phones": " ".join(PHONES),
        "token": "phone",
        "frame_ms": str(FRAME_MS),
        "threshold": repr(float(model.threshold)),
        "score": model.score_kind,
    }

    def clip(seed: int, ms: float | None = None) -> dict[str, Tensor]:
        return {"audio": sample_audio(seed, ms), **_keywords(seed, 1, EXPORT_PHONES)}

    def stretches(seed: int) -> dict[str, Tensor]:
        count = 2 + seed % 4  # the traced sample has more than one: a dynamic axis
        with torch.no_grad():
            features, log_probs = encoder(sample_audio(seed))
        frames = features.shape[1] - torch.arange(count) % 3
        valid = (torch.arange(features.shape[1]) < frames[:, None])[:, :, None]
        stretch = {"features": features * valid, "log_probs": log_probs * valid, "frame_count": frames}
        return {**stretch, **_keywords(seed, count, 8 + seed % 5)}

    longer = {"features": "frames", "log_probs": "frames", "phones": "longest"}
    dynamic = {name: {0: "keywords", 1: axis} for name, axis in longer.items()}
    dynamic |= {name: {0: "keywords"} for name in ("frame_count", "phone_count")}
    audio = {"audio": {1: "samples"}}
    return [
        ExportGraph("model", detector, clip, outputs, audio, metadata, lambda ms: clip(0, ms)),
        ExportGraph(
            "encoder",
            encoder,
            lambda seed: {"audio": sample_audio(seed)},
            ["features", "log_probs"],
            audio,
            metadata,
            lambda ms: {"audio": sample_audio(0, ms)},
        ),
        ExportGraph("match", _Match(model), stretches, outputs, dynamic, metadata, per="keyword"),
    ]


def _keywords(seed: int, count: int, size: int) -> dict[str, Tensor]:
    """Random keywords that fit into the shortest sample of 400 ms: phones (count, size), 0-padded, and their counts."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 8, (count,), generator=generator)
    drawn = torch.randint(1, CLASSES, (count, size), generator=generator)
    return {"phones": torch.where(torch.arange(size) < lengths[:, None], drawn, BLANK), "phone_count": lengths}


class _Encoder(nn.Module):
    """A clip to frames."""

    def __init__(self, model: "KeywordPhoneme") -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder.encode_clip(audio)
        return hidden, self.encoder.log_probs(hidden)


class _Match(nn.Module):
    """Frames and phones, row by row; it holds table and verifier and no encoder."""

    def __init__(self, model: "KeywordPhoneme") -> None:
        super().__init__()
        self.table, self.verifier = model.table, model.verifier
        self.register_buffer("fusion", model.fusion)
        self._verify, self._ship, self._parts = model.verify, model.ship, model.counted()

    def forward(
        self, features: Tensor, log_probs: Tensor, frame_count: Tensor, phones: Tensor, phone_count: Tensor
    ) -> tuple[Tensor, ...]:
        scores, cuts = self._verify(features, log_probs, frame_count, self.table(phones), phones)
        scores["ctc"] = keyword_score_static(log_probs, phones, phone_count, frame_count)
        scores = {name: scores[name] for name in self._parts}
        return (self._ship(scores), *scores.values(), cuts)


class _Detector(nn.Module):
    """A clip and a keyword."""

    def __init__(self, model: "KeywordPhoneme") -> None:
        super().__init__()
        self.encode, self.match = _Encoder(model), _Match(model)

    def forward(self, audio: Tensor, phones: Tensor, phone_count: Tensor) -> tuple[Tensor, ...]:
        features, log_probs = self.encode(audio)
        frames = torch.zeros_like(phone_count) + features.shape[1]
        return self.match(features, log_probs, frames, phones, phone_count)
