"""Batches of keywords: the published shape, what each row hears and is asked, and where the recordings come from."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from data.conftest import TINY
from lightsleeper.data.confusables import Confuser
from lightsleeper.data.keyword_batches import KeywordBatches
from lightsleeper.data.keyword_rows import CONFUSABLE, POSITIVE, RANDOM, KeywordRows, Spoken
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.errors import UserError

BASE = {name: value for name, value in TINY.items() if name not in ("batch_size",)}
SMALL: dict[str, Any] = {**BASE, "keywords": 4, "recordings": 3, "phrases": 12, "recordings_per_phrase": 3}


@pytest.fixture(scope="module")
def data(spoken: SpokenPhrases) -> KeywordBatches:
    """Beside the tiny corpus of phrases, twelve keywords by three voices."""
    made = KeywordBatches(**SMALL, seed=5)
    made.setup("fit")
    return made


class Numbered:
    """Recordings whose first sample is their number."""

    def audio(self, clip: int) -> np.ndarray:
        return np.full(100 + clip, clip, np.float32)

    def seconds(self, clip: int) -> float:
        return float(clip)


def made_up(count: int, each: int) -> list[Spoken]:
    rng = np.random.default_rng(0)
    sounds = [tuple(rng.integers(1, 40, 3 + i % 8).tolist()) for i in range(count)]
    return [Spoken(s, (0,) * len(s), np.arange(i * each, (i + 1) * each)) for i, s in enumerate(sounds)]


def test_the_published_batch_has_32_keywords_of_three_times_11_rows() -> None:
    rows = KeywordRows(Numbered(), made_up(40, 15), 11, Confuser())
    batch = rows.__getitems__(list(range(32)))
    assert len(batch["label"]) == 32 * 33 == 1056
    assert len(batch["audio"]) == 352
    assert len(batch["phones"]) == len(batch["words"]) == 32 + 352
    assert torch.bincount(batch["label"]).tolist() == [2 * 352, 352]
    shaped = {name: batch[name].view(32, 3, 11) for name in ("label", "part", "keyword", "clip_index", "text_index")}
    assert (shaped["label"].sum((1, 2)) == 11).all()  # 11 : 22
    assert (shaped["part"] == torch.tensor([POSITIVE, RANDOM, CONFUSABLE])[:, None]).all()
    assert torch.equal(shaped["clip_index"][:, POSITIVE], shaped["clip_index"][:, CONFUSABLE])
    assert (shaped["keyword"] == torch.arange(32)[:, None, None]).all()
    assert torch.equal(shaped["text_index"][:, [POSITIVE, RANDOM]], shaped["keyword"][:, [POSITIVE, RANDOM]])
    assert sorted(shaped["text_index"][:, CONFUSABLE].flatten().tolist()) == list(range(32, 384))


def test_every_row_hears_and_is_asked_what_it_says() -> None:
    keywords = made_up(20, 6)
    rows = KeywordRows(Numbered(), keywords, 5, Confuser())
    batch = rows.__getitems__([3, 7, 11, 19])
    numbers = [3, 7, 11, 19]
    heard = batch["audio"][batch["clip_index"], 0].long()  # the recording's number
    texts = [tuple(int(p) for p in row if p) for row in batch["phones"]]
    for row in range(len(heard)):
        keyword = keywords[numbers[batch["keyword"][row]]]
        said = int(heard[row]) in keyword.clips
        asked = texts[batch["text_index"][row]]
        part = int(batch["part"][row])
        assert said == (part != RANDOM)
        assert (asked == keyword.phones) == (part != CONFUSABLE)
        assert bool(batch["label"][row]) == (said and asked == keyword.phones)
    assert batch["audio_lengths"].tolist() == [100 + int(clip) for clip in batch["audio"][:, 0]]
    assert len(set(batch["audio"][:, 0].tolist())) == len(batch["audio"])
    assert ((batch["words"] >= 0) == (batch["phones"] > 0)).all()


def test_a_keyword_with_few_recordings_is_heard_in_all_of_them_about_as_often() -> None:
    rows = KeywordRows(Numbered(), made_up(6, 2), 5, None)
    batch = rows.__getitems__([0, 1, 2])
    assert len(batch["audio"]) == 6
    positives = batch["clip_index"].view(3, 2, 5)[:, POSITIVE]
    assert [sorted(Counter(row.tolist()).values()) for row in positives] == [[2, 3]] * 3


def test_without_confusables_there_are_two_parts() -> None:
    batch = KeywordRows(Numbered(), made_up(6, 4), 3, None).__getitems__([0, 1, 2])
    assert len(batch["label"]) == 3 * 2 * 3
    assert len(batch["phones"]) == 3
    assert batch["part"].max() == RANDOM


def test_one_keyword_alone_is_no_batch() -> None:
    with pytest.raises(TypeError, match="has no negatives"):
        KeywordRows(Numbered(), made_up(3, 2), 2, None)[0]


def batches(data: KeywordBatches, epoch: int) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def equal(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in x)


def test_an_epoch_meets_every_keyword_once_and_repeats_exactly(data: KeywordBatches) -> None:
    first, again, later = (batches(data, epoch) for epoch in (0, 0, 1))
    assert len(first) == 3
    met = [tuple(row.tolist()) for batch in first for row in batch["phones"][:4]]
    assert len({row[: sum(p > 0 for p in row)] for row in met}) == 12
    assert equal(first, again)
    assert first[0]["phones"].shape != later[0]["phones"].shape or not equal(first[:1], later[:1])


def test_loader_workers_give_the_same_batches(data: KeywordBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    here = batches(data, 2)
    monkeypatch.setattr(data, "workers", 1)
    assert equal(here, batches(data, 2))


def test_recordings_of_a_keyword_are_by_different_voices_and_none_is_of_the_tests(data: KeywordBatches) -> None:
    corpus = data.keyword_corpus
    by_text: dict[str, set[str]] = {}
    for text, voice in zip(corpus.texts, corpus.voices, strict=True):
        by_text.setdefault(text, set()).add(voice)
    assert len(by_text) == 12
    assert {len(voices) for voices in by_text.values()} == {3}
    assert Counter(len(text.split()) for text in by_text) == {1: 3, 2: 3, 3: 3, 4: 3}
    overlap = data.summary()["overlap"]
    for part in ("val", "test", "unseen_words"):
        assert overlap[f"train/{part}"]["voices"] == overlap[f"train/{part}"]["phrases"] == 0
    assert overlap["train/unseen_words"]["words"] == 0
    assert data.summary()["counts"]["train"]["clips"] == 36


def test_confusables_have_no_held_out_word_and_are_no_test_phrase(data: KeywordBatches) -> None:
    lexicon = Lexicon.default()
    unseen = {lexicon.word(word) for word in data.words.unseen}
    reserved = {tuple(lexicon.pronounce(text).phones) for text in data._reserved()}
    for epoch in range(3):
        for batch in batches(data, epoch):
            for phones, words in zip(batch["phones"].tolist(), batch["words"].tolist(), strict=True):
                sound = [p for p in phones if p]
                assert tuple(sound) not in reserved
                for word in set(words) - {-1}:
                    assert tuple(p for p, w in zip(phones, words, strict=True) if w == word) not in unseen


def test_validation_and_test_are_those_of_the_phrases(data: KeywordBatches, spoken: SpokenPhrases) -> None:
    assert data.test_names == spoken.test_names
    assert {part: pairs.content_hash() for part, pairs in data.pairs.items()} == {
        part: pairs.content_hash() for part, pairs in spoken.pairs.items()
    }
    assert data.corpus.sha256 == spoken.corpus.sha256
    assert data.summary()["hash"] != spoken.summary()["hash"]


def test_without_a_corpus_of_its_own_it_takes_the_phrases_recordings(data: KeywordBatches) -> None:
    plain = KeywordBatches(**{**SMALL, "phrases": 0}, seed=5)
    plain.setup("fit")
    assert plain.keyword_corpus is plain.corpus
    assert plain.summary()["hash"] == data.corpus.key
    batch = next(iter(plain.train_dataloader()))
    assert len(batch["label"]) == 4 * 3 * 3
    assert len(batch["audio"]) < 4 * 3  # most phrases have one recording


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keywords": 1}, "keywords must be at least 2"),
        ({"recordings": 0}, "recordings must be at least 1"),
        ({"phrases": 3}, "phrases 3 are fewer than the 32 keywords"),
        ({"edits": (0, 1)}, "edits are the fewest"),
        ({"vocabulary": 3}, "vocabulary must be at least 20"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        KeywordBatches(**arguments)
