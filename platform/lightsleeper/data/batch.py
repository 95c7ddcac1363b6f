"""Batches: the two collate functions between data and models, and the order of the training clips.

Batches are plain dicts of tensors (audio 16 kHz mono float32, zero-padded; phones 0-padded; words -1-padded).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

Item = dict[str, Any]
"""One row before collation: ``audio`` (samples,), ``phones``, ``words``, ``text`` and the keys of its batch."""


def collate_training(items: Sequence[Item]) -> dict[str, Any]:
    """Rows to a training batch.

    Each item: ``audio`` (S,) float32, ``index`` int, ``phones`` and ``words`` of its text, ``text``; with
    ``negative_phones`` and ``negative_words`` (K lists each) the batch has (B, K, P') tensors of those names, with
    ``negative_text`` (K texts) B lists.
    """
    batch = _common(items)
    batch["index"] = torch.tensor([item["index"] for item in items], dtype=torch.int64)
    if items[0].get("negative_phones"):
        batch["negative_phones"] = _pad_lists([item["negative_phones"] for item in items], 0)
        batch["negative_words"] = _pad_lists([item["negative_words"] for item in items], -1)
        if "negative_text" in items[0]:  # sounds that are nobody's spelling have none
            batch["negative_text"] = [item["negative_text"] for item in items]
    return batch


def collate_evaluation(items: Sequence[Item]) -> dict[str, Any]:
    """Rows to an evaluation batch: as training, with ``label``, ``kind``, ``episode``, ``word_count``, ``clip``."""
    batch = _common(items)
    for name in ("label", "kind", "episode", "word_count", "clip"):
        batch[name] = torch.tensor([item[name] for item in items], dtype=torch.int64)
    return batch


def _common(items: Sequence[Item]) -> dict[str, Any]:
    clips = [torch.as_tensor(item["audio"], dtype=torch.float32) for item in items]
    return {
        "audio": torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        "audio_lengths": torch.tensor([len(clip) for clip in clips], dtype=torch.int64),
        "phones": pad([item["phones"] for item in items], 0),
        "words": pad([item["words"] for item in items], -1),
        "text": [item["text"] for item in items],
    }


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(rows, longest) int64, short rows filled with ``value``."""
    table = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def _pad_lists(groups: Sequence[Sequence[Sequence[int]]], value: int) -> Tensor:
    """(groups, K, longest) int64; every group holds K lists."""
    sizes = {len(group) for group in groups}
    if len(sizes) != 1:
        raise ValueError(f"every clip needs the same number of negatives, got {sorted(sizes)}")
    flat = pad([row for group in groups for row in group], value)
    return flat.reshape(len(groups), sizes.pop(), flat.shape[1])


class SharedEpoch:
    """The epoch number, readable by data loader workers that started in an earlier epoch."""

    def __init__(self) -> None:
        self._value = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        self._value[0] = epoch

    def get(self) -> int:
        return int(self._value[0])


class BucketBatchSampler(BatchSampler):
    """Shuffled batches of clips of similar length.

    The order is a pure function of (seed, epoch), so a resumed run sees the batches that an uninterrupted one sees.
    Under torch.distributed each rank takes its share of the batches; all ranks get the same number, and where batches
    do not divide evenly the first ones of the epoch are used twice. Lightning finds ``set_epoch`` through ``sampler``.

    Args:
        lengths: length of each clip, any unit.
        batch_size: clips in a batch of one rank.
        seed: of the order.
        drop_last: leave out clips that fill no batch; which ones differs from epoch to epoch.
        epoch: told of every new epoch, for data sets whose items depend on it.
        bucket_batches: batches' worth of shuffled clips sorted by length together; more: less padding, less shuffled.
        sampler: ignored. Lightning passes a distributed sampler to batch samplers that it rebuilds.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = False,
        epoch: SharedEpoch | None = None,
        bucket_batches: int = 50,
        sampler: Any = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.bucket_batches = bucket_batches
        self.epoch = 0
        self._shared = epoch

    @property
    def sampler(self) -> "BucketBatchSampler":  # type: ignore[override]
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if self._shared is not None:
            self._shared.set(epoch)

    def __len__(self) -> int:
        count = len(self.lengths)
        whole = count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return -(-whole // _ranks()[1])

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        rank, world = _ranks()
        missing = -len(batches) % world
        batches += [batches[i % len(batches)] for i in range(missing)] if batches else []
        yield from batches[rank::world]

    def _batches(self) -> list[list[int]]:
        """All ranks' batches of this epoch."""
        rng = np.random.default_rng([self.seed, self.epoch, 2])
        order = rng.permutation(len(self.lengths))
        if self.drop_last:
            order = order[: len(order) // self.batch_size * self.batch_size]
        size = self.batch_size * self.bucket_batches
        buckets = [order[start : start + size] for start in range(0, len(order), size)]
        # Sorting is stable, so clips of equal length keep their shuffled order.
        chunks = [bucket[np.argsort(self.lengths[bucket], kind="stable")] for bucket in buckets]
        batches = [c[at : at + self.batch_size].tolist() for c in chunks for at in range(0, len(c), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def _ranks() -> tuple[int, int]:
    """(rank, world size) of torch.distributed, (0, 1) outside it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
