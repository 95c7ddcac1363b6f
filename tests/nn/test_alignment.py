import itertools

import pytest
import torch
from lightsleeper.nn.alignment import cosines, monotone_cuts, runs


def _values(rows: int, phones: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, phones, frames, generator=torch.Generator().manual_seed(seed))


def _best(values: torch.Tensor) -> float:
    """The largest sum over all monotone alignments of (M, N), one by one."""
    phones, frames = values.shape
    best = -torch.inf
    for inner in itertools.combinations(range(1, frames), phones - 1):
        cuts = [0, *inner, frames]
        best = max(best, sum(float(values[k, a:b].sum()) for k, (a, b) in enumerate(itertools.pairwise(cuts))))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_alignment_equals_the_best_of_all_alignments(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for phones in range(1, 6):
        for frames in range(phones, 10):
            values = torch.randn(1, phones, frames, generator=generator)
            cuts = monotone_cuts(values, torch.tensor([frames]), torch.tensor([phones]))
            found = float((values * runs(cuts, frames)).sum())
            assert found == pytest.approx(_best(values[0]), abs=1e-5)


def test_every_frame_has_one_phone_from_the_first_to_the_last_in_steps_of_at_most_one() -> None:
    frames, counts = torch.tensor([12, 9, 12, 5]), torch.tensor([4, 4, 1, 3])
    inside = runs(monotone_cuts(_values(4, 4, 12), frames, counts), 12)
    for row, (n, m) in enumerate(zip(frames.tolist(), counts.tolist(), strict=True)):
        mask = inside[row]
        assert mask[:, :n].sum(0).tolist() == [1] * n
        assert mask[:, n:].sum() == 0
        assert mask.sum() == n
        assert (mask.sum(1)[:m] >= 1).all()
        owner = mask[:, :n].int().argmax(0)
        assert (owner[0], owner[-1]) == (0, m - 1)
        assert set(owner.diff().tolist()) <= {0, 1}


def test_a_row_does_not_depend_on_what_it_is_padded_with() -> None:
    values = _values(3, 5, 14)
    frames, counts = torch.tensor([14, 9, 7]), torch.tensor([5, 3, 2])
    together = monotone_cuts(values, frames, counts)
    for row, (n, m) in enumerate(zip(frames.tolist(), counts.tolist(), strict=True)):
        alone = monotone_cuts(values[row : row + 1, :m, :n], frames[row : row + 1], counts[row : row + 1])
        assert together[row, : m + 1].tolist() == alone[0].tolist()
        assert set(together[row, m:].tolist()) == {n}


@pytest.mark.parametrize(("frames", "count"), [(2, 3), (0, 1), (4, 0)])
def test_too_few_frames_or_no_phone_give_no_alignment(frames: int, count: int) -> None:
    cuts = monotone_cuts(_values(1, 3, 4), torch.tensor([frames]), torch.tensor([count]))
    assert cuts.tolist() == [[0, 0, 0, 0]]
    assert not runs(cuts, 4).any()


def test_frames_made_of_repeated_tokens_are_cut_where_they_change() -> None:
    tokens = torch.eye(4)[None]
    lengths = [3, 1, 4, 2]
    frames = torch.cat([tokens[0, k].repeat(n, 1) for k, n in enumerate(lengths)])[None]
    cosine = cosines(tokens, 2.5 * frames)
    cuts = monotone_cuts(cosine, torch.tensor([10]), torch.tensor([4]))
    assert cuts[0].diff().tolist() == lengths
    assert cosine[runs(cuts, 10)].tolist() == [1.0] * 10
    backwards = cosines(tokens.flip(1), frames)
    other = monotone_cuts(backwards, torch.tensor([10]), torch.tensor([4]))
    assert (backwards * runs(other, 10)).sum() < 10 - 1


def test_the_cosine_knows_no_length_and_is_zero_beside_padding() -> None:
    tokens, frames = _values(2, 3, 8), _values(2, 5, 8, seed=1)
    torch.testing.assert_close(cosines(tokens, frames), cosines(tokens, 7 * frames))
    assert cosines(torch.zeros(1, 2, 8), frames[:1]).abs().sum() == 0
