import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightsleeper.data.distance import edit_distance
from lightsleeper.data.hard_texts import HardTexts, flatten
from lightsleeper.data.lexicon import Lexicon, near_words
from lightsleeper.data.pairs import EASY, HARD, POSITIVE, build_p1, shortcut_auc
from lightsleeper.data.phrase_script import PhraseSpec, split_vocabulary, split_voices, write_script
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.data.synthesis import VARIANTS
from lightsleeper.errors import UserError

PARTS = ("train", "val", "test", "unseen_words")
SPEC = PhraseSpec(2000, 2500, 4, 0.15, 18, 9, 40, 20, 0)


@pytest.fixture(scope="module")
def lines(corpus_cache: None) -> list[Any]:
    return write_script(SPEC)


def test_the_script_is_a_pure_function_of_its_spec(corpus_cache: None, lines: list[Any]) -> None:
    assert write_script(SPEC) == lines
    assert write_script(replace(SPEC, seed=1)) != lines


def test_the_number_of_clips_is_known_without_the_script(lines: list[Any]) -> None:
    assert SPEC.clips == len(lines)
    assert replace(SPEC, held_out_words=0.0).clips == sum(line.part != "unseen_words" for line in lines)


def test_training_has_equal_shares_of_phrase_lengths(lines: list[Any]) -> None:
    counts = np.bincount([len(line.text.split()) for line in lines if line.part == "train"])
    assert counts[1:].tolist() == [500] * 4


def test_parts_share_no_voice_and_no_phrase_but_the_test_voices(lines: list[Any]) -> None:
    texts, voices = ({p: {getattr(x, a) for x in lines if x.part == p} for p in PARTS} for a in ("text", "voice"))
    for first in PARTS:
        for second in PARTS:
            if first < second:
                assert not texts[first] & texts[second]
                assert not voices[first] & voices[second] or {first, second} == {"test", "unseen_words"}


def test_every_word_of_the_test_was_heard_in_training_and_no_unseen_one_in_any_spelling(lines: list[Any]) -> None:
    lexicon = Lexicon.default()
    words = {p: {w for x in lines if x.part == p for w in x.text.split()} for p in PARTS}
    assert words["test"] <= words["train"]
    assert words["val"] <= words["train"]
    sounds = {lexicon.word(word) for word in words["train"]}
    assert not sounds & {lexicon.word(word) for word in words["unseen_words"]}


def test_twin_voices_stay_on_one_side() -> None:
    voices = split_voices(SPEC.held_out_voices, SPEC.validation_voices, SPEC.seed)
    assert sorted(voice for part in voices.values() for voice in part) == sorted(VARIANTS)
    side = {voice: part for part, names in voices.items() for voice in names}
    for twins in (("steph", "steph2", "steph3"), ("iven", "iven2", "iven3", "iven4"), ("Mike", "mike2")):
        assert len({side[voice] for voice in twins}) == 1
    assert len(voices["test"]) == 18
    assert len(voices["val"]) == 9


def test_hard_negatives_of_unseen_words_are_as_near_as_those_of_seen_ones(lines: list[Any]) -> None:
    lexicon = Lexicon.default()

    def near_share(part: str) -> float:
        """Share of hard pairs that are at most two phones apart."""
        clips = [line for line in lines if line.part == part]
        pairs = build_p1([x.text for x in clips], [x.voice for x in clips])
        hard = pairs.select(pairs.kind == HARD)
        apart = [
            edit_distance(lexicon.pronounce(pairs.texts[text]).phones, lexicon.pronounce(clips[clip].text).phones)
            for clip, text in zip(hard.clip, hard.text, strict=True)
        ]
        return float(np.mean(np.array(apart) <= 2))

    assert near_share("test") > 0.5
    assert near_share("unseen_words") > near_share("test") - 0.15


def test_the_length_of_what_is_spoken_does_not_tell_hard_negatives(lines: list[Any]) -> None:
    lexicon = Lexicon.default()
    for part in PARTS[1:]:
        clips = [line for line in lines if line.part == part]
        pairs = build_p1([x.text for x in clips], [x.voice for x in clips])
        spoken = np.array([len(lexicon.pronounce(x.text).phones) * 0.1 for x in clips])
        typed = np.array([len(lexicon.pronounce(text).phones) for text in pairs.texts])
        found = shortcut_auc(pairs, spoken, typed)
        assert max(found["duration"], found["phone_count"], found["text"]) < 0.55, part


