"""English text to phones: a lexicon of 183,000 words, a neural model for the rest, and the user's own pronunciations.

The lexicon is misaki's American one (Apache-2.0), read as data: importing misaki would pull its tagger. Its compact
IPA is mapped to ARPAbet with stress, and for corpora and models to the 39 phones without stress that they share.
"""

import importlib.util
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from lightsleeper.data.arpabet import Arpabet, from_ipa, ids, parse
from lightsleeper.data.distance import edit_distance, libriphrase_distance
from lightsleeper.data.g2p import spell_out
from lightsleeper.data.near_words import NearWords
from lightsleeper.data.pronunciation import Pronunciation, Spoken, assemble
from lightsleeper.errors import UserError

__all__ = ["Lexicon", "NearWords", "Pronounces", "Pronunciation", "common_words", "edit_distance",
           "libriphrase_distance", "near_words"]  # fmt: skip

Entry = str | Mapping[str, str | None]
"""IPA, or IPA by part of speech."""

# The lexicon leaves "a" out and gives "the" as before a vowel; running speech has the weak forms.
_WEAK_FORMS: dict[str, Arpabet] = {"a": ("AH0",), "the": ("DH", "AH0")}
# Words that educated speakers say in two ways, of which the lexicon has one.
_SECOND_FORMS = {
    "adult": "AE1 D AH0 L T", "aunt": "AA1 N T", "caramel": "K EH1 R AH0 M AH0 L", "coupon": "K Y UW1 P AA2 N",
    "data": "D AE1 T AH0", "either": "AY1 DH ER0", "envelope": "AA1 N V AH0 L OW2 P", "leisure": "L EH1 ZH ER0",
    "neither": "N AY1 DH ER0", "often": "AO1 F T AH0 N", "pajamas": "P AH0 JH AE1 M AH0 Z", "pecan": "P IY1 K AE2 N",
    "privacy": "P R IH1 V AH0 S IY0", "route": "R AW1 T", "router": "R UW1 T ER0", "schedule": "SH EH1 JH UW2 L",
    "status": "S T AE1 T AH0 S", "tomato": "T AH0 M AA1 T OW2", "vase": "V AA1 Z", "vitamin": "V IH1 T AH0 M AH0 N",
}  # fmt: skip
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SIBILANTS = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}


class Pronounces(Protocol):
    """Anything that gives a typed text its phones."""

    def pronounce(self, text: str, /) -> Pronunciation: ...


class Lexicon:
    """Words to phone ids (1..39).

    Example::

        lexicon = Lexicon.default()
        lexicon.pronounce("turn on the light").phones
        lexicon.pronounce("hey siri", overrides={"siri": "S IH1 R IY0"}).engines  # ["lexicon", "user"]
    """

    def __init__(self, entries: Sequence[Mapping[str, Entry]]) -> None:
        """``entries`` are word-to-IPA tables, the most trusted first."""
        self._entries = entries
        self._known: dict[str, tuple[tuple[int, ...], Spoken]] = {}

    @classmethod
    def default(cls) -> "Lexicon":
        """The lexicon that ships; read once per process (about 0.15 s)."""
        return _default_lexicon()

    def __reduce__(self) -> tuple:
        # Workers read the file themselves: pickling 183,000 entries to each of them is slower.
        return (Lexicon.default, ()) if self is _default_lexicon() else (Lexicon, (self._entries,))

    def __contains__(self, word: str) -> bool:
        return self._look_up(_plain(word)) is not None

    def word(self, word: str) -> tuple[int, ...]:
        """Phone ids of one word, by the lexicon where it holds the word, else by the neural model."""
        return self._pronounce_word(_plain(word))[0]

    def split(self, text: str, /) -> list[str]:
        """As `split_words`."""
        return split_words(text)

    def variants(self, word: str, /) -> list[Spoken]:
        """Ways to say ``word``: the usual one, those of other parts of speech ("read"), the strong form of "a" and
        "the", a second form ("either"). They differ in their phones, not in stress alone."""
        word = _plain(word)
        ways = [self._pronounce_word(word)[1]]
        for table in self._entries:
            ways += [Spoken(phones, "lexicon") for phones in map(from_ipa, _entries(table.get(word))) if phones]
        if word in _SECOND_FORMS:
            ways.append(Spoken(tuple(_SECOND_FORMS[word].split()), "lexicon"))
        different: dict[tuple[int, ...], Spoken] = {}
        for way in ways:
            different.setdefault(ids(way.arpabet), way)
        return list(different.values())

    def pronounce(self, text: str, overrides: Mapping[str, str] | None = None) -> Pronunciation:
        """The usual phones of a typed text. ``overrides`` maps words to ARPAbet such as ``"S IH1 R IY0"``.

        Raises:
            UserError: the text is empty, or holds something that has no English spelling.
        """
        own = {_plain(word): Spoken(parse(word, spelled), "user") for word, spelled in (overrides or {}).items()}
        spelling = split_words(text)
        return assemble(spelling, [own[word] if word in own else self._pronounce_word(word)[1] for word in spelling])

    def _pronounce_word(self, word: str) -> tuple[tuple[int, ...], Spoken]:
        if word not in self._known:
            listed = self._look_up(word)
            said = Spoken(listed, "lexicon") if listed else Spoken(tuple(spell_out(word.replace("'", ""))), "neural")
            if not said.arpabet:
                raise UserError(f"no pronunciation found for '{word}': give one in ARPAbet, such as 'S IH1 R IY0'.")
            self._known[word] = ids(said.arpabet), said
        return self._known[word]

    def _look_up(self, word: str) -> Arpabet | None:
        if word in _WEAK_FORMS:
            return _WEAK_FORMS[word]
        for spelled in (word, word.capitalize(), word.upper()):
            for table in self._entries:
                if phones := _phones(table.get(spelled)):
                    return phones
        if word.endswith("'s") and (stem := self._look_up(word[:-2])):
            return (*stem, *_possessive(stem[-1]))
        if len(word) > 1 and word.isalpha() and not set(word) & set("aeiouy"):  # "tv": read letter by letter
            letters = [self._look_up(letter) for letter in word]
            return tuple(phone for letter in letters for phone in letter or ())
        return None


