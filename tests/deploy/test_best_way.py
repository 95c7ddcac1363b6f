"""Evaluation over pronunciations against trying each of them by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightsleeper.data.batch import collate_evaluation
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.pronunciation import pronunciations
from lightsleeper.deploy.best_way import BestWay
from lightsleeper.errors import UserError

TEXTS = ("read", "either route", "stop", "the data")


def row(text: str, number: int) -> dict:
    said = Lexicon.default().pronounce(text)
    of_pair = {"label": 1, "kind": 0, "episode": number, "word_count": 1, "clip": number}
    return {"audio": torch.full((5 + number,), float(number)), "phones": said.phones, "words": said.words,
            "text": text, **of_pair}  # fmt: skip


def value(audio: torch.Tensor, phones: list[int], words: list[int]) -> float:
    """Any number that all of a row decide."""
    return float(audio[0]) + sum((place + 1) * phone % 17 for place, phone in enumerate(phones)) + 0.5 * max(words)


def score(batch: dict) -> dict[str, torch.Tensor]:
    values = []
    for audio, samples, phones, words in zip(
        batch["audio"], batch["audio_lengths"], batch["phones"], batch["words"], strict=True
    ):
        held = int((phones > 0).sum())
        assert (words[held:] == -1).all()
        values.append(value(audio[:samples], phones[:held].tolist(), words[:held].tolist()))
    return {"shipped": torch.tensor(values), "other": -torch.tensor(values)}


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6), st.integers(1, 8))
def test_each_scorer_has_its_best_way(texts: list[str], most: int) -> None:
    rows = [row(text, number) for number, text in enumerate(texts)]
    found = BestWay(score, Lexicon.default(), most)(collate_evaluation(rows))
    for number, (text, entry) in enumerate(zip(texts, rows, strict=True)):
        ways = pronunciations(text, Lexicon.default(), most=most)
        by_hand = [value(entry["audio"], way.phones, way.words) for way in ways]
        assert found["shipped"][number] == max(by_hand)
        assert found["other"][number] == -min(by_hand)


def test_what_the_batch_holds_is_tried_first_and_own_words_have_no_other_way() -> None:
    entry = row("read", 0)
    own = {"read": "D EY1 T AH0"}
    entry["phones"] = Lexicon.default().pronounce("read", own).phones
    entry["words"] = [0] * len(entry["phones"])
    found = BestWay(score, Lexicon.default(), 8, own)(collate_evaluation([entry]))
    assert found["shipped"].tolist() == [value(entry["audio"], entry["phones"], entry["words"])]


def test_a_wrong_phone_of_the_users_is_named() -> None:
    with pytest.raises(UserError, match="'XX' is no ARPAbet phone"):
        BestWay(score, Lexicon.default(), 2, {"read": "XX"})
