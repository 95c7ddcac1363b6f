"""A typed-keyword matcher that needs no training: every phone is a tone of its own."""

import numpy as np
import torch
from lightsleeper.models.family import Batch, ExportGraph
from lightsleeper.models.keyword import KeywordFamily
from lightsleeper.nn.ctc import keyword_score_static
from lightsleeper.phones import BLANK, CLASSES, PHONE_IDS, PHONES
from torch import Tensor, nn

RATE, HOP = 16_000, 640
LONGEST = 48


def spoken(text: str, phone_s: float = 0.12) -> np.ndarray:
    """Audio (S,) of ARPAbet phones, each a tone of 0.12 s."""
    time = np.arange(round(phone_s * RATE)) / RATE
    tones = [0.3 * np.sin(2 * np.pi * _hertz(PHONE_IDS[phone]) * time) for phone in text.split()]
    return np.concatenate(tones).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def _hertz(phone: int) -> int:
    return 400 + 100 * phone


class Tones(KeywordFamily):
    """Hears which tone a frame of 40 ms is; scores by CTC."""

    def __init__(self) -> None:
        super().__init__({"shipped": ""})
        self.level = nn.Parameter(torch.tensor(12.0))
        self.threshold.fill_(-1.0)

    def architecture(self) -> dict:
        return {}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        model = _Model(self)
        counts = (batch["phones"] > 0).sum(1)
        rows = [
            model(batch["audio"][row : row + 1, :length], batch["phones"][row : row + 1], counts[row : row + 1])
            for row, length in enumerate(batch["audio_lengths"].tolist())
        ]
        return {"shipped": torch.cat(rows)}

    def export_spec(self) -> list[ExportGraph]:
        facts = {"sample_rate": str(RATE), "phones": " ".join(PHONES), "frame_ms": "40.0", "token": "phone"}
        facts["threshold"] = repr(float(self.threshold))

        def text(seed: int, rows: int = 1) -> dict[str, Tensor]:
            phones = torch.zeros(rows, LONGEST, dtype=torch.long)
            phones[:, : 2 + seed % 3] = 1 + seed % 30
            return {"phones": phones, "phone_count": (phones != BLANK).sum(1)}

        def audio(seed: int) -> dict[str, Tensor]:
            return {"audio": torch.randn(1, 8000, generator=torch.Generator().manual_seed(seed))}

        def match(seed: int) -> dict[str, Tensor]:
            with torch.no_grad():
                frames = _Encoder(self)(audio(seed)["audio"]).expand(3, -1, -1)
            return {"log_probs": frames, "frame_count": torch.tensor([5, 7, 12]), **text(seed, 3)}

        keywords = {name: {0: "keywords"} for name in ("frame_count", "phone_count")}
        dynamic = {**keywords, "log_probs": {0: "keywords", 1: "frames"}, "phones": {0: "keywords", 1: "phones"}}
        samples = {"audio": {1: "samples"}}
        return [
            ExportGraph("model", _Model(self), lambda s: {**audio(s), **text(s)}, ["score"], samples, facts),
            ExportGraph("encoder", _Encoder(self), audio, ["log_probs"], samples, facts),
            ExportGraph("match", _Match(), match, ["score"], dynamic, facts),
        ]


class _Encoder(nn.Module):
    def __init__(self, model: Tones) -> None:
        super().__init__()
        self.level = model.level
        time = torch.arange(HOP) / RATE
        waves = torch.stack([2 * torch.pi * _hertz(phone) * time for phone in range(1, CLASSES)], 1)
        self.register_buffer("waves", torch.cat([waves.sin(), waves.cos()], 1))  # (HOP, 78)

    def forward(self, audio: Tensor) -> Tensor:
        parts = (audio.unfold(1, HOP, HOP) @ self.waves).unflatten(2, (2, CLASSES - 1))
        energy = parts.square().sum(2).sqrt() / 40  # 2.4 for the tone that sounds
        return (self.level * torch.cat([torch.full_like(energy[:, :, :1], 0.5), energy], 2)).log_softmax(-1)


class _Match(nn.Module):
    def forward(self, log_probs: Tensor, frame_count: Tensor, phones: Tensor, phone_count: Tensor) -> Tensor:
        return keyword_score_static(log_probs, phones, phone_count, frame_count)


class _Model(nn.Module):
    def __init__(self, model: Tones) -> None:
        super().__init__()
        self.encoder = _Encoder(model)

    def forward(self, audio: Tensor, phones: Tensor, phone_count: Tensor) -> Tensor:
        return keyword_score_static(self.encoder(audio), phones, phone_count)
