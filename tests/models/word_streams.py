"""Words that a tiny network learns in a minute: short tones that rise, fall or hold, among others and in noise."""

from typing import Any

import lightning as L
import torch
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.word_spotter import WordSpotter
from torch import Tensor, nn
from torch.utils.data import DataLoader

RATE = 16_000
WORDS = ["fall", "hold", "rise"]
TONES = {"fall": (1800.0, 600.0, 0.3), "hold": (1200.0, 1200.0, 0.24), "rise": (400.0, 1400.0, 0.36)}
OTHERS = ((2600.0, 3200.0, 0.3), (300.0, 300.0, 0.2))
SMALL: dict[str, Any] = {"dim": 24, "blocks": 2, "heads": 2, "kernel": 7, "expansion": 1}
CHUNK = 4 * 3840

Event = tuple[float, float, int]


def make(gated: bool = False, shake: bool = True, **arguments: Any) -> WordSpotter:
    """A small spotter in eval mode whose gates, where it has any, are open on some windows and closed on others."""
    torch.manual_seed(0)
    small = {} if arguments.get("encoder") == "bc_resnet" else SMALL
    model = WordSpotter(**{"words": WORDS, "gated": gated, **small, **arguments})
    for module in model.modules() if shake else ():
        if isinstance(module, nn.LayerNorm | nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    if shake:
        model.heads.detection.bias.data.normal_(0, 0.5)  # as often detected as not: scores of 0 would show nothing
        balance(model.eval())
    return model.eval()


@torch.no_grad()
def balance(model: WordSpotter) -> None:
    """Gates that are open on half of the windows of some audio."""
    audio = sample_audio(3, 24.0 * model.windowing.slide_ms)
    for gate in gates(model):
        gate.logits.weight.normal_(0, 2)
        gate.logits.bias.zero_()
        seen: list[Tensor] = []
        handle = gate.register_forward_hook(lambda _, given, out, seen=seen: seen.append(out))
        model(audio)
        handle.remove()
        gate.logits.bias[0] -= seen[0].median()


def gates(model: WordSpotter) -> list[Any]:
    blocks = getattr(getattr(model.encoder, "conformer", None), "blocks", [])
    return [gate for block in blocks for gate in (block.gates or [])]


def force(model: WordSpotter, opened: list[bool]) -> None:
    """Make every decision of each gate the given one."""
    for gate, value in zip(gates(model), opened, strict=True):
        gate.logits.weight.data.zero_()
        gate.logits.bias.data = torch.tensor([5.0, -5.0] if value else [-5.0, 5.0])


def tone(low: float, high: float, seconds: float) -> Tensor:
    count = int(RATE * seconds)
    return 0.3 * torch.sin(2 * torch.pi * torch.linspace(low, high, count).cumsum(0) / RATE)


def scene(seconds: float, seed: int, words: bool = True, others: bool = True) -> tuple[Tensor, list[Event]]:
    """Noise with tones one after the other, (samples,), and the words among them."""
    generator = torch.Generator().manual_seed(seed)
    audio = 0.01 * torch.randn(int(RATE * seconds), generator=generator)
    events: list[Event] = []
    at = int(0.1 * RATE)
    while True:
        kind = int(torch.randint(5, (), generator=generator))
        at += int(RATE * (0.1 + 0.4 * float(torch.rand((), generator=generator))))
        if kind >= len(WORDS) and others:
            piece = tone(*OTHERS[kind - len(WORDS)])
        elif kind < len(WORDS) and words:
            piece = tone(*TONES[WORDS[kind]])
        else:
            piece = torch.zeros(RATE // 5)
        if at + len(piece) + RATE // 10 > len(audio):
            return audio, events
        audio[at : at + len(piece)] += piece
        if kind < len(WORDS) and words:
            events.append((at / RATE, (at + len(piece)) / RATE, kind))
        at += len(piece)


def batch(seconds: list[float], seed: int = 0) -> dict[str, Tensor]:
    """A training batch of clips of such lengths."""
    scenes = [scene(length, 1000 * seed + number) for number, length in enumerate(seconds)]
    return collate(scenes)


def collate(scenes: list[tuple[Tensor, list[Event]]]) -> dict[str, Tensor]:
    def pad(rows: list[list[float]], value: float, dtype: torch.dtype) -> Tensor:
        longest = max(len(row) for row in rows)
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=dtype)

    events = [found for _, found in scenes]
    return {
        "audio": nn.utils.rnn.pad_sequence([audio for audio, _ in scenes], batch_first=True),
        "samples": torch.tensor([len(audio) for audio, _ in scenes]),
        "word": pad([[e[2] for e in row] for row in events], -1, torch.long),
        "begin_s": pad([[e[0] for e in row] for row in events], float("nan"), torch.float32),
        "end_s": pad([[e[1] for e in row] for row in events], float("nan"), torch.float32),
    }


def stream(number: int, seconds: float, content: str, seed: int) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    audio, events = scene(seconds, seed, words=content == "speech", others=content in ("speech", "babble"))
    if content == "silence":
        audio = audio * 0.01
    parts = audio.split(CHUNK)
    return [
        {
            "audio": part[None],
            "stream": number,
            "first": at == 0,
            "last": at + 1 == len(parts),
            "start_s": at * CHUNK / RATE,
            "seconds": seconds,
            "events": events,
            "content": content,
        }
        for at, part in enumerate(parts)
    ]


class Tones(L.LightningDataModule):
    """Clips of tones to train on, streams of every content to judge by."""

    words = WORDS
    test_names = ("",)

    def __init__(self, clips: int = 256, batch_size: int = 16) -> None:
        super().__init__()
        self.clips, self.batch_size = clips, batch_size

    def train_dataloader(self) -> DataLoader:
        rows = [scene(3.0, 10_000 + number, words=number % 5 > 0) for number in range(self.clips)]
        return DataLoader(rows, self.batch_size, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]

    def _streams(self, seed: int) -> DataLoader:
        contents = ("speech", "speech", "babble", "noise", "silence")
        chunks = [part for n, kind in enumerate(contents) for part in stream(seed + n, 24.0, kind, 100 * seed + n)]
        return DataLoader(chunks, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        return self._streams(0)

    def test_dataloader(self) -> list[DataLoader]:
        return [self._streams(10)]
