from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.word_texts import STOP_WORDS, TextSpec, most_frequent, read_sentences, write_texts
from lightsleeper.errors import UserError

LEXICON = Lexicon.default()
SPEC = TextSpec(30, (300, 20, 40), (3, 9), 0.4, 4, None, 0)


def test_made_sentences_are_in_one_part_only_and_of_the_asked_length():
    texts = write_texts(SPEC)
    said = [sentence for some in texts.sentences.values() for sentence in some]
    assert [len(some) for some in texts.sentences.values()] == [300, 20, 40]
    assert len(set(said)) == len(said)
    assert {len(sentence.split()) for sentence in said} == set(range(3, 10))


def test_sentences_that_chance_repeats_are_drawn_again():
    texts = write_texts(TextSpec(5, (40, 30, 30), (1, 1), 0.9, 4, None, 0))
    said = [sentence for some in texts.sentences.values() for sentence in some]
    assert len(set(said)) == len(said) == 100
    with pytest.raises(UserError, match="too few different sentences of 1 to 1 words"):
        write_texts(TextSpec(5, (300, 1, 1), (1, 1), 0.99, 4, None, 0))


def test_the_vocabulary_is_the_most_frequent_content_words_of_the_training_sentences():
    texts = write_texts(SPEC)
    counts = Counter(word for sentence in texts.sentences["train"] for word in sentence.split())
    ranked = [counts[word] for word in texts.words]
    assert ranked == sorted(ranked, reverse=True)
    rest = [word for word in counts if word not in texts.words and word not in STOP_WORDS]
    assert max(counts[word] for word in rest if len(LEXICON.word(word)) >= 4) <= ranked[-1]
    assert min(len(LEXICON.word(word)) for word in texts.words) >= 4
    assert sum(ranked) / counts.total() == pytest.approx(0.4, abs=0.05)


def test_no_two_words_of_made_sentences_sound_alike():
    texts = write_texts(SPEC)
    words = {word for some in texts.sentences.values() for sentence in some for word in sentence.split()}
    assert len({LEXICON.word(word) for word in words}) == len(words)


@pytest.mark.parametrize("words", [1, 1000])
def test_vocabularies_of_any_size_can_be_had(words: int):
    spec = TextSpec(words, (3000, 10, 10), (3, 9), 0.4, 4, None, 0)
    assert len(write_texts(spec).words) == words


def test_the_same_spec_gives_the_same_texts_and_another_seed_others():
    assert write_texts(SPEC) == write_texts(SPEC)
    other = TextSpec(30, (300, 20, 40), (3, 9), 0.4, 4, None, 1)
    assert write_texts(other).sentences["test"] != write_texts(SPEC).sentences["test"]


def test_a_text_is_cut_into_sentences_and_what_cannot_be_spoken_is_left_out(tmp_path: Path):
    file = tmp_path / "text.txt"
    file.write_text(
        "Hello there, world! A line\nof text: it goes on.\n\nIn 1984 it was. Zzyqx is no word. So. So it is."
    )
    assert read_sentences(file, (2, 9), LEXICON) == ["hello there world", "a line of text", "it goes on", "so it is"]
    with pytest.raises(UserError, match="holds no sentence of 8 to 9"):
        read_sentences(file, (8, 9), LEXICON)
    with pytest.raises(UserError, match="cannot read"):
        read_sentences(tmp_path / "nowhere", (2, 9), LEXICON)


def test_sentences_of_a_text_with_a_homophone_of_the_vocabulary_are_left_out(tmp_path: Path):
    file = tmp_path / "text.txt"
    subjects = ["dogs", "cats", "lions", "tigers", "birds", "horses", "sheep", "wolves"]
    lines = [f"in peace {where} {who}." for who in subjects for where in ("here", "there", "are", "for")]
    file.write_text("\n".join([*lines, *(f"{who} eat a piece of bread." for who in subjects)]))
    texts = write_texts(TextSpec(1, (30, 5, 5), (3, 9), 0.4, 3, "digest", 0), file)
    assert texts.words == ["peace"]
    assert not [s for some in texts.sentences.values() for s in some if "piece" in s]


@given(st.dictionaries(st.sampled_from(["oak", "elm", "ash", "the", "fir"]), st.integers(1, 9), min_size=1))
@settings(deadline=None)
def test_equally_frequent_words_come_in_alphabetical_order(counts: dict[str, int]):
    words = sorted(counts.keys() - {"the"}, key=lambda word: (-counts[word], word))
    assert most_frequent(Counter(counts), len(words)) == words
    with pytest.raises(UserError, match=f"the training texts have {len(words)}"):
        most_frequent(Counter(counts), len(words) + 1)
