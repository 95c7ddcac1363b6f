"""The exported graphs of a KeywordDSP.

`model` takes a clip and an enrolled keyword, `enroll` makes a keyword's tokens. `encoder` and `match` are `model` in
two, for many keywords: the encoder runs once, and every keyword has its own stretch of the frames.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.errors import UserError
from lightsleeper.models.family import ExportGraph
from lightsleeper.models.kws_encoder import FRAME_MS, SAMPLE_RATE, sample_audio
from lightsleeper.nn.ctc import keyword_score_static
from lightsleeper.nn.matching import IMPOSSIBLE
from lightsleeper.phones import BLANK, CLASSES, PHONES

if TYPE_CHECKING:
    from lightsleeper.models.kws_dsp import KeywordDSP

EXPORT_PHONES = 48  # longest keyword of an exported graph, in phones: four long words
EXPORT_WORDS = 8


def graphs(model: "KeywordDSP") -> list[ExportGraph]:
    """`model`, `enroll`, `encoder` and `match`, the headline first.

    `match` takes K keywords: ``features`` (K, N, width) and ``log_probs`` (K, N, 40), 0-padded, of which
    ``frame_count`` (K,) are valid; ``tokens`` (K, M, dim), ``token_count`` (K,), ``phones`` (K, P), 0-padded, and
    ``phone_count`` (K,). K, N, M and P may differ from call to call, M and P from 2 on. Its outputs are those of
    `model`, (K,) and ``cuts`` (K, M+1) in frames of the stretch.

    Raises:
        UserError: the text encoder is a pretrained one, or the partition a baseline.
    """
    if not model.head.needs_phones:
        raise UserError("export needs text_encoder: phones (a pretrained text encoder is not part of the deliverable)")
    if model.partition != "dsp":
        raise UserError(f"export needs partition: dsp; '{model.partition}' is a baseline")
    enroll, encoder = _Enroll(model, EXPORT_WORDS if model.head.token == "word" else EXPORT_PHONES), _Encoder(model)
    outputs = ["score", model.partition, "ctc", "cuts"]
    metadata = {
        "family": type(model).__name__,
        "sample_rate": str(SAMPLE_RATE),
        "phones": " ".join(PHONES),
        "token": model.head.token,
        "frame_ms": str(FRAME_MS),
        "threshold": repr(float(model.threshold)),
        "score": model.score_kind,
    }

    def enrolled(seed: int) -> dict[str, Tensor]:
        phones, words = sample_keyword(seed)
        with torch.no_grad():
            tokens, count = enroll(phones, words)
        return {"tokens": tokens, "token_count": count, "phones": phones, "phone_count": (phones != BLANK).sum(1)}

    def clip(seed: int, ms: float | None = None) -> dict[str, Tensor]:
        return {"audio": sample_audio(seed, ms), **enrolled(seed)}

    def several(seed: int) -> dict[str, Tensor]:
        count = 2 + seed % 4  # the traced sample has more than one: a dynamic axis
        keywords = [enrolled(1000 * seed + number) for number in range(count)]
        with torch.no_grad():
            features, log_probs = encoder(sample_audio(seed + 3))
        frames = torch.arange(count) % 3 * -2 + features.shape[1]
        valid = (torch.arange(features.shape[1]) < frames[:, None])[:, :, None]
        text = {name: torch.cat([keyword[name] for keyword in keywords]) for name in keywords[0]}
        for name, longest in (("tokens", text["token_count"].max()), ("phones", text["phone_count"].max())):
            text[name] = text[name][:, : int(longest) + 1]
        return {"features": features * valid, "log_probs": log_probs * valid, "frame_count": frames, **text}

    texts = ("tokens", "token_count", "phones", "phone_count")
    second = {"features": "frames", "log_probs": "frames", "tokens": "tokens", "phones": "phones"}
    dynamic = {name: {0: "keywords"} for name in ("features", "log_probs", "frame_count", *texts)}
    dynamic = {name: {**axes, 1: second[name]} if name in second else axes for name, axes in dynamic.items()}
    return [
        ExportGraph(
            "model",
            _Detector(model),
            clip,
            outputs,
            {"audio": {1: "samples"}},
            metadata,
            lambda ms: clip(0, ms),
        ),
        ExportGraph(
            "enroll",
            enroll,
            lambda seed: dict(zip(("phones", "words"), sample_keyword(seed), strict=True)),
            ["tokens", "token_count"],
            {},
            metadata,
            per="keyword",
        ),
        ExportGraph(
            "encoder",
            encoder,
            lambda seed: {"audio": sample_audio(seed)},
            ["features", "log_probs"],
            {"audio": {1: "samples"}},
            metadata,
            lambda ms: {"audio": sample_audio(0, ms)},
        ),
        ExportGraph("match", _Match(model), several, outputs, dynamic, metadata, per="keyword"),
    ]


def sample_keyword(seed: int) -> tuple[Tensor, Tensor]:
    """A random keyword of two words: phones (1, EXPORT_PHONES), 0-padded, and words, -1-padded."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(2, 9, (), generator=generator))  # fits into the shortest sample of 400 ms
    drawn = torch.randint(1, CLASSES, (1, count), generator=generator)
    phones = F.pad(drawn, (0, EXPORT_PHONES - count), value=BLANK)
    words = F.pad(torch.arange(count)[None] * 2 // count, (0, EXPORT_PHONES - count), value=-1)
    return phones, words


class _Encoder(nn.Module):
    """A clip to what matching reads of its frames."""

    def __init__(self, model: "KeywordDSP") -> None:
        super().__init__()
        self.encoder = model.encoder
        self._features = model._features

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder.encode_clip(audio)
        log_probs = self.encoder.log_probs(hidden)
        return self._features(hidden, log_probs), log_probs


class _Match(nn.Module):
    """Frames and enrolled keywords, row by row; it holds the head that ships and no other."""

    def __init__(self, model: "KeywordDSP") -> None:
        super().__init__()
        self.head = model.head
        self.register_buffer("fusion", model.fusion)
        self._ship, self._partition = model.ship, model.partition

    def forward(
        self,
        features: Tensor,
        log_probs: Tensor,
        frame_count: Tensor | None,
        tokens: Tensor,
        token_count: Tensor,
        phones: Tensor,
        phone_count: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        distance, cuts = self.head.match_static(features, tokens, token_count, frame_count)
        ctc = keyword_score_static(log_probs, phones, phone_count, frame_count)
        dsp = -distance.clamp(max=-IMPOSSIBLE)
        return self._ship({self._partition: dsp, "ctc": ctc}), dsp, ctc, cuts


class _Detector(nn.Module):
    """One clip and one enrolled keyword."""

    def __init__(self, model: "KeywordDSP") -> None:
        super().__init__()
        self.encode, self.match = _Encoder(model), _Match(model)

    def forward(
        self, audio: Tensor, tokens: Tensor, token_count: Tensor, phones: Tensor, phone_count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, log_probs = self.encode(audio)
        return self.match(features, log_probs, None, tokens, token_count, phones, phone_count)


class _Enroll(nn.Module):
    """A keyword's phones to its cached tokens."""

    def __init__(self, model: "KeywordDSP", max_tokens: int) -> None:
        super().__init__()
        self.head, self.max_tokens = model.head, max_tokens

    def forward(self, phones: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.enroll(phones, words, max_tokens=self.max_tokens)
