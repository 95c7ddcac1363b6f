import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.frontend import LogMel
from lightsleeper.nn.streaming import FeatureStream


@given(st.integers(400, 6000))
@settings(max_examples=30, deadline=None)
def test_frame_count_has_no_centre_padding(samples: int) -> None:
    frontend = LogMel()
    features, frames = frontend(torch.randn(1, samples), torch.tensor([samples]))
    assert features.shape == (1, (samples - 400) // 160 + 1, 40)
    assert frames.tolist() == [(samples - 400) // 160 + 1]


@pytest.mark.parametrize(("window_ms", "hop_ms"), [(25.0, 10.0), (30.0, 10.0), (32.0, 8.0), (20.0, 20.0)])
@pytest.mark.parametrize("normalize", ["running", "none"])
def test_streamed_features_are_those_of_the_clip_and_as_many_whatever_the_chunks(
    normalize: Literal["running", "none"], window_ms: float, hop_ms: float
) -> None:
    frontend = LogMel(40, 16_000, window_ms, hop_ms, normalize)
    random = torch.Generator().manual_seed(0)
    for samples in (frontend.window - 1, frontend.window, 40 * frontend.hop + frontend.window - 1, 9001):
        audio = 0.1 * torch.randn(1, samples, generator=random)
        count = max(0, math.floor((samples - frontend.window) / frontend.hop) + 1)
        assert int(frontend.frames(torch.tensor(samples))) == count
        if not count:
            continue
        features, _ = frontend(audio, torch.tensor([samples]))
        for size in (frontend.hop, 3 * frontend.hop, 7, 777):
            stream = FeatureStream(frontend)
            found = torch.cat([stream.push(chunk) for chunk in audio[0].split(size)], 1)
            assert found.shape == features.shape == (1, count, 40)
            assert (found - features).abs().max() <= 1e-5


@pytest.mark.parametrize("normalize", ["clip", "running", "none"])
def test_padding_changes_nothing(normalize: str) -> None:
    torch.manual_seed(0)
    frontend = LogMel(normalize=normalize)  # type: ignore[arg-type]
    short = torch.randn(1, 4000) * 0.1
    padded = torch.cat([short, torch.randn(1, 3000)], dim=1)
    alone, frames = frontend(short, torch.tensor([4000]))
    beside, _ = frontend(padded, torch.tensor([4000]))
    torch.testing.assert_close(beside[:, : int(frames)], alone, atol=1e-4, rtol=1e-4)
    assert beside[:, int(frames) :].abs().max() == 0
    unpadded = frontend.center(frontend.power(short), None)
    torch.testing.assert_close(unpadded, alone, atol=1e-5, rtol=1e-5)


def test_clip_normalisation_removes_level_and_channel() -> None:
    frontend = LogMel(normalize="clip")
    audio = torch.randn(1, 8000) * 0.1
    loud, _ = frontend(audio * 3, torch.tensor([8000]))
    quiet, _ = frontend(audio, torch.tensor([8000]))
    torch.testing.assert_close(loud, quiet, atol=2e-3, rtol=0)


def test_running_normalisation_sees_no_future() -> None:
    frontend = LogMel(normalize="running")
    audio = torch.randn(1, 8000)
    changed = audio.clone()
    changed[:, 5000:] = 0.5 * torch.randn(1, 3000)
    first, _ = frontend(audio, torch.tensor([8000]))
    second, _ = frontend(changed, torch.tensor([8000]))
    unaffected = (5000 - 400) // 160
    torch.testing.assert_close(first[:, :unaffected], second[:, :unaffected])
    assert (first[:, -1] - second[:, -1]).abs().max() > 0.01


def test_a_tone_lands_in_its_mel_band() -> None:
    frontend = LogMel(normalize="none")
    time = torch.arange(8000) / 16000
    bands = [
        int(frontend.power(torch.sin(2 * torch.pi * hz * time)[None]).mean(1).argmax()) for hz in (200, 1000, 4000)
    ]
    assert bands == sorted(bands)
    assert len(set(bands)) == 3


@pytest.mark.parametrize("normalize", ["clip", "running"])
def test_faint_noise_hardly_changes_the_features_of_a_clean_clip(normalize: str) -> None:
    frontend = LogMel(normalize=normalize)  # type: ignore[arg-type]
    time = torch.arange(8000) / 16000
    clean = (0.3 * torch.sin(2 * torch.pi * 300 * time) * (1 + torch.sin(2 * torch.pi * 4 * time)))[None]
    noisy = clean + 0.001 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))  # 46 dB below
    moved = (frontend(clean, torch.tensor([8000]))[0] - frontend(noisy, torch.tensor([8000]))[0]).abs()
    raw = (frontend.power(clean) - frontend.power(noisy)).abs() * 0.33
    assert moved.max() < 0.1
    assert raw.max() > 1.0