def test_too_small_a_vocabulary_or_training_set_is_refused(corpus_cache: None) -> None:
    with pytest.raises(UserError, match="too few"):
        write_script(replace(SPEC, vocabulary=60, train_phrases=200))
    with pytest.raises(UserError, match="train_phrases 40 cannot hold"):
        write_script(replace(SPEC, train_phrases=40))


@pytest.fixture(scope="module")
def hard_texts(corpus_cache: None, lines: list[Any]) -> HardTexts:
    words = split_vocabulary(SPEC)
    reserved = {line.text for line in lines if line.part != "train"}
    return HardTexts(near_words(words.seen), words.unseen, reserved)


def test_a_drawn_text_differs_in_one_word(hard_texts: HardTexts) -> None:
    own = hard_texts.sounds("some people")
    for clip in range(200):
        for drawn in hard_texts.draw("some people", 3, (0, 0, clip)):
            assert sum(a != b for a, b in zip(own, drawn, strict=True)) == 1
            assert all(drawn)


def test_draws_are_a_pure_function_of_seed_epoch_and_clip(hard_texts: HardTexts) -> None:
    draws = {key: str(hard_texts.draw("some people", 3, key)) for key in np.ndindex(2, 2, 2)}
    assert len(set(draws.values())) == 8
    assert str(hard_texts.draw("some people", 3, (1, 0, 1))) == draws[1, 0, 1]


def test_held_out_words_and_reserved_phrases_are_never_drawn(hard_texts: HardTexts, lines: list[Any]) -> None:
    lexicon = Lexicon.default()
    unseen = {lexicon.word(word) for word in split_vocabulary(SPEC).unseen}
    reserved = {tuple(lexicon.word(w) for w in x.text.split()) for x in lines if x.part != "train"}
    for index, line in enumerate(lines[:800]):
        for drawn in hard_texts.draw(line.text, 3, (0, 1, index)):
            assert not unseen & set(drawn)
            assert tuple(drawn) not in reserved


def test_the_share_of_real_words_is_as_asked(corpus_cache: None) -> None:
    near = near_words(split_vocabulary(SPEC).seen)
    sounds = set(map(Lexicon.default().word, near.words))
    for share in (0.0, 1.0):
        texts = HardTexts(near, (), (), near_word_share=share)
        drawn = [texts.draw("yesterday", 1, (0, 0, i))[0][0] in sounds for i in range(200)]
        assert np.mean(drawn) == 1 if share else np.mean(drawn) < 0.1


def test_flatten_numbers_the_words() -> None:
    assert flatten([(1, 2), (3,)]) == ([1, 2, 3], [0, 0, 1])


def test_a_training_batch_holds_clips_texts_and_negatives(spoken: SpokenPhrases) -> None:
    loader = spoken.train_dataloader()
    batch = next(iter(loader))
    assert batch["audio"].dtype == torch.float32
    assert batch["negative_phones"].shape[:2] == (16, 3)
    assert batch["negative_phones"].shape == batch["negative_words"].shape
    clips = spoken.corpus.clips("train")
    lexicon = Lexicon.default()
    for row, index in enumerate(batch["index"].tolist()):
        length = int(batch["audio_lengths"][row])
        audio = spoken.corpus.audio(int(clips[index]))
        assert np.array_equal(batch["audio"][row, :length].numpy(), audio)
        assert not batch["audio"][row, length:].any()
        text = spoken.corpus.texts[clips[index]]
        said = lexicon.pronounce(text)
        assert batch["text"][row] == text
        assert batch["phones"][row][: len(said.phones)].tolist() == said.phones
        assert batch["words"][row][: len(said.words)].tolist() == said.words
        assert (batch["words"][row][len(said.words) :] == -1).all()


def all_batches(data: SpokenPhrases, epoch: int) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


def equal(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    names = ("audio", "index", "negative_phones", "negative_words")
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in names)


def test_an_epoch_shows_every_clip_once_and_repeats_exactly(spoken: SpokenPhrases) -> None:
    first, again, next_epoch = (all_batches(spoken, epoch) for epoch in (0, 0, 1))
    assert sorted(torch.cat([batch["index"] for batch in first]).tolist()) == list(range(160))
    assert equal(first, again)
    assert not equal(first, next_epoch)


def test_loader_workers_give_the_same_batches(spoken: SpokenPhrases) -> None:
    here = all_batches(spoken, 2)
    spoken.workers = 1
    try:
        assert equal(here, all_batches(spoken, 2))
    finally:
        spoken.workers = 0


def test_the_seed_changes_order_and_negatives_but_not_the_corpus(spoken: SpokenPhrases, monkeypatch: Any) -> None:
    first = all_batches(spoken, 0)
    monkeypatch.setattr(spoken, "seed", None)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert equal(first, all_batches(spoken, 0))
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert not equal(first, all_batches(spoken, 0))


