import pytest
import torch
import torch.nn.functional as F
from lightsleeper.nn.p2v import PhoneTable, fallback, occurrences
from lightsleeper.phones import BLANK, CLASSES

HEAD = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(9))


def _clip(classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden frames (N, CLASSES) that are one-hot in the class heard, and log-probabilities that say so."""
    hot = F.one_hot(torch.tensor(classes), CLASSES).float()
    return hot, (8 * hot).log_softmax(-1)


def _batch(clips: list[list[int]], texts: list[list[int]]) -> tuple[torch.Tensor, ...]:
    longest = max(map(len, clips))
    heard = [_clip(clip + [BLANK] * (longest - len(clip))) for clip in clips]
    phones = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in zip(phones, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    frames = torch.tensor([len(clip) for clip in clips])
    return torch.stack([h for h, _ in heard]), torch.stack([p for _, p in heard]), frames, phones


def _everything() -> tuple[torch.Tensor, ...]:
    """A clip for each phone, said twice with blank between."""
    return _batch([[0, p, p, 0, p, 0] for p in range(1, CLASSES)], [[p, p] for p in range(1, CLASSES)])


def test_one_hot_frames_give_the_one_hot_vectors_and_a_text_their_rows() -> None:
    table = PhoneTable(CLASSES)
    table.add(*_everything())
    table.build(torch.zeros(CLASSES, CLASSES))
    assert torch.equal(table.vectors[1:], torch.eye(CLASSES)[1:])
    assert table.counts[1:].tolist() == [2.0] * (CLASSES - 1)
    assert torch.equal(table(torch.tensor([[5, 0, 9]])), torch.eye(CLASSES)[torch.tensor([[5, 0, 9]])] * (
        torch.tensor([[1.0], [0.0], [1.0]])
    ))  # fmt: skip


def test_a_clip_with_an_error_does_not_move_the_table() -> None:
    clean, wrong = _batch([[3, 3, 0, 4]], [[3, 4]]), _batch([[3, 3, 0, 4]], [[3, 5]])
    wrong[0].mul_(100)
    tables = []
    for batches in ([clean], [clean, wrong]):
        table = PhoneTable(CLASSES)
        for batch in batches:
            table.add(*batch)
        table.build(torch.zeros(CLASSES, CLASSES))
        tables.append(table)
    assert torch.equal(tables[0].vectors, tables[1].vectors)
    assert (tables[1].exact, tables[1].clips) == (1, 2)


@pytest.mark.parametrize(
    ("heard", "said", "right"),
    [
        ([7, 7, 7], [7], True),
        ([7, 0, 7], [7, 7], True),
        ([7, 7, 8], [7, 8], True),
        ([0, 0, 7, 0, 0], [7], True),
        ([7, 0, 7], [7], False),
        ([7, 7], [7, 7], False),
        ([0, 0], [7], False),
        ([7, 8], [8, 7], False),
        ([7, 8, 9], [7, 8], False),
    ],
)
def test_a_clip_counts_when_its_best_path_spells_the_text(heard: list[int], said: list[int], right: bool) -> None:
    _, seen, exact = occurrences(*_batch([heard], [said]))
    assert exact.tolist() == [right]
    assert int(seen.sum()) == (len(said) if right else 0)


def test_frames_past_the_clip_do_not_count() -> None:
    hidden, log_probs, frames, phones = _batch([[4, 4, 6, 6]], [[4]])
    assert occurrences(hidden, log_probs, torch.tensor([2]), phones)[2].tolist() == [True]


def test_an_occurrence_weighs_the_same_however_long_it_is() -> None:
    hidden, log_probs, frames, phones = _batch([[4, 4, 4, 0, 4]], [[4, 4]])
    hidden = torch.arange(5.0)[None, :, None].expand(1, 5, 2).contiguous()
    sums, seen, _ = occurrences(hidden, log_probs, frames, phones)
    assert (sums[4] / seen[4]).tolist() == [2.5, 2.5]  # mean of 1 (frames 0, 1, 2) and 4


def test_a_phone_that_nobody_said_has_a_vector_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 0.5 + 3 * HEAD + 0.1 * torch.randn(HEAD.shape, generator=generator)
    seen = torch.arange(CLASSES) < 30
    seen[BLANK] = False
    found = fallback(truth * seen[:, None], seen, HEAD)
    similar = F.normalize(found[30:]) @ F.normalize(truth[1:] - 0).T
    assert (similar.argmax(1) == torch.arange(29, CLASSES - 1)).all()
    assert found[30:].norm(dim=1).min() > 1
    assert len(found[30:].unique(dim=0)) == CLASSES - 30


def test_one_known_phone_is_enough_for_a_table_without_zeros() -> None:
    table = PhoneTable(16)
    hidden = torch.randn(1, 3, 16)
    _, log_probs, frames, phones = _batch([[7, 7, 7]], [[7]])
    table.add(hidden, log_probs, frames, phones)
    table.build(HEAD)
    assert table.vectors[1:].norm(dim=1).min() > 0
    assert table.vectors[BLANK].norm() == 0
    torch.testing.assert_close(table.vectors[7], hidden[0].mean(0))


def test_without_any_exact_clip_each_phone_has_its_classifier_row() -> None:
    table = PhoneTable(16)
    with pytest.raises(ValueError, match="was given no clip"):
        table.build(HEAD)
    _, log_probs, frames, phones = _batch([[1, 2]], [[3]])
    table.add(torch.randn(1, 2, 16), log_probs, frames, phones)
    table.build(HEAD)
    assert torch.equal(table.vectors[1:], HEAD[1:])


def test_the_table_follows_an_encoder_that_moves() -> None:
    table = PhoneTable(CLASSES)
    table.add(*_everything())
    table.build(torch.zeros(CLASSES, CLASSES))
    hidden, log_probs, frames, phones = _batch([[5, 5, 0]], [[5]])
    for _ in range(500):
        table.follow(-hidden, log_probs, frames, phones)
    torch.testing.assert_close(table.vectors[5], -torch.eye(CLASSES)[5], atol=1e-2, rtol=0)
    assert torch.equal(table.vectors[6], torch.eye(CLASSES)[6])
