"""Numbers in comments: papers/dynamic_conformer, section 11."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.causal import Chain
from lightsleeper.nn.conformer import Subsampling
from lightsleeper.nn.windows import Steps, Windowing, Windows


# 1
def test_120_frames_make_29_steps_and_six_outputs():
    windowing = Windowing()
    assert (windowing.frames, windowing.steps, windowing.outputs, windowing.pool) == (120, 29, 6, 24)
    assert (windowing.receptive_s, windowing.slide_samples) == (1.0, 3840)


# 1, 11b
def test_three_seconds_hold_eight_whole_windows_and_48_steps():
    windowing = Windowing()
    assert windowing.count(298) == 8
    assert 8 * windowing.outputs == 48
    assert windowing.count(119) == 0


@pytest.mark.parametrize(
    ("window", "slide", "expected"),
    [(1200, 50, "slide_ms"), (1210, 240, "window_ms"), (1200, 0, "slide_ms"), (240, 240, "leave 40 ms")],
)
def test_sizes_that_do_not_fit_are_refused(window: int, slide: int, expected: str):
    with pytest.raises(ValueError, match=expected):
        Windowing(window, slide)


def test_output_steps_begin_to_see_every_40_ms_one_lead_before_their_hop():
    begin = Windowing().begin_s(torch.tensor([0, 4, 5]))
    assert begin.shape == (3, 6)
    assert begin[0, 0] == pytest.approx(-0.975)
    assert begin[1, 0] == pytest.approx(-0.015)
    assert begin.flatten()[6:].diff().tolist() == pytest.approx([0.04] * 11)


# 1: the whole windows of the stream are those of the features, subsampled one by one
@torch.no_grad()
def test_windows_of_a_stream_are_the_windows_of_its_features():
    windowing = Windowing(800, 160)
    subsampling = Subsampling(10, 8, "conv1d").eval()
    features = torch.randn(2, 10, 160)
    windows = Chain(Steps(subsampling, 10), Windows(8, windowing))(features)
    assert windows.shape == (2, 10, windowing.steps, 8)
    for number in range(windowing.count(160)):
        start = number * windowing.slide_frames
        alone = subsampling(features[:, :, start : start + windowing.frames].transpose(1, 2))
        hop = number + (windowing.window_ms - windowing.slide_ms) // windowing.slide_ms
        assert torch.allclose(windows[:, hop], alone, atol=1e-6)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6), kind=st.sampled_from(["conv1d", "conv2d"]))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_any_chunks_of_whole_hops_give_the_same_windows(sizes: list[int], kind: str):
    windowing = Windowing(480, 120)
    chain = Chain(Steps(Subsampling(9, 6, kind), 9), Windows(6, windowing)).double().eval()  # type: ignore[arg-type]
    features = torch.randn(1, 9, sum(sizes) * windowing.slide_frames, dtype=torch.double)
    state, parts, at = chain.initial(features), [], 0
    for size in sizes:
        end = at + size * windowing.slide_frames
        part, state = chain.stream(features[..., at:end], state)
        parts.append(part)
        at = end
    assert (torch.cat(parts, 1) - chain(features)).abs().max() <= 1e-12
