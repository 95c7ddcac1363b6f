"""The numbered comments refer to the test list of the DSP dossier: 1-11, 13 and 14 (12 belongs to the model)."""

import itertools
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn import partition
from lightsleeper.nn.partition import (
    dsp_distance_static,
    dsp_partition,
    equal_cuts,
    partition_distance,
    random_cuts,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = 1e-9  # float64 inputs: only the order of summation differs
SINGLE = 1e-4  # float32 inputs or results (dossier test 14)

seeds = st.integers(0, 2**31 - 1)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(audio: Tensor, tokens: Tensor, **kwargs) -> tuple[Tensor, list[int]]:
    """Distance and cuts of a single unpadded pair (n, d), (m, d)."""
    lengths = torch.tensor([len(audio)]), torch.tensor([len(tokens)])
    z, cuts = partition_distance(audio[None], tokens[None], *lengths, **kwargs)
    return z[0], cuts[0].tolist()


def distance_of(audio: Tensor, tokens: Tensor, cuts: tuple[int, ...]) -> float:
    runs = [audio[a:b].mean(0) for a, b in itertools.pairwise(cuts)]
    return float(torch.stack([(run - token).norm() for run, token in zip(runs, tokens, strict=True)]).mean())


def exhaustive(audio: Tensor, tokens: Tensor) -> tuple[float, list[int]]:
    n, m = len(audio), len(tokens)
    partitions = [(0, *inner, n) for inner in itertools.combinations(range(1, n), m - 1)]
    return min((distance_of(audio, tokens, cuts), list(cuts)) for cuts in partitions)


def suffix_table(audio: Tensor, tokens: Tensor) -> list[list[float]]:
    """D of the paper's Algorithm 1: row k-1 holds D[k][1..n]."""
    n, m = len(audio), len(tokens)
    means = [audio[i:].cumsum(0) / torch.arange(1, n - i + 1)[:, None] for i in range(n)]  # [i]: of audio[i:j], j > i
    table = [[float((means[i][-1] - tokens[-1]).norm()) for i in range(n)]]
    for k in range(2, m + 1):
        row = [float("inf")] * n
        for i in range(n - k + 1):
            run = (means[i][: n - k + 1 - i] - tokens[m - k]).norm(dim=1)
            row[i] = float((run + torch.tensor(table[-1][i + 1 : n - k + 2], dtype=run.dtype)).min())
        table.append(row)
    return table


def padded_batch(seed: int, rows: int, frames: int, tokens: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    audio_lengths = torch.randint(1, frames + 1, (rows,), generator=generator)
    token_lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    return draw(seed, rows, frames, d), draw(seed + 1, rows, tokens, d), audio_lengths, token_lengths


GOLDEN_AUDIO = torch.tensor([[1.0], [2], [6], [7], [8]], dtype=torch.float64)
GOLDEN_TOKENS = torch.tensor([[1.0], [6], [8]], dtype=torch.float64)


def test_golden_table_of_the_paper_recursion_and_its_answer():
    inf = float("inf")
    expected = [[3.2, 2.25, 1, 0.5, 0], [2, 1, 0.5, 1, inf], [1, 1.5, 6, inf, inf]]
    assert torch.allclose(torch.tensor(suffix_table(GOLDEN_AUDIO, GOLDEN_TOKENS)), torch.tensor(expected))
    z, cuts = one(GOLDEN_AUDIO, GOLDEN_TOKENS)
    assert float(z) == pytest.approx(1 / 3, abs=EXACT)
    assert cuts in ([0, 1, 4, 5], [0, 2, 3, 5])  # a tie; the dossier names the first
    assert distance_of(GOLDEN_AUDIO, GOLDEN_TOKENS, (0, 1, 4, 5)) == pytest.approx(1 / 3, abs=EXACT)


def test_golden_two_dimensional_pair_and_its_swap():
    audio = torch.tensor([[0.0, 0], [0, 2], [3, 0], [3, 2], [3, 1]])
    tokens = torch.tensor([[0.0, 1], [3, 1]])
    assert one(audio, tokens) == (0.0, [0, 2, 5])
    z, cuts = one(audio, tokens.flip(0))
    assert (float(z), cuts) == (2.25, [0, 4, 5])


# 1
@given(seeds, st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_equals_exhaustive_search_and_the_paper_recursion(seed: int, n: int, m: int, d: int):
    audio, tokens = draw(seed, n, d), draw(seed + 1, min(m, n), d)
    z, cuts = one(audio, tokens)
    best, best_cuts = exhaustive(audio, tokens)
    assert float(z) == pytest.approx(best, abs=EXACT)
    assert cuts == best_cuts
    assert suffix_table(audio, tokens)[-1][0] / len(tokens) == pytest.approx(best, abs=EXACT)


# 1, ties: values on a coarse grid, where several partitions are best and any of them will do
@given(seeds, st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_with_ties_one_of_the_best_partitions_is_found(seed: int, n: int, m: int):
    audio, tokens = draw(seed, n, 2).round(), draw(seed + 1, min(m, n), 2).round()
    z, cuts = one(audio, tokens)
    assert float(z) == pytest.approx(exhaustive(audio, tokens)[0], abs=EXACT)
    assert distance_of(audio, tokens, tuple(cuts)) == pytest.approx(float(z), abs=EXACT)


def test_as_many_frames_as_tokens_compares_them_one_by_one():
    audio, tokens = draw(0, 6, 3), draw(1, 6, 3)
    z, cuts = one(audio, tokens)
    assert cuts == list(range(7))
    assert float(z) == pytest.approx(float((audio - tokens).norm(dim=1).mean()), abs=EXACT)


# 2
@pytest.mark.parametrize("method", ["dsp", "equal", "random"])
def test_one_token_takes_all_frames_under_every_method(method: str):
    audio, tokens = draw(0, 7, 3), draw(1, 1, 3)
    z, cuts = one(audio, tokens, method=method)
    assert cuts == [0, 7]
    assert float(z) == pytest.approx(float((audio.mean(0) - tokens[0]).norm()), abs=EXACT)


# 3
@pytest.mark.parametrize("method", ["dsp", "equal", "random"])
def test_fewer_frames_than_tokens_is_infinitely_far_and_harms_no_gradient(method: str):
    audio, tokens = draw(0, 3, 4, 2).requires_grad_(), draw(1, 3, 4, 2).requires_grad_()
    z, cuts = partition_distance(audio, tokens, torch.tensor([2, 4, 4]), torch.tensor([3, 4, 0]), method=method)
    assert z.isinf().tolist() == [True, False, True]
    assert cuts[0].tolist() == cuts[2].tolist() == [0] * 5
    z[1].backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()
    assert (audio.grad[[0, 2]] == 0).all()


# 4, 5
@given(seeds, st.lists(st.integers(1, 6), min_size=2, max_size=6), st.data())
@settings(max_examples=40, deadline=None)
def test_repeated_tokens_are_found_exactly_and_order_matters(seed: int, repeats: list[int], data: st.DataObject):
    tokens = draw(seed, len(repeats), 5)
    audio = tokens.repeat_interleave(torch.tensor(repeats), dim=0)
    z, cuts = one(audio, tokens)
    assert float(z) < EXACT
    assert np.diff(cuts).tolist() == repeats
    a, b = data.draw(st.lists(st.integers(0, len(repeats) - 1), min_size=2, max_size=2, unique=True))
    order = list(range(len(repeats)))
    order[a], order[b] = order[b], order[a]
    assert float(one(audio, tokens[order])[0]) > 0.01


# 6
@given(seeds, st.integers(4, 20), st.integers(1, 4), st.floats(-100, 100))
@settings(max_examples=30, deadline=None)
def test_moving_or_rotating_both_sides_changes_nothing(seed: int, n: int, m: int, shift: float):
    audio, tokens = draw(seed, n, 4), draw(seed + 1, m, 4)
    rotation = torch.linalg.qr(draw(seed + 2, 4, 4)).Q
    z, cuts = one(audio, tokens)
    moved, moved_cuts = one(audio + shift, tokens + shift)
    turned, turned_cuts = one(audio @ rotation, tokens @ rotation)
    assert cuts == moved_cuts == turned_cuts
    assert torch.allclose(z, moved, atol=1e-8)
    assert torch.allclose(z, turned, atol=1e-8)


# 7
@given(seeds, st.sampled_from(["dsp", "equal", "random"]))
@settings(max_examples=40, deadline=None)
def test_cuts_rise_strictly_from_zero_to_the_last_frame(seed: int, method: str):
    audio, tokens, audio_lengths, token_lengths = padded_batch(seed, 6, 12, 5, 3)
    generator = torch.Generator().manual_seed(seed)
    _, cuts = partition_distance(audio, tokens, audio_lengths, token_lengths, method=method, generator=generator)
    assert cuts.dtype == torch.int64
    for row, n, m in zip(cuts, audio_lengths, token_lengths, strict=True):
        if n >= m:
            assert row[0] == 0
            assert (row[: m + 1].diff() > 0).all()
            assert (row[m:] == n).all()


# 8
@given(seeds, st.sampled_from([float("nan"), float("inf"), 1e30, -7.0]))
@settings(max_examples=25, deadline=None)
def test_padding_may_hold_anything(seed: int, garbage: float):
    audio, tokens, audio_lengths, token_lengths = padded_batch(seed, 5, 11, 4, 3)
    audio[torch.arange(11) >= audio_lengths[:, None]] = garbage
    tokens[torch.arange(4) >= token_lengths[:, None]] = garbage
    audio.requires_grad_()
    tokens.requires_grad_()
    z, cuts = partition_distance(audio, tokens, audio_lengths, token_lengths)
    z[z.isfinite()].sum().backward()
    for b, (n, m) in enumerate(zip(audio_lengths.tolist(), token_lengths.tolist(), strict=True)):
        single_audio = audio[b, :n].detach().requires_grad_()
        single, single_cuts = one(single_audio, tokens[b, :m].detach())
        assert torch.allclose(z[b], single, atol=EXACT)
        if n >= m:
            assert cuts[b, : m + 1].tolist() == single_cuts
            single.backward()
            assert torch.allclose(audio.grad[b, :n], single_audio.grad, atol=EXACT)
        assert (audio.grad[b, n:] == 0).all()
        assert (tokens.grad[b, m:] == 0).all()


# 9
@pytest.mark.parametrize("method", ["dsp", "equal"])
def test_gradient_agrees_with_finite_differences_of_the_minimum(method: str):
    audio, tokens, audio_lengths, token_lengths = padded_batch(3, 4, 7, 3, 3)
    audio_lengths += 3 - audio_lengths.clamp_max(3)

    def minimum(
        a: Tensor, t: Tensor
    ) -> Tensor:  # searched anew at every probe: the envelope argument is what is tested
        return partition_distance(a, t, audio_lengths, token_lengths, method=method)[0]

    assert torch.autograd.gradcheck(minimum, (audio.requires_grad_(), tokens.requires_grad_()))


def test_gradient_is_finite_where_the_distance_is_zero():
    tokens = draw(0, 3, 4)
    audio = tokens.repeat_interleave(2, dim=0).requires_grad_()
    z, _ = one(audio, tokens)
    z.backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


# 10
# 11
@given(seeds)
@settings(max_examples=30, deadline=None)
def test_no_baseline_partition_is_nearer_than_dsp(seed: int):
    batch = padded_batch(seed, 8, 14, 5, 3)
    best, _ = partition_distance(*batch)
    for method in ("equal", "random"):
        z, cuts = partition_distance(*batch, method=method, generator=torch.Generator().manual_seed(seed))
        assert (z >= best - EXACT).all()
        again, same_cuts = partition_distance(*batch, cuts=cuts)  # type: ignore[misc]
        assert torch.equal(z, again)
        assert torch.equal(cuts, same_cuts)


def test_random_cuts_are_even_over_all_partitions():
    draws = random_cuts(torch.full((12000,), 5), torch.full((12000,), 3), 3, torch.Generator().manual_seed(0))
    partitions, counts = draws.unique(dim=0, return_counts=True)
    assert len(partitions) == 6  # C(4, 2)
    assert (counts - 2000).abs().max() < 200  # five standard deviations


def test_equal_cuts_differ_by_at_most_one_frame():
    cuts = equal_cuts(torch.tensor([10, 7]), torch.tensor([4, 2]), 4)
    assert cuts.tolist() == [[0, 2, 5, 7, 10], [0, 3, 7, 7, 7]]


# 13
def test_cached_tokens_give_bit_identical_distances():
    audio, tokens, *lengths = padded_batch(5, 6, 20, 4, 8)
    project = nn.Linear(8, 8).double()
    fresh, _ = partition_distance(audio, project(tokens), *lengths)
    cached, _ = partition_distance(audio, project(tokens).detach().clone(), *lengths)
    assert torch.equal(fresh, cached)


# 14
@pytest.mark.parametrize("working", [torch.float64, torch.float32])
def test_long_drifting_audio_in_single_precision_agrees_with_direct_means(
    working: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(partition, "working_dtype", lambda device: working)
    audio = (draw(0, 400, 32) + 5 + torch.linspace(-2, 2, 400, dtype=torch.float64)[:, None]).float()
    tokens = (draw(1, 3, 32) + 5).float()
    z, cuts = one(audio, tokens)
    assert z.dtype == torch.float32
    assert float(z) == pytest.approx(distance_of(audio.double(), tokens.double(), tuple(cuts)), abs=SINGLE)
    assert float(z) == pytest.approx(suffix_table(audio.double(), tokens.double())[-1][0] / 3, abs=SINGLE)


def test_texts_that_share_a_clip_equal_copied_clips_with_gradients():
    audio, lengths = draw(0, 3, 12, 4), torch.tensor([12, 7, 9])
    tokens, token_lengths = draw(1, 8, 5, 4), torch.tensor([1, 2, 3, 4, 5, 5, 2, 3])
    index = torch.tensor([2, 0, 0, 1, 1, 0, 2, 2])
    shared, copied = audio.clone().requires_grad_(), audio.clone().requires_grad_()
    z, cuts = partition_distance(shared, tokens, lengths, token_lengths, audio_index=index)
    expected, expected_cuts = partition_distance(copied[index], tokens, lengths[index], token_lengths)
    assert torch.equal(cuts, expected_cuts)
    assert torch.equal(cuts, dsp_partition(audio, tokens, lengths, token_lengths, index))
    assert torch.allclose(z, expected, atol=EXACT)
    z.sum().backward()
    expected.sum().backward()
    assert torch.allclose(shared.grad, copied.grad, atol=EXACT)


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch):
    batch = padded_batch(9, 7, 10, 4, 3)
    whole = dsp_partition(*batch)
    monkeypatch.setattr(partition, "_CHUNK_BYTES", 1500)
    assert torch.equal(dsp_partition(*batch), whole)


def test_autocast_does_not_lower_the_precision():
    audio, tokens, *lengths = padded_batch(4, 4, 12, 3, 8)
    expected, _ = partition_distance(audio.float(), tokens.float(), *lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = partition_distance(audio.float(), tokens.float(), *lengths)
    assert torch.equal(z, expected)
    assert partition_distance(audio.bfloat16(), tokens.bfloat16(), *lengths)[0].dtype == torch.float32


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func: Callable, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_grows_with_frames_squared_times_channels():
    rows, frames, d = 4, 40, 64
    audio, tokens = draw(0, rows, frames, d).requires_grad_(), draw(1, rows, 5, d).requires_grad_()
    with LargestTensor() as largest:
        z, _ = partition_distance(audio, tokens, torch.full((rows,), frames), torch.full((rows,), 5))
        z.sum().backward()
    assert largest.numel <= rows * (frames + 1) * max(frames + 1, d)


@pytest.mark.parametrize(
    ("audio", "tokens", "audio_lengths", "token_lengths"),
    [((2, 5, 3), (2, 2, 4), 2, 2), ((2, 5, 3), (3, 2, 3), 2, 3), ((2, 5, 3), (2, 2, 3), 1, 2), ((5, 3), (2, 3), 1, 1)],
)
def test_shapes_that_disagree_are_refused(audio: tuple, tokens: tuple, audio_lengths: int, token_lengths: int):
    with pytest.raises(ValueError, match="expected"):
        partition_distance(draw(0, *audio), draw(1, *tokens), *map(torch.ones, (audio_lengths, token_lengths)))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method='dtw'"):
        one(draw(0, 3, 2), draw(1, 2, 2), method="dtw")


@given(seeds, st.integers(1, 16), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_static_form_equals_the_batched_one(seed: int, frames: int, tokens: int):
    audio, texts, _, token_lengths = padded_batch(seed, 3, frames, tokens, 4)
    z, cuts = dsp_distance_static(audio, texts, token_lengths)
    expected, expected_cuts = partition_distance(audio, texts, torch.full((3,), frames), token_lengths)
    assert torch.equal(cuts, expected_cuts)
    assert torch.allclose(z, expected, atol=1e-8)


@given(seeds, st.integers(2, 16), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_static_form_takes_rows_of_different_length(seed: int, frames: int, tokens: int):
    audio, texts, audio_lengths, token_lengths = padded_batch(seed, 3, frames, tokens, 4)
    z, cuts = dsp_distance_static(audio, texts, token_lengths, audio_lengths)
    expected, expected_cuts = partition_distance(audio, texts, audio_lengths, token_lengths)
    assert torch.equal(cuts, expected_cuts)
    assert torch.allclose(z, expected, atol=1e-8)


class Static(nn.Module):
    def forward(self, audio: Tensor, tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
        return dsp_distance_static(audio, tokens, token_lengths)


@pytest.mark.parametrize("most", [4, 32])
def test_exported_static_form_scores_any_length(most: int, tmp_path):
    sample = (torch.randn(1, 30, 16), torch.randn(1, most, 16), torch.tensor([3]))
    path = tmp_path / "partition.onnx"
    shapes = ({1: torch.export.Dim("frames", min=2, max=4096)}, None, None)
    names = ["audio", "tokens", "token_lengths"]
    torch.onnx.export(
        Static(),
        sample,
        path,
        input_names=names,
        dynamo=True,
        external_data=False,
        dynamic_shapes=shapes,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for frames, m in itertools.product((2, 3, 17, 50, 301), (1, 2, 4, most)):
        audio = (draw(frames, 1, frames, 16) + 3).float()
        texts = (draw(m, 1, most, 16) + 3).float()
        feeds = dict(zip(names, (audio.numpy(), texts.numpy(), np.array([m])), strict=True))
        z, cuts = session.run(None, feeds)
        expected, expected_cuts = partition_distance(audio, texts, torch.tensor([frames]), torch.tensor([m]))
        assert cuts.tolist() == expected_cuts.tolist()
        assert z[0] == pytest.approx(float(expected[0]), abs=SINGLE)


def test_a_fixed_random_draw_depends_on_its_own_row_alone():
    frames, counts = torch.tensor([12, 30, 12, 7]), torch.tensor([3, 5, 3, 7])

    def draw(rows: list[int]) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        cuts = random_cuts(frames[rows], counts[rows], 7, generator, same_for_all=True)
        return cuts.tolist()

    together = draw([0, 1, 2, 3])
    assert together[0] == together[2]
    assert [draw([row])[0] for row in range(4)] == together
    assert together[3] == list(range(8))
    assert together[1][0] == 0
    assert together[1][5:] == [30, 30, 30]
    assert sorted(set(together[1])) == together[1][:6]
