"""Which recording is asked which text: batches of every kind that keyword data give, in one form.

Training batches are either clips with their own text and drawn negatives (`data/batch.collate_training`), or the rows
of keywords (recordings, distinct texts, and which row asks what: `data/keyword_batches`). The encoder runs once per
recording in both.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.models.family import Batch
from lightsleeper.phones import BLANK


@dataclass(frozen=True)
class Rows:
    """A recordings, R rows, P phones."""

    audio: Tensor
    """(A, S) 16 kHz, zero-padded."""
    audio_lengths: Tensor
    """(A,) samples."""
    clip: Tensor
    """(R,) recording that a row hears."""
    phones: Tensor
    """(R, P) what it is asked, 0-padded."""
    label: Tensor | None = None
    """(R,) 1: it is said; None where it is not known."""


def training_rows(batch: Batch, easy_negatives: int) -> Rows:
    """The rows of a training batch. ``easy_negatives``: other clips' texts per clip, for batches that bring none."""
    if "clip_index" in batch:
        phones = batch["phones"][batch["text_index"]]
        return Rows(batch["audio"], batch["audio_lengths"], batch["clip_index"], phones, batch["label"])
    own = batch["phones"]
    groups = [own[:, None]]
    if "negative_phones" in batch:
        groups.append(batch["negative_phones"])
    groups += [own.roll(-shift, 0)[:, None] for shift in range(1, min(easy_negatives, len(own) - 1) + 1)]
    longest = max(group.shape[-1] for group in groups)
    asked = torch.cat([F.pad(group, (0, longest - group.shape[-1]), value=BLANK) for group in groups], dim=1)
    label = torch.zeros(asked.shape[:2], dtype=torch.long, device=own.device)
    label[:, 0] = 1
    # The text of another clip may be this clip's too: it is no negative then.
    kept = (label == 1) | (asked != asked[:, :1]).any(-1)
    clip = torch.arange(len(own), device=own.device)[:, None].expand_as(label)
    return Rows(batch["audio"], batch["audio_lengths"], clip[kept], asked[kept], label[kept])


def evaluation_rows(batch: Batch) -> tuple[Rows, Tensor]:
    """The rows of a batch of (clip, text) pairs, and the pair (R,) that each belongs to.

    ``phones`` is (B, P), or (B, V, P) where a text has several pronunciations: a row each, those without a phone left
    out. Pairs of one clip follow each other and share its recording.
    """
    phones = batch["phones"]
    several = phones if phones.ndim == 3 else phones[:, None]
    kept = (several != BLANK).any(-1)
    kept[:, 0] = True
    pair = torch.arange(len(phones), device=phones.device)[:, None].expand(kept.shape)[kept]
    audio, lengths, recording = batch["audio"], batch["audio_lengths"], torch.arange(len(phones), device=phones.device)
    if "clip" in batch:
        clip = batch["clip"].to(phones.device)
        first = torch.ones_like(clip, dtype=torch.bool)
        first[1:] = clip[1:] != clip[:-1]
        recording = first.cumsum(0) - 1
        audio, lengths = audio[first], lengths[first]
    return Rows(audio, lengths, recording[pair], several[kept]), pair


def spoken(batch: Batch) -> tuple[Tensor, Tensor]:
    """What the recordings of a training batch say: phones (A, P), and whether that is known (A,)."""
    if "clip_index" not in batch:
        return batch["phones"], torch.ones_like(batch["audio_lengths"], dtype=torch.bool)
    said = batch["label"] == 1
    text = torch.full_like(batch["audio_lengths"], -1)
    text[batch["clip_index"][said]] = batch["text_index"][said]
    return batch["phones"][text.clamp_min(0)], text >= 0


def best_of(scores: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """Scores (pairs,): the highest of each pair's rows."""
    empty = torch.full((pairs,), -torch.inf, dtype=scores.dtype, device=scores.device)
    return empty.scatter_reduce(0, pair, scores, "amax")
