"""Padding of batches and the order of training."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data import batch as batch_module
from lightsleeper.data.batch import BucketBatchSampler, collate_evaluation, collate_training


def item(samples: int, phones: list[int], **more: object) -> dict:
    return {
        "audio": np.full(samples, 0.5, np.float32),
        "phones": phones,
        "words": [0] * len(phones),
        "text": "x",
        **more,
    }


def test_training_batch_pads_audio_and_phones_with_zeros_and_words_with_minus_one() -> None:
    batch = collate_training([item(4, [3, 4], index=7), item(2, [5], index=9)])
    assert batch["audio"].shape == (2, 4)
    assert batch["audio"].dtype == torch.float32
    assert batch["audio"][1].tolist() == [0.5, 0.5, 0, 0]
    assert batch["audio_lengths"].tolist() == [4, 2]
    assert batch["phones"].tolist() == [[3, 4], [5, 0]]
    assert batch["words"].tolist() == [[0, 0], [0, -1]]
    assert batch["index"].tolist() == [7, 9]
    assert batch["text"] == ["x", "x"]
    assert "negative_phones" not in batch


def test_negatives_become_one_tensor_of_clips_by_negatives_by_phones() -> None:
    rows = [
        item(2, [1], index=0, negative_phones=[[1, 2, 3], [4]], negative_words=[[0, 0, 1], [0]]),
        item(2, [1], index=1, negative_phones=[[5], [6, 7]], negative_words=[[0], [0, 1]]),
    ]
    batch = collate_training(rows)
    assert batch["negative_phones"].tolist() == [[[1, 2, 3], [4, 0, 0]], [[5, 0, 0], [6, 7, 0]]]
    assert batch["negative_words"].tolist() == [[[0, 0, 1], [0, -1, -1]], [[0, -1, -1], [0, 1, -1]]]


def test_rows_with_different_numbers_of_negatives_are_refused() -> None:
    rows = [
        item(2, [1], index=0, negative_phones=[[1]], negative_words=[[0]]),
        item(2, [1], index=1, negative_phones=[[1], [2]], negative_words=[[0], [0]]),
    ]
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        collate_training(rows)


def test_evaluation_batch_carries_labels_and_identities_as_int64() -> None:
    row = item(2, [1], label=1, kind=2, episode=5, word_count=1, clip=3)
    batch = collate_evaluation([row, row])
    for name, value in {"label": 1, "kind": 2, "episode": 5, "word_count": 1, "clip": 3}.items():
        assert batch[name].tolist() == [value, value]
        assert batch[name].dtype == torch.int64


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 300),
    size=st.integers(1, 40),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
    drop=st.booleans(),
)
def test_every_clip_comes_once_an_epoch_and_len_is_right(
    count: int, size: int, seed: int, epoch: int, drop: bool
) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, count)
    sampler = BucketBatchSampler(lengths, size, seed, drop_last=drop, bucket_batches=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    seen = [clip for batch in batches for clip in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (count // size * size if drop else count)
    assert all(len(batch) <= size for batch in batches)
    if drop:
        assert all(len(batch) == size for batch in batches)


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatchSampler(np.arange(500), 16, seed)
        sampler.set_epoch(epoch)
        list(sampler)  # an earlier pass leaves no trace
        return list(sampler)

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 4)
    assert order(1, 3) != order(2, 3)


def test_batches_hold_clips_of_similar_length() -> None:
    lengths = np.random.default_rng(0).uniform(0.5, 3, 2000)

    def padding(bucket_batches: int) -> float:
        sampler = BucketBatchSampler(lengths, 32, bucket_batches=bucket_batches)
        return sum(lengths[b].max() * len(b) for b in sampler) / lengths.sum()

    assert padding(50) < 1.05 < 1.4 < padding(1)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_and_all_get_the_same_number(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = BucketBatchSampler(np.arange(100), 8)
    whole = [tuple(batch) for batch in sampler]
    parts = []
    for rank in range(world):
        monkeypatch.setattr(batch_module, "_ranks", lambda rank=rank: (rank, world))
        parts.append([tuple(batch) for batch in sampler])
        assert len(parts[-1]) == len(sampler)
    together = Counter(batch for part in parts for batch in part)
    assert set(together) == set(whole)
    assert sum(together.values()) == -(-len(whole) // world) * world


def test_lightning_finds_set_epoch_and_may_rebuild_the_sampler_for_ddp() -> None:
    from lightning.fabric.utilities.data import _replace_dunder_methods, _set_sampler_epoch
    from lightning.pytorch.utilities.data import _update_dataloader
    from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

    clips = list(range(40))
    with _replace_dunder_methods(DataLoader, "dataset"), _replace_dunder_methods(BatchSampler):
        loader = DataLoader(clips, batch_sampler=BucketBatchSampler(clips, 4, seed=3))
    rebuilt = _update_dataloader(loader, DistributedSampler(clips, num_replicas=2, rank=0))
    for each in (loader, rebuilt):
        _set_sampler_epoch(each, 5)
        assert each.batch_sampler.epoch == 5
    assert list(rebuilt.batch_sampler) == list(loader.batch_sampler)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        BucketBatchSampler([1, 2], 0)
