import pytest
import torch
from lightsleeper.nn.dft import PowerSpectrum


@pytest.mark.parametrize("size", [2, 7, 16, 30, 400, 512])
def test_it_equals_the_fast_transform(size):
    torch.manual_seed(0)
    samples = torch.randn(2, 3, size)
    expected = torch.fft.rfft(samples.double()).abs().square()
    found = PowerSpectrum(size)(samples)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-6 * expected.max()


def test_a_pure_tone_leaves_other_bins_empty():
    tone = torch.sin(2 * torch.pi * 25 * torch.arange(400) / 400)
    power = PowerSpectrum(400)(tone)
    assert power.argmax() == 25
    assert power[torch.arange(201) != 25].max() < 1e-9 * power[25]


def test_its_tables_are_no_weights():
    assert PowerSpectrum(400).state_dict() == {}
