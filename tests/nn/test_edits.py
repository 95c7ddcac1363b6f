import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.nn.edits import MARGINS, edits, margins

CLASSES = 5


def best_path(log_probs: torch.Tensor, text: list[int]) -> float:
    """Viterbi over blank, label, blank, ..., one state at a time: the reference."""
    states = [0]
    for label in text:
        states += [label, 0]
    best = [float(log_probs[0, c]) if place < 2 else -torch.inf for place, c in enumerate(states)]
    for frame in log_probs[1:]:
        new = []
        for place, c in enumerate(states):
            came = [best[place]] + ([best[place - 1]] if place else [])
            if place > 1 and c and c != states[place - 2]:
                came.append(best[place - 2])
            new.append(max(came) + float(frame[c]))
        best = new
    return max(best[-2:]) if text else best[0]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000), frames=st.lists(st.integers(4, 9), min_size=1, max_size=3), longest=st.integers(1, 3)
)
def test_every_neighbour_scores_as_its_own_best_path(seed: int, frames: list[int], longest: int):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(frames)
    log_probs = (2 * torch.randn(len(frames), 9, CLASSES, generator=generator)).log_softmax(-1)
    counts = torch.randint(1, longest + 1, (len(frames),), generator=generator)
    drawn = torch.randint(1, 4, (len(frames), longest), generator=generator)  # few classes: phones repeat
    phones = torch.where(torch.arange(longest) < counts[:, None], drawn, 0)
    found = edits(log_probs, lengths, phones)

    def same(value: torch.Tensor, row: int, text: list[int]) -> None:
        expected = best_path(log_probs[row, : frames[row]], text)
        if expected == -torch.inf:
            assert value < -1e4
        else:
            assert float(value) == pytest.approx(expected, abs=1e-4)

    for row, count in enumerate(counts.tolist()):
        text = phones[row, :count].tolist()
        same(found.own[row], row, text)
        for k in range(count):
            same(found.left_out[row, k], row, text[:k] + text[k + 1 :])
        for c in range(1, CLASSES):
            for k in range(count):
                same(found.replaced[row, k, c], row, [*text[:k], c, *text[k + 1 :]])
            for k in range(count + 1):
                same(found.put_in[row, k, c], row, [*text[:k], c, *text[k:]])


def heard(*phones: int) -> torch.Tensor:
    """A clip (1, N, 40) that clearly says these classes, frame by frame."""
    log_probs = torch.full((1, len(phones), 40), -9.0)
    log_probs[0, torch.arange(len(phones)), torch.tensor(phones)] = 0.0
    return log_probs.log_softmax(-1)


def test_margins_say_what_is_wrong_with_a_text_and_where():
    clip, frames = heard(0, 5, 5, 0, 9, 0, 7, 0), torch.tensor([8])
    ahead, _, fit = margins(clip, frames, torch.tensor([[5, 9, 7]]))
    assert ahead.shape == (1, 3, MARGINS)
    assert ahead.min() > 5  # nothing near it is as good
    assert float(fit) == pytest.approx(0, abs=1e-3)
    ahead, rival, fit = margins(clip, frames, torch.tensor([[5, 8, 7]]))  # 9 was said
    assert ahead[0, 1, 0] < -5
    assert rival[0, 1] == 9
    assert ahead[0, 0, 0] > 5
    assert float(fit) < -2
    ahead, _, _ = margins(clip, frames, torch.tensor([[5, 7, 0]]))  # 9 is missing behind the first phone
    assert ahead[0, 0, 4] < -5
    assert ahead[0, 1, 3] < -5
    ahead, _, _ = margins(clip, frames, torch.tensor([[5, 9, 3, 7]]))  # 3 was not said
    assert ahead[0, 2, 2] < -5


def test_padding_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    log_probs = (2 * torch.randn(2, 12, 40, generator=generator)).log_softmax(-1)
    phones = torch.tensor([[3, 9, 9, 20], [7, 0, 0, 0]])
    together = margins(log_probs, torch.tensor([12, 7]), phones)
    alone = margins(log_probs[1:, :7], torch.tensor([7]), phones[1:, :1])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:, :1] if both.ndim > 1 else both[1:], one)
    assert together[0][1, 1:].abs().max() == 0


def test_a_clip_too_short_for_a_text_gives_numbers():
    ahead, _, fit = margins(heard(5, 9), torch.tensor([2]), torch.tensor([[5, 5, 9]]))
    assert ahead.isfinite().all()
    assert fit.isfinite().all()
