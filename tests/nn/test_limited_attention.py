"""Attention with a budget: the mask, what it lets through, and the same frame by frame."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.limited_attention import (
    LimitedLayer,
    LimitedTransformer,
    context_mask,
    narrowed,
    placed,
)
from lightsleeper.nn.speaker_fusion import ForwardGRU, TwoWayGRU
from torch import Tensor, nn

ADDED = 1e-12  # float64: sums in another order
GOLDEN = ["110000", "111000", "111100", "011110", "001111", "000111"]  # papers/realtime_asd 4.6: T 6, past 2, future 1


def fusion(past: int | None, future: int | None, layers: int = 1, spread: bool = False) -> LimitedTransformer:
    torch.manual_seed(0)
    built = LimitedTransformer(16, layers, past, future, spread, heads=2).double().eval()
    for layer in built.layers:
        nn.init.normal_(layer.positions)
    return built


def frames(count: int = 13) -> Tensor:
    return torch.randn(2, count, 16, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def test_the_mask_is_the_golden_one():
    assert ["".join(map(str, row)) for row in context_mask(6, 2, 1).int().tolist()] == GOLDEN


@given(st.integers(1, 12), st.integers(0, 14), st.integers(0, 14))
def test_a_row_of_the_mask_has_its_past_itself_and_its_future(count: int, past: int, future: int):
    for row, ones in enumerate(context_mask(count, past, future).sum(1).tolist()):
        assert ones == min(row, past) + 1 + min(count - 1 - row, future)


def test_without_limits_every_frame_sees_every_frame():
    assert context_mask(5, None, None).all()
    assert torch.equal(context_mask(5, None, 0), torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize(
    ("future", "layers", "spread", "expected"),
    [
        (3, 2, False, [3, 0]),
        (3, 2, True, [2, 1]),
        (4, 3, True, [2, 1, 1]),
        (0, 2, True, [0, 0]),
        (None, 2, False, [None, None]),
    ],
)
def test_the_look_ahead_of_all_layers_is_the_one_asked_for(future, layers, spread, expected):
    assert placed(future, layers, spread) == expected
    assert future is None or sum(placed(future, layers, spread)) == future


def test_without_limits_it_is_ordinary_attention():
    torch.manual_seed(0)
    ours = LimitedLayer(16, None, None, heads=4).double().eval()
    reference = nn.TransformerEncoderLayer(
        16, 4, 64, activation=nn.functional.gelu, batch_first=True, norm_first=True, dtype=torch.double
    ).eval()
    reference.load_state_dict({
        "self_attn.in_proj_weight": ours.inward.weight, "self_attn.in_proj_bias": ours.inward.bias,
        "self_attn.out_proj.weight": ours.outward.weight, "self_attn.out_proj.bias": ours.outward.bias,
        "linear1.weight": ours.widen.weight, "linear1.bias": ours.widen.bias,
        "linear2.weight": ours.narrow.weight, "linear2.bias": ours.narrow.bias,
        "norm1.weight": ours.attention_norm.weight, "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.norm.weight, "norm2.bias": ours.norm.bias,
    })  # fmt: skip
    x = frames()
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=ADDED)


def test_without_context_it_works_frame_by_frame():
    built, x = fusion(0, 0, layers=2), frames()
    alone = torch.cat([built(x[:, [t]]) for t in range(x.shape[1])], 1)
    torch.testing.assert_close(built(x), alone, rtol=0, atol=ADDED)


@pytest.mark.parametrize(("past", "future", "layers", "spread"), [(2, 1, 1, False), (2, 2, 2, False), (3, 2, 2, True)])
def test_an_output_changes_with_the_frames_within_its_reach_and_no_other(past, future, layers, spread):
    built, x = fusion(past, future, layers, spread), frames(20)
    behind, ahead = built.reach()
    assert (behind, ahead) == (past * layers, future)
    with torch.no_grad():
        before = built(x)
        x[:, 10] *= -1
        changed = (built(x) != before).any(-1)[0].nonzero()[:, 0].tolist()  # to the bit
    assert changed == list(range(10 - ahead, 10 + behind + 1))


def stream(built, x: Tensor, steps_after: int) -> tuple[Tensor, list[float]]:
    """Outputs (B, T + steps_after, dim) step by step, and whether each was ready."""
    state = x.new_zeros(len(x), built.state_size)
    outputs, ready = [], []
    with torch.no_grad():
        for step in range(x.shape[1] + steps_after):
            present = x.new_full((len(x),), float(step < x.shape[1]))
            y, there, state = built.step(x[:, min(step, x.shape[1] - 1)], present, state)
            assert state.shape == (len(x), built.state_size)
            outputs.append(y)
            ready.append(float(there[0]))
    return torch.stack(outputs, 1), ready


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 5), st.integers(0, 4), st.integers(1, 3), st.booleans(), st.integers(1, 12))
def test_a_stream_gives_what_the_masked_clip_gives(past: int, future: int, layers: int, spread: bool, count: int):
    """From the first frame to those that are flushed, and each once, ``future`` steps after it came."""
    built, x = fusion(past, future, layers, spread), frames(count)
    found, ready = stream(built, x, future)
    assert ready == [0.0] * future + [1.0] * count
    torch.testing.assert_close(found[:, future:], built(x), rtol=0, atol=ADDED)


def test_the_state_is_two_rings_the_waiting_inputs_and_the_marks():
    built = LimitedTransformer(128, 2, past=64, future=8)
    rings = 2 * (64 + 8 + 1) * 128 + 2 * (64 + 1) * 128
    assert built.state_size == rings + 8 * 128 + (64 + 8 + 1) + (64 + 1)
    assert 4 * 2 * LimitedLayer(128, 8, 0).columns * 128 == 9216  # the table of papers/realtime_asd 4.3
    assert 4 * 2 * LimitedLayer(128, 64, 8).columns * 128 == 74_752


def test_unlimited_attention_does_not_stream():
    with pytest.raises(ValueError, match="does not stream"):
        fusion(None, 0).step(frames()[:, 0], torch.ones(2), torch.zeros(2, 1))
    assert not fusion(None, 0).streams


def test_a_budget_narrowed_for_a_call_is_that_of_a_network_built_with_it():
    wide, small = fusion(6, 3, layers=2), fusion(2, 1, layers=2)
    weights = wide.state_dict()
    for number, (mine, theirs) in enumerate(zip(wide.layers, small.layers, strict=True)):
        name = f"layers.{number}.positions"
        weights[name] = narrowed(weights[name], (mine.before, mine.after), (theirs.before, theirs.after))
    small.load_state_dict(weights)
    torch.testing.assert_close(wide(frames(), past=2, future=1), small(frames()), rtol=0, atol=ADDED)
    with pytest.raises(ValueError, match="6 frames back"):
        narrowed(wide.layers[0].positions, (6, 3), (7, 3))


def test_the_mask_holds_in_training_too():
    built, x = fusion(1, 0).train(), frames(6)
    x.requires_grad_()
    torch.manual_seed(0)
    built(x)[:, 3].sum().backward()
    assert x.grad is not None
    assert x.grad[:, [0, 1, 4, 5]].abs().max() == 0
    assert x.grad[:, [2, 3]].abs().max() > 0


# Recurrent fusions.


def test_a_forward_gru_streams_as_it_reads_a_clip():
    torch.manual_seed(0)
    gru, x = ForwardGRU(16).double().eval(), frames()
    found, ready = stream(gru, x, 0)
    assert ready == [1.0] * x.shape[1]
    torch.testing.assert_close(found, gru(x), rtol=0, atol=ADDED)


def test_a_face_that_is_not_there_leaves_the_state_as_it_is():
    gru, state = ForwardGRU(16).double(), torch.rand(2, 16, dtype=torch.double)
    _, _, after = gru.step(frames()[:, 0], torch.tensor([0.0, 1.0]), state)
    assert torch.equal(after[0], state[0])
    assert not torch.equal(after[1], state[1])


def test_the_two_grus_are_in_series():
    torch.manual_seed(0)
    fused, x = TwoWayGRU(16).double().eval(), frames()
    forward = nn.functional.gelu(fused.forward_gru(x))
    expected = nn.functional.gelu(fused.backward_gru(forward.flip(1)).flip(1))
    assert torch.equal(fused(x), expected)
    with pytest.raises(ValueError, match="does not stream"):
        fused.step(x[:, 0], torch.ones(2), torch.zeros(2, 0))
