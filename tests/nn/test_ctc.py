import itertools

import pytest
import torch
from lightsleeper.nn.ctc import LOWEST, greedy_phones, keyword_score, keyword_score_static


def _log_probs(frames: int, classes: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, frames, classes, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_score_equals_the_sum_over_all_paths() -> None:
    log_probs = _log_probs(5, classes=4)
    phones = [1, 3, 3]
    total = torch.tensor(-torch.inf)
    for path in itertools.product(range(4), repeat=5):
        collapsed = [p for p, before in zip(path, (0, *path), strict=False) if p not in (0, before)]
        if collapsed == phones:
            total = torch.logaddexp(total, sum(log_probs[0, t, p] for t, p in enumerate(path)))
    expected = (total - log_probs.amax(-1).sum()) / 3
    score = keyword_score(log_probs, torch.tensor([5]), torch.tensor([phones]))
    torch.testing.assert_close(score[0], expected)


@pytest.mark.parametrize("frames", [1, 4, 17, 50])
@pytest.mark.parametrize("phones", [[7], [7, 7, 9], [1, 2, 3, 3, 3, 1]])
def test_the_exported_form_equals_the_batched_one(frames: int, phones: list[int]) -> None:
    log_probs = _log_probs(frames, seed=frames)
    batched = keyword_score(log_probs, torch.tensor([frames]), torch.tensor([phones]))
    padded = torch.tensor(phones + [0] * 5)
    static = keyword_score_static(log_probs, padded[None], torch.tensor([len(phones)]))
    torch.testing.assert_close(static, batched, atol=1e-4, rtol=1e-5)


def test_rows_of_the_exported_form_equal_their_own_clip() -> None:
    frames, counts = torch.tensor([12, 20, 7]), torch.tensor([3, 5, 1])
    phones = torch.randint(1, 40, (3, 6)) * (torch.arange(6) < counts[:, None])
    log_probs = torch.cat([_log_probs(20, seed=row) for row in range(3)])
    together = keyword_score_static(log_probs, phones, counts, frames)
    torch.testing.assert_close(together, keyword_score(log_probs, frames, phones), atol=1e-4, rtol=1e-5)


def test_phones_that_do_not_fit_score_lowest_not_zero() -> None:
    score = keyword_score(_log_probs(2), torch.tensor([2]), torch.tensor([[1, 2, 3]]))
    assert score.tolist() == [LOWEST]


def test_padding_frames_do_not_count() -> None:
    log_probs = _log_probs(20)
    alone = keyword_score(log_probs[:, :12], torch.tensor([12]), torch.tensor([[4, 5]]))
    padded = keyword_score(log_probs, torch.tensor([12]), torch.tensor([[4, 5]]))
    torch.testing.assert_close(alone, padded)


def test_what_was_said_scores_highest() -> None:
    log_probs = torch.full((1, 6, 40), -8.0)
    for frame, phone in enumerate([0, 5, 5, 0, 9, 0]):
        log_probs[0, frame, phone] = 0.0
    log_probs = log_probs.log_softmax(-1)
    said, other = (keyword_score(log_probs, torch.tensor([6]), torch.tensor([p])) for p in ([5, 9], [5, 8]))
    assert said > other + 1
    assert greedy_phones(log_probs, torch.tensor([6])) == [[5, 9]]
    assert greedy_phones(log_probs, torch.tensor([3])) == [[5]]
