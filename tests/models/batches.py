"""Random batches in the two formats that data modules give to models."""

from typing import Any

import torch
from lightsleeper.models.kws_encoder import sample_audio

TINY_ENCODER = {"dim": 32, "blocks": 1, "heads": 2, "expansion": 1}


def random_batch(size: int = 6, negatives: int = 2, seed: int = 0) -> dict[str, Any]:
    """A training batch that is also an evaluation batch: two words of three phones each."""
    generator = torch.Generator().manual_seed(seed)
    clips = [sample_audio(seed * 100 + i, 500.0 + 60 * i)[0] for i in range(size)]
    lengths = torch.tensor([len(c) for c in clips])
    words = torch.tensor([0, 0, 0, 1, 1, 1])
    return {
        "audio": torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        "audio_lengths": lengths,
        "index": torch.arange(size),
        "phones": torch.randint(1, 40, (size, 6), generator=generator),
        "words": words.repeat(size, 1),
        "text": ["two words"] * size,
        "negative_phones": torch.randint(1, 40, (size, negatives, 6), generator=generator),
        "negative_words": words.repeat(size, negatives, 1),
        "label": torch.arange(size) % 2,
        "kind": torch.tensor([1, 0, 2, 0])[torch.arange(size) % 4],
        "episode": torch.arange(size) // 4,
        "word_count": torch.full((size,), 2),
        "clip": torch.arange(size),
    }