def test_without_negatives_the_batch_has_none(spoken: SpokenPhrases, monkeypatch: Any) -> None:
    monkeypatch.setattr(spoken, "negatives_per_clip", 0)
    assert "negative_phones" not in next(iter(spoken.train_dataloader()))


def test_episodes_follow_the_rules_of_libriphrase(spoken: SpokenPhrases) -> None:
    corpus = spoken.corpus
    assert list(spoken.pairs) == ["val", "test", "unseen_words"]
    for part, pairs in spoken.pairs.items():
        episodes = 4 * (3 if part == "val" else 6)
        assert len(pairs) == 9 * episodes
        assert set(corpus.parts[pairs.clip]) == {part}
        for episode in range(episodes):
            rows = pairs.select(pairs.episode == episode)
            assert np.bincount(rows.kind).tolist() == [3, 3, 3]
            (typed,) = {rows.texts[text] for text in rows.text}
            said = [corpus.texts[clip] for clip in rows.clip]
            assert [text == typed for text in said] == (rows.label == 1).tolist()
            assert {len(text.split()) for text in said} == {len(typed.split())}
            positives = rows.clip[rows.kind == POSITIVE]
            assert len({corpus.voices[clip] for clip in positives}) == 3
            assert len(set(said)) == 1 + np.sum(rows.kind == EASY) + np.sum(rows.kind == HARD)


def test_evaluation_batches_carry_the_pairs(spoken: SpokenPhrases) -> None:
    loaders = [spoken.val_dataloader(), *spoken.test_dataloader()]
    assert spoken.test_names == ["", "unseen_words"]
    for loader, pairs in zip(loaders, spoken.pairs.values(), strict=True):
        batches = list(loader)
        seen = {name: torch.cat([batch[name] for batch in batches]) for name in ("clip", "label", "kind", "episode")}
        assert sorted(seen["clip"].tolist()) == sorted(pairs.clip.tolist())
        assert int(seen["label"].sum()) == int(pairs.label.sum())
        lengths = torch.cat([batch["audio_lengths"] for batch in batches])
        assert torch.equal(lengths, lengths.sort().values)
        batch = batches[0]
        for row in range(len(batch["text"])):
            clip = int(batch["clip"][row])
            assert (batch["text"][row] == spoken.corpus.texts[clip]) == bool(batch["label"][row])


def test_the_summary_states_sizes_and_overlap(spoken: SpokenPhrases) -> None:
    summary = json.loads(json.dumps(spoken.summary()))
    assert summary["hash"] == spoken.corpus.key
    assert summary["protocol"] == "P1"
    assert summary["counts"]["train"]["clips"] == 160
    assert summary["counts"]["test"]["episodes"] == 24
    overlap = summary["overlap"]
    for pair in ("train/val", "train/test", "train/unseen_words", "val/test", "val/unseen_words"):
        assert overlap[pair]["voices"] == 0, pair
        assert overlap[pair]["phrases"] == 0, pair
    assert overlap["train/unseen_words"]["words"] == 0
    assert overlap["train/test"]["words"] == summary["counts"]["test"]["words"]


def test_no_shortcut_tells_hard_negatives_in_the_audio(spoken: SpokenPhrases) -> None:
    for part, found in spoken.shortcuts().items():
        assert found["phone_count"] == found["text"] == 0.5
        assert found["duration"] < 0.66, part  # some 40 to 70 pairs a side: noise reaches 0.63; 0.504 at full size


def test_without_held_out_words_there_is_one_test_set() -> None:
    assert SpokenPhrases(held_out_words=0).test_names == [""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_phrases": 0}, "train_phrases must be at least 1, got 0"),
        ({"vocabulary": 3}, "vocabulary must be at least 20"),
        ({"max_words": 0}, "max_words must be at least 1"),
        ({"held_out_words": 1.0}, "held_out_words is a share"),
        ({"held_out_voices": 3}, "held_out_voices must be at least 4"),
        ({"validation_voices": 0}, "validation_voices must be at least 4"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"negatives_per_clip": -1}, "negatives_per_clip must be at least 0"),
        ({"near_word_share": 2.0}, "near_word_share is a share"),
        ({"distance": "letters"}, "distance is 'phones' or 'libriphrase'"),
        ({"build_workers": 0}, "build_workers must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SpokenPhrases(**arguments)


def test_more_held_out_voices_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="leave none of the 89 voices"):
        SpokenPhrases(held_out_voices=80, validation_voices=20)
