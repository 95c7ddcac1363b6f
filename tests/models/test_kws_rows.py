import torch
from lightsleeper.models.kws_rows import best_of, evaluation_rows, spoken, training_rows
from models.batches import keyword_batch, random_batch


def test_a_clip_is_asked_its_own_text_hard_ones_and_those_of_other_clips() -> None:
    batch = random_batch(6, negatives=2)
    rows = training_rows(batch, easy_negatives=2)
    assert rows.label is not None
    assert len(rows.clip) == 6 * 5
    assert rows.label.view(6, 5).tolist() == [[1, 0, 0, 0, 0]] * 6
    assert rows.clip.view(6, 5)[:, 0].tolist() == list(range(6))
    assert torch.equal(rows.phones.view(6, 5, -1)[2, 0], batch["phones"][2])
    assert torch.equal(rows.phones.view(6, 5, -1)[2, 3], batch["phones"][3])


def test_another_clip_of_the_same_text_is_no_negative() -> None:
    batch = random_batch(3, negatives=1)
    batch["phones"][1] = batch["phones"][0]
    rows = training_rows(batch, easy_negatives=2)
    assert rows.label is not None
    asked = list(zip(rows.clip.tolist(), rows.phones.tolist(), rows.label.tolist(), strict=True))
    same = batch["phones"][0].tolist()
    assert [label for clip, phones, label in asked if clip in (0, 1) and phones == same] == [1, 1]


def test_a_batch_of_keywords_is_taken_as_it_is() -> None:
    batch = keyword_batch()
    rows = training_rows(batch, easy_negatives=5)
    assert rows.label is not None
    assert len(rows.audio) == 4
    assert rows.label.tolist() == batch["label"].tolist()
    assert torch.equal(rows.phones[3], batch["phones"][batch["text_index"][3]])


def test_what_recordings_say_is_known_from_the_positive_rows() -> None:
    batch = keyword_batch()
    phones, known = spoken(batch)
    assert known.tolist() == [True] * 4
    assert torch.equal(phones[2], batch["phones"][1])
    batch["label"] = batch["label"] * (batch["clip_index"] != 2)
    assert spoken(batch)[1].tolist() == [True, True, False, True]


def test_pairs_of_one_clip_share_its_recording() -> None:
    batch = random_batch(6) | {"clip": torch.tensor([4, 4, 7, 7, 7, 4])}
    rows, pair = evaluation_rows(batch)
    assert rows.clip.tolist() == [0, 0, 1, 1, 1, 2]
    assert torch.equal(rows.audio, batch["audio"][[0, 2, 5]])
    assert pair.tolist() == list(range(6))


def test_several_pronunciations_are_rows_of_one_pair_and_the_best_counts() -> None:
    batch = random_batch(2)
    several = torch.zeros(2, 3, 6, dtype=torch.long)
    several[:, 0], several[1, 2] = batch["phones"], batch["phones"][0]
    rows, pair = evaluation_rows(batch | {"phones": several})
    assert pair.tolist() == [0, 1, 1]
    assert rows.phones.tolist() == [several[0, 0].tolist(), several[1, 0].tolist(), several[1, 2].tolist()]
    assert best_of(torch.tensor([1.0, -3.0, -2.0]), pair, 2).tolist() == [1.0, -2.0]
