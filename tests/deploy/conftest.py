import shutil
from pathlib import Path

import pytest
import torch
from tiny_matcher import TinyMatcher, tiny_export


@pytest.fixture
def matcher() -> TinyMatcher:
    torch.manual_seed(0)
    return TinyMatcher().eval()


@pytest.fixture
def exported(tmp_path) -> Path:
    """The export of `matcher`, made once, copied for each test; the path of model.onnx."""
    shutil.copytree(tiny_export()[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "model.onnx"


@pytest.fixture
def artifacts() -> list[dict]:
    """The record's entries for `exported`."""
    return [dict(entry) for entry in tiny_export()[1]]


@pytest.fixture
def pairs() -> dict:
    """An evaluation batch of three pairs, clips and texts of different length."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([8000, 12000, 16000])
    audio = torch.randn(3, 16000, generator=generator)
    phones = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 10], [11, 0, 0, 0]])
    return {
        "audio": audio * (torch.arange(16000) < lengths[:, None]),
        "audio_lengths": lengths,
        "phones": phones,
        "words": torch.where(phones > 0, 0, -1),
        "text": ["a", "b", "c"],
        "label": torch.tensor([1, 0, 0]),
        "kind": torch.tensor([0, 1, 2]),
        "episode": torch.tensor([0, 0, 0]),
        "word_count": torch.ones(3, dtype=torch.long),
        "clip": torch.arange(3),
    }
