import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.conformer import Conformer, RelativeAttention, _sinusoids, subsampled
from lightsleeper.nn.frontend import LogMel
from lightsleeper.nn.streaming import EncoderStream, bounded_state_bytes


def _randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return module.eval()


def test_53_feature_frames_give_12_encoder_frames() -> None:
    assert subsampled(53) == 12
    assert subsampled(torch.tensor([53, 3, 0])).tolist() == [12, 0, 0]
    hidden, lengths = Conformer(blocks=1)(torch.randn(1, 53, 40), torch.tensor([53]))
    assert hidden.shape == (1, 12, 144)
    assert lengths.tolist() == [12]


def test_published_size_is_3_6_million_and_block_sum_matches_the_dossier() -> None:
    encoder = Conformer(80, 144, 6, 4, 3, 4, "conv2d")
    assert sum(p.numel() for p in encoder.blocks.parameters()) == pytest.approx(3.02e6, rel=0.002)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(3.60e6, rel=0.002)


@pytest.mark.parametrize(("past", "future"), [(None, None), (3, 1), (0, 0), (2, None)])
def test_attention_equals_a_loop_over_pairs(past: int | None, future: int | None) -> None:
    attention = _randomised(RelativeAttention(16, 2, past, future, 0.0))
    x = torch.randn(2, 7, 16)
    q, k, v = (t.view(2, 7, 2, 8).transpose(1, 2) for t in attention.qkv(attention.norm(x)).chunk(3, -1))
    scores = torch.full((2, 2, 7, 7), -torch.inf)
    for i in range(7):
        for j in range(7):
            if (past is not None and i - j > past) or (future is not None and j - i > future):
                continue
            code = attention.position(_sinusoids(i - j, 1, 16, x)).view(2, 8)
            content = ((q[:, :, i] + attention.content_bias[:, 0]) * k[:, :, j]).sum(-1)
            scores[:, :, i, j] = content + ((q[:, :, i] + attention.position_bias[:, 0]) * code).sum(-1)
    mixed = (scores / 8**0.5).softmax(-1) @ v
    expected = attention.out(mixed.transpose(1, 2).reshape(2, 7, 16))
    torch.testing.assert_close(attention(x, 0, 7, None), expected, atol=1e-5, rtol=1e-5)


def test_padding_does_not_reach_valid_frames() -> None:
    encoder = _randomised(Conformer(40, 16, 2, 2, 5, 2))
    features = torch.randn(1, 80, 40)
    alone, _ = encoder(features[:, :60], None)
    padded, lengths = encoder(features, torch.tensor([60]))
    torch.testing.assert_close(padded[:, : int(lengths)], alone, atol=1e-5, rtol=1e-5)
    assert padded[:, int(lengths) :].abs().max() == 0


def test_future_limit_bounds_what_a_frame_depends_on() -> None:
    encoder = _randomised(Conformer(40, 16, 2, 2, 3, 2, past_frames=4, future_frames=1))
    past, future = encoder.context_frames()
    assert (past, future) == (2 * (4 + 1), 2 * (1 + 1))
    features = torch.randn(1, 120, 40)
    changed = features.clone()
    frame = 10
    changed[:, 4 * (frame + future) + 7 :] += 1.0  # first feature frame that encoder frame `frame` may not see
    torch.testing.assert_close(encoder(features)[0][:, : frame + 1], encoder(changed)[0][:, : frame + 1])
    assert (encoder(features)[0][:, -1] - encoder(changed)[0][:, -1]).abs().max() > 1e-3


@given(chunks=st.lists(st.integers(1, 3000), min_size=1, max_size=40), causal=st.booleans(), future=st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_streamed_equals_offline_for_any_chunking(chunks: list[int], causal: bool, future: int) -> None:
    frontend = LogMel(normalize="running")
    encoder = _randomised(Conformer(40, 16, 2, 2, 5, 2, past_frames=6, future_frames=future, causal=causal))
    samples = 400 + sum(chunks)
    audio = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    features, frames = frontend(audio, torch.tensor([samples]))
    stream, position, parts = EncoderStream(frontend, encoder), 0, []
    for chunk in [*chunks, 400]:
        parts.append(stream.push(audio[0, position : position + chunk]))
        position += chunk
        assert stream.state_bytes() <= bounded_state_bytes(frontend, encoder)
    parts.append(stream.push(torch.zeros(0), final=True))
    if subsampled(int(frames)) == 0:
        assert sum(len(p) for p in parts) == 0
        return
    torch.testing.assert_close(torch.cat(parts), encoder(features)[0][0], atol=1e-4, rtol=1e-4)


def test_streaming_refuses_encoders_that_need_the_whole_clip() -> None:
    with pytest.raises(ValueError, match="past_frames"):
        EncoderStream(LogMel(normalize="running"), Conformer(blocks=1))
    with pytest.raises(ValueError, match="normalize"):
        EncoderStream(LogMel(normalize="clip"), Conformer(blocks=1, past_frames=4, future_frames=0))


@pytest.mark.parametrize("bad", [{"past_frames": -1}, {"kernel": 4}, {"dim": 10, "heads": 4}])
def test_impossible_sizes_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be|odd|multiple"):
        Conformer(**bad)  # type: ignore[arg-type]
