"""Text to phones: the mapping, the fallback, the user's own pronunciations, and what is refused."""

import importlib.util
import json
import pickle
import time
from pathlib import Path

import pytest
from lightsleeper.data import lexicon as lexicon_module
from lightsleeper.data.g2p import SYMBOLS, spell_out
from lightsleeper.data.lexicon import Lexicon, common_words, near_words, split_words
from lightsleeper.errors import UserError
from lightsleeper.phones import PHONES

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")

lexicon = Lexicon.default()


def said(text: str, **overrides: str) -> str:
    return lexicon.pronounce(text, overrides).joined


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("stop", "S T AA P"),
        ("friend", "F R EH N D"),
        ("turn", "T ER N"),
        ("water", "W AO T ER"),  # the flap is a written t
        ("latter", "L AE T ER"),
        ("ladder", "L AE D ER"),
        ("kitten", "K IH T AH N"),  # the glottal stop, and the vowel that the lexicon leaves out
        ("roses", "R OW Z IH Z"),
        ("around", "ER AW N D"),
        ("boy", "B OY"),
        ("my", "M AY"),
        ("the", "DH AH"),
        ("a", "AH"),
        ("read", "R IY D"),  # several entries: the default one
        ("london", "L AH N D AH N"),  # the lexicon has it with a capital only
        ("john's", "JH AA N Z"),
        ("jack's", "JH AE K S"),
        ("james's", "JH EY M Z IH Z"),
        ("tv", "T IY V IY"),
    ],
)
def test_words_of_the_lexicon_have_their_arpabet_phones(word: str, phones: str) -> None:
    assert [PHONES[phone - 1] for phone in lexicon.word(word)] == phones.split()
    assert word in lexicon


def test_every_entry_of_the_lexicon_maps_to_phones() -> None:
    tables = lexicon._entries
    entries = [entry for table in tables for entry in table.values()]
    assert len(entries) > 180_000
    assert all(lexicon_module._phones(entry) for entry in entries)


def test_a_word_outside_the_lexicon_is_read_by_the_neural_model_and_says_so() -> None:
    first = lexicon.pronounce("hey jarvis")
    assert first.engines == ["lexicon", "neural"]
    assert first.joined == "HHEY JHAARVAHS"
    assert "jarvis" not in lexicon
    assert spell_out("jarvis") == spell_out("jarvis") == ["JH", "AA1", "R", "V", "AH0", "S"]


def test_the_neural_models_inventory_is_the_published_one() -> None:
    assert len(SYMBOLS) == 74
    assert SYMBOLS[:4] == ("<pad>", "<unk>", "<s>", "</s>")
    assert SYMBOLS[4:7] == ("AA0", "AA1", "AA2")
    assert len(set(SYMBOLS[4:])) == 70
    assert {symbol.rstrip("012") for symbol in SYMBOLS[4:]} == set(PHONES)
    assert {symbol for symbol in SYMBOLS[4:] if symbol[-1] in "012"} == {f"{v}{s}" for v in VOWELS for s in "012"}
    assert spell_out("stop") == ["S", "T", "AA1", "P"]


def test_words_number_each_phone() -> None:
    result = lexicon.pronounce("turn on")
    assert result.phones == [*lexicon.word("turn"), *lexicon.word("on")]
    assert result.words == [0, 0, 0, 1, 1]
    assert result.spelling == ["turn", "on"]


