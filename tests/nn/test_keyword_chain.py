"""The invariants of the HEiMDaL dossier, section 9.3, and its golden decode, 9.2."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.keyword_chain import (
    FILLER,
    FIRST,
    FLOOR,
    NOT_KEYWORD,
    SILENCE,
    KeywordChain,
    sample_windows,
    state_loss,
    state_targets,
    take_windows,
)

HALF = math.log(0.5)


def best_path(scores: torch.Tensor, begin: int, end: int, stay: float) -> float:
    """Best sum over all monotone paths from the first state at ``begin`` to the last one at ``end``, one by one."""
    states = scores.shape[0]

    def go(frame: int, state: int) -> float:
        value = float(scores[state, frame])
        if frame == end:
            return value if state == states - 1 else -math.inf
        rest = [math.log(stay) + go(frame + 1, state)]
        if state + 1 < states:
            rest.append(math.log(1 - stay) + go(frame + 1, state + 1))
        return value + max(rest)

    return go(begin, 0)


def test_the_golden_decode():
    rows = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]]
    scores = torch.tensor(rows, dtype=torch.float64).log().T[None]
    chain = KeywordChain(3)
    value, age, _ = chain.paths(scores, chain.initial(scores))
    assert age[0].tolist() == [0, 0, 3, 3, 4, 5]
    assert (torch.arange(6) - age[0] + 1)[2:].tolist() == [0, 1, 1, 1]  # entry times
    assert torch.allclose(
        value[0, 2:], torch.tensor([-5.2495, -3.4578, -3.8144, -4.7307], dtype=torch.float64), atol=5e-5
    )
    score, frames = chain(scores)[0]
    assert score[:2].tolist() == [FLOOR, FLOOR]
    assert int(score.argmax()) == 5
    assert [round(float(v), 4) for v in score[4:]] == [-0.9536, -0.9461]
    assert torch.equal(frames, age[0])


@given(
    states=st.integers(1, 4), frames=st.integers(1, 8), stay=st.sampled_from([0.3, 0.5, 0.8]), seed=st.integers(0, 999)
)
@settings(max_examples=25, deadline=None)
def test_the_recursion_finds_the_best_of_all_paths(states: int, frames: int, stay: float, seed: int):
    scores = torch.randn(1, states, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    chain = KeywordChain(states, stay, longest=10)
    value, age, _ = chain.paths(scores, chain.initial(scores))
    for end in range(frames):
        paths = {begin: best_path(scores[0], begin, end, stay) for begin in range(end + 1)}
        best = max(paths, key=paths.__getitem__)
        if paths[best] == -math.inf:
            assert age[0, end] == 0
            continue
        # With 0 for entering, a path that was beaten in its first states could only come second at the end.
        assert abs(float(value[0, end]) - paths[best]) < 1e-12
        assert end - int(age[0, end]) + 1 == best


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_stream_equals_the_whole_and_the_entry_never_goes_back(sizes: list[int], seed: int):
    scores = torch.randn(3, 4, 40, generator=torch.Generator().manual_seed(seed))
    chain = KeywordChain(4, longest=12)
    state, parts, at, number = chain.initial(scores), [], 0, 0
    while at < 40:
        end = at + sizes[min(number, len(sizes) - 1)]
        y, state = chain.stream(scores[..., at:end], state)
        parts.append(y)
        at, number = end, number + 1
    found = torch.cat(parts, -1)
    assert torch.equal(found, chain(scores))
    age = found[:, 1]
    assert age.max() <= 12
    entry = torch.arange(40) - age + 1
    for row in range(3):
        alive = entry[row][age[row] > 0]
        assert (alive.diff() >= 0).all()


def test_a_constant_added_to_all_log_posteriors_changes_nothing_against_the_filler():
    log_probs = torch.randn(1, 6, 20, dtype=torch.float64)
    chain = KeywordChain(4)

    def ratios(values: torch.Tensor) -> torch.Tensor:
        return chain(values[:, 2:] - values[:, 1:2])

    assert torch.allclose(ratios(log_probs), ratios(log_probs + 3.7), atol=1e-12)


def test_a_path_that_grows_too_old_is_dropped_and_nothing_grows_with_time():
    chain = KeywordChain(2, longest=5)
    state = chain.initial(torch.zeros(1, 1))
    for _ in range(40):
        y, state = chain.stream(torch.full((1, 2, 25), 3.0), state)  # every frame speaks for the keyword
        assert state.abs().max() <= 5 * 3
        assert y[0, 1].max() <= 5


def test_the_gradient_follows_the_best_path():
    scores = torch.tensor([[[2.0, 2.0, -9.0, -9.0], [-9.0, -9.0, 2.0, 2.0]]], requires_grad=True)
    chain = KeywordChain(2)
    value, _, _ = chain.paths(scores, chain.initial(scores))
    value[0, 3].backward()
    assert scores.grad[0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    batch = torch.randn(3, 4, 20, requires_grad=True)
    chain = KeywordChain(4)
    chain(batch)[:, 0].sum().backward()
    assert batch.grad.isfinite().all()


@given(states=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_a_window_is_scored_by_its_best_path_from_first_to_last_frame(states: int, seed: int):
    scores = torch.randn(3, states, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([7, 4, 1])
    found = KeywordChain(states, 0.3).window_scores(scores, lengths)
    for row, length in enumerate(lengths.tolist()):
        best = best_path(scores[row], 0, length - 1, 0.3)
        expected = FLOOR if best == -math.inf else best / length
        assert abs(float(found[row]) - expected) < 1e-12


NAN = float("nan")


def test_states_share_the_keyword_evenly_where_its_phones_are_not_known():
    times = (torch.arange(100, dtype=torch.double) + 1) * 0.02
    targets = state_targets(times, torch.tensor([0.4, NAN]), torch.tensor([1.0, NAN]), None, 6)
    counts = [int((targets[0] == FIRST + k).sum()) for k in range(6)]
    assert counts == [5] * 6
    assert (targets[0] == NOT_KEYWORD).sum() == 70
    assert (targets[1] == NOT_KEYWORD).all()


def test_each_phone_has_its_share_of_the_states_by_its_own_length():
    times = (torch.arange(50, dtype=torch.double) + 1) * 0.02
    phones = torch.zeros(1, 100, dtype=torch.long)
    phones[0, 20:30], phones[0, 30:70], phones[0, 70:80] = 5, 9, 7
    targets = state_targets(times, torch.tensor([0.2]), torch.tensor([0.7]), phones, 4)
    at = {round(float(t), 2): int(k) for t, k in zip(times, targets[0], strict=True)}
    assert [at[t] for t in (0.22, 0.26, 0.30)] == [FIRST, FIRST, FIRST + 1]
    assert {at[round(0.32 + 0.02 * k, 2)] for k in range(20)} == {FIRST + 2, FIRST + 3}
    assert (at[0.1], at[0.76], at[0.9]) == (SILENCE, FILLER, SILENCE)


def test_what_is_no_keyword_may_be_silence_or_filler():
    log_probs = torch.randn(2, 5, 4).log_softmax(1)
    targets = torch.tensor([[NOT_KEYWORD, 3, -1, SILENCE], [-1, -1, -1, -1]])
    p = log_probs.exp()
    expected = -((p[0, 0, 0] + p[0, 1, 0]).log() + p[0, 3, 1].log() + p[0, 0, 3].log()) / 3
    assert torch.allclose(state_loss(log_probs, targets), torch.stack([expected, torch.tensor(0.0)]))


def test_windows_are_drawn_by_their_overlap_with_the_keyword():
    begin, end = torch.tensor([0.5, 1.0]), torch.tensor([1.1, 1.5])

    def overlap(row: int, start: int, length: int) -> float:
        a, b = start * 0.02, (start + length) * 0.02
        shared = max(0.0, min(b, float(end[row])) - max(a, float(begin[row])))
        return shared / (max(b, float(end[row])) - min(a, float(begin[row])))

    for low, high in ((0.8, 1.0), (0.0, 0.4)):
        start, lengths = sample_windows(begin, end, 100, 0.02, 8, low, high)
        assert start.shape == lengths.shape == (2, 8)
        for row in range(2):
            for first, length in zip(start[row].tolist(), lengths[row].tolist(), strict=True):
                if high == 1 or length:
                    assert low - 0.05 <= overlap(row, first, length) <= high + 1e-6
                    assert first + length <= 100


def test_windows_are_taken_out_of_the_scores():
    scores = torch.arange(2 * 3 * 10.0).view(2, 3, 10)
    start, lengths = torch.tensor([[0, 7], [2, 4]]), torch.tensor([[3, 3], [2, 4]])
    found = take_windows(scores, start, lengths)
    assert found.shape == (4, 3, 4)
    assert torch.equal(found[1, :, :3], scores[0, :, 7:10])
    assert torch.equal(found[3], scores[1, :, 4:8])


@pytest.mark.parametrize("arguments", [{"states": 0}, {"states": 4, "longest": 3}, {"states": 2, "stay": 1.0}])
def test_chains_without_sense_are_refused(arguments: dict):
    with pytest.raises(ValueError, match="chain of|stay must be"):
        KeywordChain(**arguments)
