"""A matcher with the graphs of an audio-text keyword spotter and 200 parameters."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from lightsleeper.models.family import ExportGraph, Family
from lightsleeper.phones import CLASSES, PHONES
from torch import Tensor, nn

MAX_PHONES = 16
HOP = 640  # samples: 40 ms


class TinyMatcher(Family):
    """Frames of 40 ms through one linear layer, against phone embeddings; equal cuts."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.dim = dim
        self.frame = nn.Linear(HOP, dim)
        self.phone = nn.Embedding(CLASSES, dim)
        self.register_buffer("threshold", torch.tensor(-1.0))

    def architecture(self) -> dict:
        return {"dim": self.dim}

    def score(self, batch: dict) -> dict[str, Tensor]:
        rows = []
        for row, samples in enumerate(batch["audio_lengths"].tolist()):
            count = (batch["phones"][row] > 0).sum()[None]
            tokens = self.phone(batch["phones"][row][None])
            rows.append(Detector(self)(batch["audio"][row : row + 1, :samples], tokens, count)[0])
        return {"shipped": torch.cat(rows)}

    def export_spec(self) -> list[ExportGraph]:
        def keyword(seed: int) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            phones = torch.zeros(1, MAX_PHONES, dtype=torch.long)
            count = 1 + seed % 4
            phones[0, :count] = torch.randint(1, CLASSES, (count,), generator=generator)
            return {"phones": phones, "words": torch.where(phones > 0, 0, -1)}

        def sample(seed: int, ms: float | None = None) -> dict[str, Tensor]:
            ms = 400.0 + 100 * (seed % 4) if ms is None else ms
            audio = torch.randn(1, int(16 * ms), generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                tokens, count = Enroll(self)(*keyword(seed).values())
            return {"audio": audio, "tokens": tokens, "token_count": count}

        facts = {"sample_rate": "16000", "phones": " ".join(PHONES), "frame_ms": "40.0", "token": "phone"}
        facts["threshold"] = repr(float(self.threshold))
        dynamic = {"audio": {1: "samples"}}
        outputs = ["score", "cuts"]
        return [
            ExportGraph("model", Detector(self), sample, outputs, dynamic, facts, lambda ms: sample(0, ms)),
            ExportGraph("enroll", Enroll(self), keyword, ["tokens", "token_count"], {}, facts, per="keyword"),
        ]


class Detector(nn.Module):
    def __init__(self, model: TinyMatcher) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor, tokens: Tensor, token_count: Tensor) -> tuple[Tensor, Tensor]:
        frames = self.model.frame(audio[0].unfold(0, HOP, HOP))  # (frames, d)
        valid = torch.arange(tokens.shape[1]) < token_count
        target = (tokens[0] * valid[:, None]).sum(0) / token_count
        score = -(frames.mean(0) - target).square().sum().sqrt()
        places = torch.arange(tokens.shape[1] + 1).clamp(max=token_count)
        return score[None], (places * frames.shape[0]).div(token_count, rounding_mode="floor")[None]


class Enroll(nn.Module):
    def __init__(self, model: TinyMatcher) -> None:
        super().__init__()
        self.phone = model.phone

    def forward(self, phones: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        valid = phones > 0
        return self.phone(phones) * valid.unsqueeze(-1) + 0.0 * words.unsqueeze(-1), valid.sum(1)


@cache
def tiny_export() -> tuple[Path, list[dict]]:
    """Folder and artifacts of the matcher of seed 0, exported once; read only."""
    from lightsleeper.deploy.export import export

    _KEPT.append(tempfile.TemporaryDirectory())
    folder = Path(_KEPT[-1].name)
    torch.manual_seed(0)
    return folder, export(TinyMatcher().eval(), folder, ["onnx"], parity_inputs=16)


@cache
def tiny_runs() -> Path:
    """A runs folder with one finished run, `tiny/20260101-000000-abcd`, exported; made once, read only."""
    from lightsleeper.deploy.finalize import save_model
    from lightsleeper.run_folder import RECORD
    from lightsleeper.tracking.record import Record

    _KEPT.append(tempfile.TemporaryDirectory())
    root = Path(_KEPT[-1].name)
    folder = root / "tiny" / "20260101-000000-abcd"
    torch.manual_seed(0)
    model = TinyMatcher().eval()
    save_model(model, folder / "export", {})
    shutil.copytree(tiny_export()[0], folder / "export", dirs_exist_ok=True)
    record = Record(folder.name, "tiny", "TinyMatcher", 0, "g", "h", {}, {}, status="finished")
    (folder / RECORD).write_text(record.to_json())
    return root


_KEPT: list[tempfile.TemporaryDirectory] = []
