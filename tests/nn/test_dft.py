import pytest
import torch
from lightsleeper.nn.dft import WindowedPower


@pytest.mark.parametrize(
    ("window", "hop"), [(480, 160), (400, 160), (512, 128), (30, 10), (21, 7), (16, 16), (10, 3), (7, 7), (2, 1)]
)
def test_it_equals_the_fast_transform_of_each_window(window: int, hop: int):
    torch.manual_seed(0)
    taper = torch.rand(window)
    power = WindowedPower(window, hop, taper)
    audio = torch.randn(2, (window + 5 * hop) // power.block * power.block)
    expected = torch.fft.rfft((audio.unfold(1, window, hop) * taper).double()).abs().square()
    found = power(audio)
    assert set(power.bins.tolist()) == set(range(window // 2 + 1))
    assert found.shape == (2, len(power.bins), expected.shape[1])
    assert (found - expected[..., power.bins].mT).abs().max() < 2e-6 * expected.max()


def test_a_pure_tone_leaves_other_bins_empty():
    power = WindowedPower(400, 160)
    found = power(torch.sin(2 * torch.pi * 25 * torch.arange(400) / 400)[None])[0, :, 0]
    tone = power.bins == 25
    assert found[tone].min() > 1e9 * found[~tone].max()


def test_a_bank_weighs_each_bin_once():
    power = WindowedPower(480, 160)
    audio, bank = torch.randn(1, 960), torch.rand(241, 5)
    expected = torch.fft.rfft(audio.unfold(1, 480, 160).double()).abs().square() @ bank.double()
    found = torch.nn.functional.conv1d(power(audio), power.weights(bank))
    assert (found - expected.mT).abs().max() < 1e-6 * expected.max()


def test_its_tables_are_small_and_no_weights():
    power = WindowedPower(480, 160)
    assert power.state_dict() == {}
    assert sum(table.numel() for table in (power.first, power.second)) * 4 <= 48_000
