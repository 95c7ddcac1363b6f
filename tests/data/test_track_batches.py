import numpy as np
import pytest
import torch
from data.drawn_tracks import DrawnTracks
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.data.batch import SharedEpoch
from lightsleeper.data.mfcc import mfcc_of_frames
from lightsleeper.data.track_batches import FrameBudgetSampler, JudgedTracks, TrainingTracks, _joined, changed


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 900))
def test_batches_hold_at_most_the_budget_but_for_single_longer_tracks(frames, budget):
    sampler = FrameBudgetSampler(frames, budget)
    batches = list(sampler)
    assert sorted(number for batch in batches for number in batch) == list(range(len(frames)))
    assert len(batches) == len(sampler)
    for batch in batches:
        shortest = min(frames[number] for number in batch)
        assert len(batch) * shortest <= budget or len(batch) == 1
    spans = [(max(frames[n] for n in batch), min(frames[n] for n in batch)) for batch in batches]
    spans.sort(reverse=True)
    assert all(low >= high for (_, low), (high, _) in zip(spans, spans[1:], strict=False))  # similar ones together


def test_the_order_is_of_the_seed_and_the_epoch():
    frames = [50] * 30 + [40] * 30

    def batches(seed, epoch):
        sampler = FrameBudgetSampler(frames, 500, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2)
    assert batches(1, 2) != batches(1, 3)
    assert batches(1, 2) != batches(2, 2)


def test_all_tracks_of_a_batch_are_cut_to_the_shortest():
    source = DrawnTracks([12, 9, 15])
    batch = TrainingTracks(source, augment=False, seed=0, epoch=SharedEpoch()).__getitems__([0, 1, 2])
    assert batch["faces"].shape == (3, 9, 16, 16)
    assert batch["faces"].dtype is torch.uint8
    assert batch["mfcc"].shape == (3, 36, 13)
    assert batch["label"].tolist() == [[0, 1, 0] * 3] * 3
    assert batch["faces"][2, :, 0, 0].tolist() == list(range(9))
    np.testing.assert_array_equal(batch["mfcc"][0], mfcc_of_frames(source.track(0).audio, 9))


def test_augmentation_is_of_the_seed_the_epoch_and_the_batch():
    source, epoch = DrawnTracks([12] * 8), SharedEpoch()
    tracks = TrainingTracks(source, augment=True, seed=0, epoch=epoch)
    first, again = tracks.__getitems__(range(8)), tracks.__getitems__(range(8))
    assert torch.equal(first["mfcc"], again["mfcc"])
    assert torch.equal(first["faces"], again["faces"])
    epoch.set(1)
    assert not torch.equal(first["mfcc"], tracks.__getitems__(range(8))["mfcc"])


def test_half_of_the_tracks_hear_another_one():
    source = DrawnTracks([25] * 40)
    batch = TrainingTracks(source, augment=True, seed=3, epoch=SharedEpoch()).__getitems__(range(40))
    plain = np.stack([mfcc_of_frames(source.track(number).audio, 25) for number in range(40)])
    changed_ones = (np.abs(batch["mfcc"].numpy() - plain).max((1, 2)) > 1e-3).mean()
    assert 0.3 < changed_ones < 0.7


def test_what_is_added_is_another_sound_within_five_decibels():
    sounds = [DrawnTracks([25] * 3).track(number).audio[: 9000 + 3000 * number] for number in range(3)]
    ratios = []
    for seed in range(60):
        noise = _joined(sounds[2], sounds, 2, np.random.default_rng(seed)) - sounds[2]
        if noise.any():
            ratios.append(10 * np.log10(np.mean(sounds[2] ** 2) / np.mean(noise**2)))
            assert np.corrcoef(noise, sounds[2])[0, 1] < 0.1
    assert -5.1 < min(ratios) < -3
    assert 3 < max(ratios) < 5.1
    assert _joined(sounds[0], sounds[:1], 0, np.random.default_rng(0)) is sounds[0]


@pytest.fixture
def picture():
    frames = torch.zeros(3, 33, 33, dtype=torch.uint8)
    frames[:, 10:14, 4:9] = torch.tensor([50, 100, 200], dtype=torch.uint8)[:, None, None]
    return frames


def test_a_flip_mirrors_every_frame(picture):
    assert torch.equal(changed(picture, np.random.default_rng(0), "flip"), picture.flip(-1))


def test_a_turn_is_the_same_for_all_frames_and_at_most_fifteen_degrees(picture):
    angles = []
    for seed in range(30):
        turned = changed(picture, np.random.default_rng(seed), "rotate").float()
        torch.testing.assert_close(turned[0] * 4, turned[2], atol=4.0, rtol=0)  # up to rounding
        y, x = (turned[2] > 100).nonzero().float().mean(0) - 16
        angles.append(float(torch.rad2deg(torch.atan2(y, x) - torch.atan2(torch.tensor(-4.5), torch.tensor(-10.0)))))
    assert max(np.abs(angles)) < 17
    assert min(angles) < -5
    assert max(angles) > 5


def test_a_crop_enlarges_a_part_that_lies_within_the_picture(picture):
    full = torch.full((1, 33, 33), 200, dtype=torch.uint8)
    for seed in range(20):
        assert (changed(full, np.random.default_rng(seed), "crop") >= 198)[:, 1:-1, 1:-1].all()
    areas = [(changed(picture, np.random.default_rng(seed), "crop")[2] > 100).sum() for seed in range(30)]
    assert max(areas) > 1.5 * 20
    assert torch.equal(changed(picture, np.random.default_rng(0), "none"), picture)


def test_tracks_are_judged_whole_and_one_by_one():
    batch = JudgedTracks(DrawnTracks([12, 9]))[1]
    assert batch["faces"].shape == (1, 9, 16, 16)
    assert batch["mfcc"].shape == (1, 36, 13)
    assert batch["label3"].tolist() == [[0, 1, 2] * 3]
    assert batch["label"].tolist() == [[0, 1, 0] * 3]
    assert (batch["entity"], batch["video"], batch["situation"]) == ("face:1", "film", "")
    assert batch["timestamps"].shape == batch["face_px"].shape == batch["speakers"].shape == (1, 9)
