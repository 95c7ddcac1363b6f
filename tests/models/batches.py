"""Random batches in the formats that data modules give to models."""

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


def keyword_batch(keywords: int = 2, recordings: int = 2, seed: int = 0) -> dict[str, Any]:
    """A training batch of keywords: positives, random negatives and confusables, as `data/keyword_batches` makes it."""
    generator = torch.Generator().manual_seed(seed)
    clips = [sample_audio(seed * 100 + i, 500.0 + 60 * i)[0] for i in range(keywords * recordings)]
    texts = torch.randint(1, 40, (keywords + keywords * recordings, 6), generator=generator)
    rows = []
    for keyword in range(keywords):
        own = [keyword * recordings + i for i in range(recordings)]
        others = [(clip + recordings) % len(clips) for clip in own]
        rows += [(clip, keyword, 1, 0, keyword) for clip in own]
        rows += [(clip, keyword, 0, 1, keyword) for clip in others]
        rows += [(clip, keywords + clip, 0, 2, keyword) for clip in own]
    clip, text, label, part, number = torch.tensor(rows).T
    return {
        "audio": torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        "audio_lengths": torch.tensor([len(c) for c in clips]),
        "clip_index": clip,
        "text_index": text,
        "phones": texts,
        "words": torch.zeros_like(texts),
        "label": label,
        "part": part,
        "keyword": number,
    }
