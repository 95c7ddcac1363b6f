"""Numbers in comments: (R) RepCNN dossier 9, (H) HEiMDaL dossier 10, (K) kws_benchmarks 8."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.causal import Chain, ExponentialMean, FrontEnd, Kept, Residual, TrailingMean, conv
from lightsleeper.nn.frontend import LogMel
from lightsleeper_callbacks.foldable import folds, put
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def shaken(module: nn.Module) -> nn.Module:
    """In eval mode with batch-norm statistics unlike fresh ones."""
    torch.manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.5)
    return module.eval()


def streamed(layer, x: Tensor, sizes: list[int]) -> Tensor:
    """Outputs of ``x`` in chunks of ``sizes`` strides, the last repeated."""
    state, parts, at, number = layer.initial(x), [], 0, 0
    while at < x.shape[-1]:
        end = at + layer.stride * sizes[min(number, len(sizes) - 1)]
        y, state = layer.stream(x[..., at:end], state)
        assert state.shape == (len(x), layer.state_size)
        parts.append(y)
        at, number = end, number + 1
    return torch.cat(parts, -1)


def network(branches: int, stride: int, dilation: int, kernel: int) -> Chain:
    torch.manual_seed(0)
    inner = Chain(conv(6, 6, 3, dilation=2, groups=6, branches=branches), nn.ReLU(), conv(6, 6, 1, branches=branches))
    return shaken(
        Chain(
            ExponentialMean(4, 9.0),
            conv(4, 6, max(kernel, stride), stride, branches=branches),
            nn.ReLU(),
            conv(6, 6, kernel, dilation=dilation, groups=6, branches=branches),
            nn.ReLU(),
            Residual(inner),
            TrailingMean(6, 3),
            nn.Conv1d(6, 2, 1),
        )
    )


# R5, H2
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    branches=st.sampled_from([0, 1, 2]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    kernel=st.integers(1, 5),
    double=st.booleans(),
    folded=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_a_stream_equals_the_whole_for_any_chunks(sizes, branches, stride, dilation, kernel, double, folded):
    net = network(branches, stride, dilation, kernel)
    if folded:
        put(net, folds(net))
    kind, tolerance = (torch.float64, 1e-10) if double else (torch.float32, 1e-5)
    net = net.to(kind)
    x = torch.randn(2, 4, 24 * stride, generator=torch.Generator().manual_seed(3)).to(kind)
    with torch.no_grad():
        assert (streamed(net, x, sizes) - net(x)).abs().max() <= tolerance


# R5, H2: whatever the stride
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_single_outputs_three_and_random_chunks_equal_the_whole(stride: int, folded: bool):
    net, random = network(2, stride, 2, 5), torch.Generator().manual_seed(0)
    if folded:
        put(net, folds(net))
    x = torch.randn(2, 4, 24 * stride, generator=random)
    for sizes in ([1], [3], torch.randint(1, 6, (24,), generator=random).tolist()):
        assert (streamed(net, x, sizes) - net(x)).abs().max() <= 1e-6


def seen(net: Chain, channels: int | None, frames: int, output: int) -> list[int]:
    """Input frames on which an output depends, by its gradient."""
    shape = (1, frames) if channels is None else (1, channels, frames)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    net(x)[..., output].sum().backward()
    moved = x.grad.abs().reshape(-1, frames).amax(0) > 0
    return [int(moved.nonzero()[0]), int(moved.nonzero()[-1])]


# H3
@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(1, 1, 3), (2, 2, 5), (3, 3, 4), (2, 1, 2)])
def test_an_output_sees_its_receptive_field_up_to_the_newest_frame_of_its_stride(stride, dilation, kernel):
    net = shaken(Chain(conv(4, 8, kernel, stride), conv(8, 8, kernel, dilation=dilation), TrailingMean(8, 2))).double()
    reach = (kernel - 1) + stride * (dilation * (kernel - 1) + 1)
    assert (net.past, net.stride) == (reach, stride)
    output = reach + 2
    newest = stride * (output + 1) - 1
    assert seen(net, 4, newest + 3 * stride, output) == [newest - reach, newest]


# R6, H1
def test_an_output_is_the_same_bit_for_bit_whatever_comes_after():
    net = network(2, 2, 2, 3)
    x = torch.randn(1, 4, 60)
    changed = x.clone()
    changed[..., 30:] = torch.randn(1, 4, 30)
    with torch.no_grad():
        before, after = net(x), net(changed)
    assert torch.equal(before[..., :15], after[..., :15])
    assert not torch.equal(before[..., 15], after[..., 15])


# R5: the state is a ring buffer of K - 1 frames.
def test_a_layer_keeps_the_frames_before_its_next_output_only():
    assert conv(4, 8, 7).state_size == 4 * 6
    assert conv(4, 8, 5, stride=2).state_size == 4 * 3
    assert conv(8, 8, 3, dilation=4, groups=8).state_size == 8 * 8
    assert conv(4, 8, 1).state_size == 0
    assert Kept(nn.Conv2d(3, 5, (3, 5), padding=(1, 0)), 4, rows=10).state_size == 3 * 10 * 4


def test_a_layer_that_looks_ahead_equals_the_padded_convolution_and_does_not_stream():
    plain = nn.Conv1d(3, 4, 5, padding=2)
    centred = Kept(nn.Conv1d(3, 4, 5), 4, future=2)
    centred.layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 20)
    assert torch.equal(centred(x), plain(x))
    with pytest.raises(ValueError, match="looks 2 frames ahead"):
        centred.stream(x, torch.zeros(2, centred.state_size))


def test_a_stride_longer_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match="a stride of 3 skips frames of a kernel that sees 2"):
        conv(4, 4, 2, stride=3)


def test_an_exponential_mean_forgets_step_by_step_and_stays_bounded():
    layer = ExponentialMean(1, 4.0).double()
    x = torch.randn(1, 1, 600, dtype=torch.float64)
    mean, expected = 0.0, []
    for value in x[0, 0].tolist():
        mean += (value - mean) / 4
        expected.append(value - mean)
    with torch.no_grad():
        found, state = layer.stream(x, layer.initial(x))  # three blocks
        assert (found[0, 0] - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-12
        assert abs(float(state) - mean) < 1e-12
        for _ in range(50):
            _, state = layer.stream(torch.ones(1, 1, 256, dtype=torch.float64), state)
    assert abs(float(state) - 1) < 1e-9


# K1
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_streamed_features_are_those_of_the_front_end_with_a_window_less_a_hop_of_silence_before(sizes: list[int]):
    front, plain = FrontEnd().eval(), LogMel(40, 16_000, 30.0, 10.0, "none")
    audio = 0.1 * torch.randn(2, 160 * 30, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(2, 320), audio], 1)
    expected = plain(padded, torch.full((2,), padded.shape[1]))[0].transpose(1, 2)
    assert expected.shape[-1] == 30  # floor((N - win) / hop) + 1
    assert (streamed(front, audio, sizes) - expected).abs().max() <= 1e-5
    assert front.state_size == 320


def test_the_newest_sample_of_a_feature_frame_is_the_last_of_its_hop():
    front = FrontEnd().eval()
    audio = 0.1 * torch.randn(1, 1600)
    changed = audio.clone()
    changed[:, 800:] = 0.1 * torch.randn(1, 800)
    before, after = front(audio), front(changed)
    assert torch.equal(before[..., :5], after[..., :5])
    assert (before[..., 5] - after[..., 5]).abs().max() > 0.01