def test_own_pronunciations_win_and_stress_is_dropped() -> None:
    result = lexicon.pronounce("Hey Siri", {"Siri": "S IH1 r IY0"})
    assert result.engines == ["lexicon", "user"]
    assert result.joined == "HHEY SIHRIY"
    assert said("siri", siri="B OY") == "BOY"
    assert said("siri") == "SIHRIY"  # nothing is remembered


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Turn ON, the light! ", ["turn", "on", "the", "light"]),
        ("wi-fi", ["wi", "fi"]),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", ["don't"]),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", ["cafe"]),
        ("channel 5", ["channel", "five"]),
        ("the dogs' 'quoted' 'til", ["the", "dogs", "'quoted", "'til"]),
        ("smart_mirror", ["smart", "mirror"]),
    ],
)
def test_typed_text_becomes_plain_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words
    lexicon.pronounce(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no words in ''"),
        (" ... ", "turn on the light"),
        ("route 66", "'66' can be said in several ways: type it as words, such as 'six six'"),
        ("2nd", "'2nd'"),
        ("привет", "only English spelling"),
    ],
)
def test_text_that_cannot_be_said_is_refused_with_what_to_type(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lexicon.pronounce(text)


@pytest.mark.parametrize(("spelled", "message"), [("S IX", "'IX' is no ARPAbet phone"), ("", "is empty")])
def test_a_wrong_own_pronunciation_is_named(spelled: str, message: str) -> None:
    with pytest.raises(UserError, match=f"'siri'.*{message}"):
        lexicon.pronounce("siri", {"siri": spelled})


def test_the_joined_form_keeps_blanks_between_words() -> None:
    assert said("the river") == "DHAH RIHVER"


def test_the_default_lexicon_is_loaded_once_and_pickles_as_a_reference() -> None:
    assert Lexicon.default() is Lexicon.default()
    stored = pickle.dumps(lexicon)
    assert len(stored) < 200
    assert pickle.loads(stored) is lexicon


def test_the_lexicon_loads_in_half_a_second() -> None:
    lexicon_module._default_lexicon.__wrapped__()  # the file is in the page cache now
    start = time.process_time()
    lexicon_module._default_lexicon.__wrapped__()
    assert time.process_time() - start < 0.5


def test_a_missing_lexicon_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install misaki"):
        lexicon_module._default_lexicon.__wrapped__()


def test_an_entry_with_an_unknown_symbol_is_left_to_the_neural_model() -> None:
    odd = Lexicon([{"loch": "lˈɑx"}])
    assert "loch" not in odd
    assert odd.pronounce("loch").engines == ["neural"]


def test_common_words_are_plain_pronounceable_and_by_frequency() -> None:
    words = common_words(500)
    assert len(set(words)) == 500
    assert words[:3] == ["the", "to", "and"]
    assert all(word.isalpha() and word.isascii() and word.islower() and word in lexicon for word in words)
    assert all(len(lexicon.word(word)) >= 2 for word in words)
    assert common_words(100) == words[:100]


def test_the_word_list_names_its_extra_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wordfreq" else real(name))
    with pytest.raises(UserError, match=r"\.\[demo\]"):
        common_words(3)


def test_near_words_are_the_nearest_without_homophones() -> None:
    words = ["friend", "trend", "frond", "two", "too", "shoe", "banana", "cats", "cat"]
    table = near_words(words, 2, cached=False)
    assert table.of("friend")[0] in {"trend", "frond"}
    assert "too" not in table.of("two")
    assert table.of("two")[0] == "shoe"
    assert table.of("cats")[0] == "cat"
    assert table.of("zebra") == []


def test_near_words_come_from_the_cache_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    words = common_words(300)
    first = near_words(words, 3)
    (stored,) = (tmp_path / "near_words").iterdir()
    monkeypatch.setattr("lightsleeper.data.near_words.nearest", lambda *_: pytest.fail("searched again"))
    assert [near_words(words, 3).of(word) for word in words] == [first.of(word) for word in words]
    monkeypatch.undo()
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    stored.write_bytes(stored.read_bytes()[:100])  # damaged: built anew
    assert near_words(words, 3).of("the") == first.of("the")


def test_confused_text_differs_in_one_word() -> None:
    import numpy as np

    words = common_words(200)
    table = near_words(words, 5, cached=False)
    text = ["good", "time", "people"]
    for seed in range(20):
        other = table.confuse(text, np.random.default_rng(seed), reach=2)
        assert other is not None
        (place,) = [i for i in range(3) if text[i] != other[i]]
        assert other[place] in table.of(text[place])[:2]
        assert lexicon.word(other[place]) != lexicon.word(text[place])
    assert table.confuse(["zebra"], np.random.default_rng(0)) is None


@pytest.mark.slow
def test_twenty_thousand_near_words_take_under_twenty_seconds_of_one_core() -> None:
    words = common_words(20_000)
    start = time.process_time()
    near_words(words, 10, cached=False)
    assert time.process_time() - start < 20


def test_lookup_needs_no_heavy_import(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from lightsleeper.data.lexicon import Lexicon; Lexicon.default().pronounce('hey jarvis');"
        "import json; heavy = ('torch', 'misaki', 'g2p_en', 'nltk', 'datasets');"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
