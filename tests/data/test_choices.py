"""Multiple-choice items made of text: what is asked, and that nothing but the context tells the answer."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.data.choices import CHOICES, CONTEXT_BYTES, LEAST_CONTEXT, PIECE_BYTES, continuations, hash_of
from lightsleeper.data.documents import Document, read_files, standard_library
from lightsleeper.errors import UserError

WORDS = ("def", "return", "name", "value", "ünïcode", "0x1f", "(self,", "text.", "for\n   ", "if\n#", "the", "")


def document(seed: int, words: int = 900) -> Document:
    rng = random.Random(seed)
    return Document(f"{seed}.txt", " ".join(rng.choice(WORDS) for _ in range(words)).encode())


DOCUMENTS = [document(seed) for seed in range(12)]
TEXTS = {each.digest[:12]: each.content.decode() for each in DOCUMENTS}


def test_the_right_choice_goes_on_where_the_context_ends_and_the_others_come_from_elsewhere() -> None:
    for item in continuations(DOCUMENTS, 60):
        text = TEXTS[item.group]
        assert item.context + item.choices[item.answer] in text
        assert len(set(item.choices)) == len(item.choices) == CHOICES
        for choice in item.choices:
            assert choice in text
        assert item.choices[item.answer] not in item.context or text.count(item.choices[item.answer]) > 1


def test_choices_of_an_item_have_equally_many_bytes_and_the_answers_each_place_equally_often() -> None:
    items = continuations(DOCUMENTS, 80)
    assert all(len({len(choice.encode()) for choice in item.choices}) == 1 for item in items)
    assert Counter(item.answer for item in items) == dict.fromkeys(range(CHOICES), 20)
    assert len({len(item.choices[0].encode()) for item in items}) > 10


def test_choices_are_whole_words_behind_a_blank_and_contexts_are_long_enough_and_fit() -> None:
    for item in continuations(DOCUMENTS, 60):
        assert LEAST_CONTEXT <= len(item.context.encode()) <= CONTEXT_BYTES
        assert not item.context[-1].isspace()
        for choice in item.choices:
            assert choice[0] == " "
            assert not choice[1].isspace()
            assert not choice[-1].isspace()
            assert len(choice.encode()) in PIECE_BYTES


def test_no_byte_of_a_document_is_context_or_truth_twice() -> None:
    spans: dict[str, list[tuple[int, int]]] = {}
    for item in continuations(DOCUMENTS, 120):
        passage = item.context + item.choices[item.answer]
        start = TEXTS[item.group].index(passage)
        spans.setdefault(item.group, []).append((start, start + len(passage)))
    for found in spans.values():
        found.sort()
        assert all(before[1] <= after[0] for before, after in zip(found, found[1:], strict=False))


def test_items_come_evenly_from_all_documents_in_whatever_order_these_are_given() -> None:
    items = continuations(DOCUMENTS, 60)
    assert set(Counter(item.group for item in items).values()) == {5}
    assert continuations(DOCUMENTS[::-1], 60) == items
    assert hash_of(continuations(DOCUMENTS, 60, seed=1)) != hash_of(items)
    assert [item.context for item in continuations(DOCUMENTS, 24)] == [item.context for item in items[:24]]


def test_what_a_choice_holds_does_not_tell_whether_it_is_right() -> None:
    """Of 600 items of real text: a difference of four standard errors would be no accident."""
    items = continuations(read_files(standard_library()).all[:80], 600)
    features = {
        "words": lambda text: len(text.split()),
        "blanks": lambda text: text.count(" "),
        "lines": lambda text: text.count("\n"),
        "letters": lambda text: sum(letter.isalnum() for letter in text),
        "codes": lambda text: sum(text.encode()),
    }
    for name, feature in features.items():
        gaps = []
        for item in items:
            values = [feature(choice) for choice in item.choices]
            gaps.append(values[item.answer] - sum(values) / CHOICES)
        mean = sum(gaps) / len(gaps)
        error = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps) ** 2) ** 0.5
        assert abs(mean) < 4 * error, name


def test_too_little_text_is_said() -> None:
    with pytest.raises(UserError, match="1 documents of the test give . multiple-choice items, not 500: ask for fewer"):
        continuations([document(0, words=300)], 500)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=600), st.text(alphabet="aä \n\t.", max_size=600))
def test_any_utf8_text_gives_items_or_says_that_it_does_not(raw: bytes, text: str) -> None:
    for content in (raw.decode("utf-8", "ignore").encode(), text.encode()):
        try:
            items = continuations([Document("x", content)], 1)
        except UserError:
            continue
        assert items[0].context + items[0].choices[items[0].answer] in content.decode()
