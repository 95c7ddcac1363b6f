"""Numbers in comments: (H) HEiMDaL dossier 10, (K) kws_benchmarks 8."""

import pytest
import torch
from lightsleeper.nn.bc_resnet import MELS, SubSpectralNorm, trunk, trunk_width
from nn.test_causal import seen, shaken, streamed
from torch import nn


# K6
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("tau", "count"), [(1, 9_232), (1.5, 17_154), (2, 27_284), (3, 54_168), (6, 187_812), (8, 321_068)]
)
def test_the_parameters_are_as_many_as_published_for_twelve_classes(tau: float, count: int, causal: bool):
    classifier = nn.Conv1d(trunk_width(tau), 12, 1)
    assert sum(value.numel() for part in (trunk(tau, causal), classifier) for value in part.parameters()) == count


# H3
def test_an_output_sees_117_frames():
    causal, centred = shaken(trunk(1, causal=True)).double(), shaken(trunk(1, causal=False)).double()
    assert (causal.past, causal.future) == (116, 0)
    assert (centred.past, centred.future) == (58, 58)
    assert seen(causal, MELS, 150, 130) == [14, 130]
    assert seen(centred, MELS, 150, 70) == [12, 128]


# H2
@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_causal_network_streams(size: int):
    net = shaken(trunk(1, causal=True)).double()
    x = torch.randn(2, MELS, 130, dtype=torch.float64)
    with torch.no_grad():
        assert (streamed(net, x, [size]) - net(x)).abs().max() <= 1e-10


def test_the_state_is_that_of_the_dossier():
    # 240 b for the blocks, 4 frames of input for the stem, 4 of 5 rows for the classifier (papers/heimdal 6c).
    assert trunk(1, causal=True).state_size == 240 * 8 + 4 * 40 + 4 * 5 * 20


def test_bands_of_neighbouring_rows_have_statistics_of_their_own():
    x = torch.randn(16, 2, 10, 50) * torch.arange(1, 11).view(1, 1, 10, 1)
    y = SubSpectralNorm(2).train()(x)
    for band in range(5):
        part = y[:, 1, 2 * band : 2 * band + 2]
        assert abs(float(part.mean())) < 1e-5
        assert abs(float(part.std()) - 1) < 1e-3


def test_widths_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="tau must be a multiple of 0.25"):
        trunk(1.1, causal=True)
