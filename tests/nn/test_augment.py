"""Augmentation of a clip depends on the clip, not on how long its neighbours in the batch are."""

import torch
import torch.nn.functional as F
from lightsleeper.nn.augment import FeatureAugment

CLIPS, FRAMES, BANDS, PADDING = 400, 30, 20, 60
FLOOR = -9.2  # the logarithm of the front end's floor


def augmented(augment: FeatureAugment, padding: int) -> torch.Tensor:
    torch.manual_seed(1)
    mel = torch.randn(1, FRAMES, BANDS).expand(CLIPS, -1, -1) - 2
    mel = F.pad(mel, (0, 0, 0, padding), value=FLOOR)
    torch.manual_seed(2)
    return augment.train()(mel, torch.full((CLIPS,), FRAMES))[:, :FRAMES]


def test_masks_are_filled_with_the_mean_of_the_clips_own_frames():
    augment, mel = FeatureAugment(), torch.randn(CLIPS, FRAMES, BANDS) - 2
    found = []
    for padded in (F.pad(mel, (0, 0, 0, PADDING), value=FLOOR), mel):
        valid = (torch.arange(padded.shape[1]) < FRAMES)[None, :, None].expand(CLIPS, -1, 1)
        torch.manual_seed(1)
        found.append(augment._mask(padded, torch.full((CLIPS,), FRAMES), valid)[:, :FRAMES])
    torch.testing.assert_close(*found)
    assert not torch.equal(found[1], mel)


def test_noise_lies_as_far_below_the_speech_whatever_the_padding():
    augment = FeatureAugment(warp=0.0, noise=1.0, freq_masks=0, time_masks=0)
    levels = [augmented(augment, padding).exp().mean() for padding in (0, PADDING)]
    assert abs(float((levels[0] / levels[1]).log())) < 0.03  # a mean over the padding too: 0.06


def test_in_evaluation_nothing_changes():
    mel = torch.randn(2, 5, 4)
    assert FeatureAugment().eval()(mel, torch.tensor([5, 3])) is mel