def _possessive(last: str) -> Arpabet:
    if last in _SIBILANTS:
        return "IH0", "Z"
    return ("S" if last in _VOICELESS else "Z",)


@cache
def _default_lexicon() -> Lexicon:
    spec = importlib.util.find_spec("misaki")  # finds the folder, runs nothing
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(place, "data", name) for place in places[:1] for name in ("us_gold.json", "us_silver.json")]
    if not files or not all(file.is_file() for file in files):
        raise UserError("the pronunciation lexicon of misaki is missing: reinstall it with `pip install misaki`.")
    return Lexicon([json.loads(file.read_text(encoding="utf-8")) for file in files])


def _entries(entry: Entry | None) -> Iterator[str]:
    """The IPA of an entry, the default part of speech first."""
    if isinstance(entry, Mapping):
        first = entry.get("DEFAULT")
        yield from filter(None, [first, *(ipa for ipa in entry.values() if ipa != first)])
    elif entry:
        yield entry


def _phones(entry: Entry | None) -> Arpabet:
    """One lexicon entry's default; () where it is missing or holds an unknown symbol."""
    ipa = entry.get("DEFAULT") if isinstance(entry, Mapping) else entry
    return from_ipa(ipa) if ipa else ()


def _plain(word: str) -> str:
    """Lower case, accents removed, typographic apostrophes made plain."""
    decomposed = unicodedata.normalize("NFKD", word.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower().strip()


def split_words(text: str) -> list[str]:
    """A typed text as the words to pronounce; single digits are spelled.

    Raises:
        UserError: nothing is left, a number has several digits, or letters are not English ones.
    """
    words: list[str] = []
    for token in re.findall(r"[^\W_]+(?:'[^\W_]+)*'?|'[^\W_]+", _plain(text)):
        token = token.rstrip("'")
        if len(token) == 1 and token in "0123456789":
            words.append(_DIGITS[int(token)])
        elif re.search(r"\d", token):
            digits = " ".join(_DIGITS[int(c)] if c in "0123456789" else c for c in token)
            raise UserError(f"'{token}' can be said in several ways: type it as words, such as '{digits}'.")
        elif not re.fullmatch(r"[a-z']+", token):
            raise UserError(f"'{token}' has letters other than a-z: only English spelling can be pronounced.")
        else:
            words.append(token)
    if not words:
        raise UserError(f"no words in {text!r}: type a phrase such as 'turn on the light'.")
    return words


def require_word_list() -> None:
    """Raises UserError when the list of common words is not installed; imports nothing of it."""
    if importlib.util.find_spec("wordfreq") is None:
        raise UserError("the list of common words needs the demo extra: pip install -e '.[demo]'.")


def common_words(n: int, lexicon: Lexicon | None = None) -> list[str]:
    """The ``n`` commonest English words that the lexicon holds: letters a-z only, two phones or more.

    Raises:
        UserError: the word list is not installed, or holds fewer than ``n`` such words.
    """
    require_word_list()
    from wordfreq import top_n_list

    lexicon = lexicon or Lexicon.default()
    words: list[str] = []
    for word in top_n_list("en", 1_000_000):  # the list holds about 300,000
        if len(words) == n:
            return words
        if re.fullmatch(r"(?=.*[aeiouy])[a-z]{2,}", word) and word in lexicon and len(lexicon.word(word)) >= 2:
            words.append(word)
    if len(words) < n:
        raise UserError(f"{n} common words were asked for; there are {len(words)}.")
    return words


def near_words(
    words: Iterable[str],
    k: int = 10,
    among: Sequence[str] | None = None,
    lexicon: Lexicon | None = None,
    cached: bool = True,
) -> NearWords:
    """Each word's ``k`` nearest of ``among`` (None: of ``words``) by phone edit distance, homophones excluded.

    Kept in the cache folder.
    """
    lexicon = lexicon or Lexicon.default()
    words = list(words)
    phones = [lexicon.word(word) for word in words]
    if among is None:
        return NearWords.build(words, phones, words, phones, k, cached)
    return NearWords.build(words, phones, among, [lexicon.word(word) for word in among], k, cached)
