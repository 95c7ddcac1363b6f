"""Several ways to say a text, which engine knows each, and a language of one's own."""

import sys
from types import ModuleType

import pytest
from lightsleeper.data.arpabet import from_ipa, ids, parse
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.pronunciation import Pronunciation, Spoken, load_phonemizer, pronunciations
from lightsleeper.errors import UserError
from lightsleeper.phones import PHONE_IDS

lexicon = Lexicon.default()


def ways(text: str, **own: str) -> list[str]:
    given = {word: [parse(word, spelled)] for word, spelled in own.items()}
    return [" ".join(said.arpabet) for said in pronunciations(text, lexicon, given)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("stop", ["S T AA1 P"]),
        ("read", ["R IY1 D", "R EH1 D"]),
        ("record", ["R EH1 K ER0 D", "R AH0 K AO1 R D"]),
        ("the", ["DH AH0", "DH IY0"]),
        ("a", ["AH0", "EY0"]),
        ("either", ["IY1 DH ER0", "AY1 DH ER0"]),
        ("route", ["R UW1 T", "R AW1 T"]),
    ],
)
def test_words_have_the_forms_of_the_lexicon_the_usual_one_first(word: str, expected: list[str]) -> None:
    assert ways(word) == expected
    assert ids(expected[0].split()) == lexicon.word(word)


def test_no_two_variants_differ_in_stress_alone() -> None:
    for word in ("either", "record", "permit", "increase", "perfect", "the", "live"):
        sounds = [ids(said.arpabet) for said in lexicon.variants(word)]
        assert len(set(sounds)) == len(sounds)


def test_ways_of_words_combine_likeliest_first_and_no_more_than_asked() -> None:
    found = ways("read the record")
    assert found[0] == "R IY1 D DH AH0 R EH1 K ER0 D"
    assert len(found) == 8 == len(set(found))
    assert len(pronunciations("read the record the route", lexicon, most=5)) == 5


def test_each_word_says_which_engine_knows_it_and_keeps_its_stress() -> None:
    (said,) = pronunciations("hey zorblax siri", lexicon, {"siri": [("S", "IH1", "R", "IY0")]})
    assert said.engines == ["lexicon", "neural", "user"]
    assert said.of_word(2) == "S IH1 R IY0"
    assert said.of_word(0) == "HH EY1"
    assert any(phone[-1] in "12" for phone in said.of_word(1).split())
    assert said.phones == [PHONE_IDS[phone.rstrip("012")] for phone in said.arpabet]


def test_alternatives_of_the_user_replace_the_lexicons() -> None:
    own = {"route": [("R", "AW1", "T"), ("R", "UW1", "T", "IY0")]}
    assert [said.of_word(0) for said in pronunciations("route", lexicon, own)] == ["R AW1 T", "R UW1 T IY0"]


def test_stress_marks_of_the_lexicon_become_digits_of_the_vowel_they_precede() -> None:
    assert from_ipa("ˌɪntəɹnˈæʃᵊnᵊl") == ("IH2", "N", "T", "ER0", "N", "AE1", "SH", "AH0", "N", "AH0", "L")
    assert from_ipa("ˈtɑp") == ("T", "AA1", "P")  # a mark before the consonant is of the syllable
    assert from_ipa("x?") == ()


class Welsh:
    """A language of two words."""

    def split(self, text: str, /) -> list[str]:
        return text.split("-")

    def variants(self, word: str, /) -> list[Spoken]:
        if word != "bore":
            raise UserError(f"no Welsh word '{word}'.")
        return [Spoken(("B", "AO", "R", "EH"), "welsh"), Spoken(("B", "OW", "R", "EH"), "welsh")]


def test_another_language_is_plugged_in_by_its_dotted_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_languages")
    module.Welsh, module.cymraeg, module.Nothing = Welsh, Welsh(), object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_languages", module)
    for name in ("my_languages.Welsh", "my_languages.cymraeg"):
        found = pronunciations("bore-bore", load_phonemizer(name))
        assert len(found) == 4
        assert found[0].joined == "BAOREH BAOREH"
        assert found[0].engines == ["welsh", "welsh"]
    assert load_phonemizer(None) is lexicon
    with pytest.raises(UserError, match=r"my_languages.Nothing has no method split\(\)"):
        load_phonemizer("my_languages.Nothing")
    for wrong in ("my_languages.Irish", "no_such_module.Welsh", "Welsh"):
        with pytest.raises(UserError, match=f"--phonemizer {wrong}: .*expected a class as my_package.German"):
            load_phonemizer(wrong)


def test_a_pronunciation_without_stress_is_still_one() -> None:
    assert Pronunciation([1], [0], ["lexicon"], ["ah"]).joined == "AA"
