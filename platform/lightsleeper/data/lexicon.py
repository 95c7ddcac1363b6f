"""Text to phones: a lexicon of 183,000 words, a neural model for the rest, and the user's own pronunciations.

The lexicon is misaki's American one (Apache-2.0), read as data: importing misaki would pull its tagger. Its compact
IPA is mapped to the 39 ARPAbet phones without stress that corpora and models share.
"""

import importlib.util
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from lightsleeper.data.distance import edit_distance, libriphrase_distance
from lightsleeper.data.g2p import spell_out
from lightsleeper.data.near_words import NearWords
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.phones import PHONE_IDS, PHONES

__all__ = ["Lexicon", "NearWords", "Pronounces", "Pronunciation", "common_words", "edit_distance", 
           "libriphrase_distance", "near_words"]  # fmt: skip

Engine = Literal["lexicon", "neural", "user"]

_IPA = {
    "ɑ": "AA", "æ": "AE", "ə": "AH", "ʌ": "AH", "ᵊ": "AH", "ɔ": "AO", "W": "AW", "I": "AY", "b": "B", "ʧ": "CH",
    "d": "D", "ð": "DH", "ɛ": "EH", "ɜ": "ER", "A": "EY", "f": "F", "ɡ": "G", "h": "HH", "ɪ": "IH", "ᵻ": "IH",
    "i": "IY", "ʤ": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "ŋ": "NG", "O": "OW", "Y": "OY", "p": "P",
    "ɹ": "R", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "ʊ": "UH", "u": "UW", "v": "V", "w": "W", "j": "Y",
    "z": "Z", "ʒ": "ZH",
    # The flap stands only for a written t in this lexicon: "latter" has it, "ladder" has a plain d.
    "ɾ": "T",
    "ʔ": "T",
}  # fmt: skip
# Two symbols, one or two phones: r-coloured vowels, and "kitten", whose last vowel the dictionary leaves out.
_IPA_PAIRS = {"ɜɹ": ("ER",), "əɹ": ("ER",), "ʔn": ("T", "AH", "N")}
_STRESS = str.maketrans("", "", "ˈˌ")

# The lexicon leaves "a" out and gives "the" as before a vowel; running speech has the weak forms.
_WEAK_FORMS = {"a": ("AH",), "the": ("DH", "AH")}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SIBILANTS = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}


@dataclass(frozen=True)
class Pronunciation:
    """A text as phones. ``words`` holds the 0-based word number of each phone."""

    phones: list[int]
    words: list[int]
    engines: list[Engine]
    """Where each word's pronunciation comes from."""
    spelling: list[str]
    """The words as they were looked up: lower case, no punctuation."""

    @property
    def joined(self) -> str:
        """Phone symbols as one string, a blank between words: what ``libriphrase_distance`` compares."""
        parts = [""] * len(self.spelling)
        for phone, word in zip(self.phones, self.words, strict=True):
            parts[word] += PHONES[phone - 1]
        return " ".join(parts)


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

    def __init__(self, entries: Sequence[Mapping[str, str | Mapping[str, str | None]]]) -> None:
        """``entries`` are word-to-IPA tables, the most trusted first."""
        self._entries = entries
        self._known: dict[str, tuple[tuple[int, ...], Engine]] = {}

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

    def pronounce(self, text: str, overrides: Mapping[str, str] | None = None) -> Pronunciation:
        """Phones of a typed text. ``overrides`` maps words to ARPAbet such as ``"S IH1 R IY0"``.

        Raises:
            UserError: the text is empty, or holds something that has no English spelling.
        """
        own = {_plain(word): _parse_phones(word, spelled) for word, spelled in (overrides or {}).items()}
        spelling = split_words(text)
        phones: list[int] = []
        words: list[int] = []
        engines: list[Engine] = []
        for number, word in enumerate(spelling):
            found, engine = (own[word], "user") if word in own else self._pronounce_word(word)
            phones += found
            words += [number] * len(found)
            engines.append(engine)  # type: ignore[arg-type]
        return Pronunciation(phones, words, engines, spelling)

    def _pronounce_word(self, word: str) -> tuple[tuple[int, ...], Engine]:
        if word not in self._known:
            listed = self._look_up(word)
            if listed is not None:
                self._known[word] = listed, "lexicon"
            else:
                guessed = tuple(PHONE_IDS[phone] for phone in spell_out(word.replace("'", "")))
                if not guessed:
                    raise UserError(f"no pronunciation found for '{word}': give one in ARPAbet, such as 'S IH1 R IY0'.")
                self._known[word] = guessed, "neural"
        return self._known[word]

    def _look_up(self, word: str) -> tuple[int, ...] | None:
        if word in _WEAK_FORMS:
            return tuple(PHONE_IDS[phone] for phone in _WEAK_FORMS[word])
        for spelled in (word, word.capitalize(), word.upper()):
            for table in self._entries:
                if phones := _phones(table.get(spelled)):
                    return phones
        if word.endswith("'s") and (stem := self._look_up(word[:-2])):
            return (*stem, *_possessive(PHONES[stem[-1] - 1]))
        if len(word) > 1 and word.isalpha() and not set(word) & set("aeiouy"):  # "tv": read letter by letter
            letters = [self._look_up(letter) for letter in word]
            return tuple(phone for letter in letters for phone in letter or ())
        return None


def _possessive(last: str) -> tuple[int, ...]:
    if last in _SIBILANTS:
        return PHONE_IDS["IH"], PHONE_IDS["Z"]
    return (PHONE_IDS["S" if last in _VOICELESS else "Z"],)


@cache
def _default_lexicon() -> Lexicon:
    spec = importlib.util.find_spec("misaki")  # finds the folder, runs nothing
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(place, "data", name) for place in places[:1] for name in ("us_gold.json", "us_silver.json")]
    if not files or not all(file.is_file() for file in files):
        raise UserError("the pronunciation lexicon of misaki is missing: reinstall it with `pip install misaki`.")
    return Lexicon([json.loads(file.read_text(encoding="utf-8")) for file in files])


def _phones(entry: str | Mapping[str, str | None] | None) -> tuple[int, ...]:
    """One lexicon entry as phone ids; () where the entry is missing or holds an unknown symbol."""
    ipa = entry if isinstance(entry, str) or entry is None else entry.get("DEFAULT")
    if not ipa:
        return ()
    ipa = ipa.translate(_STRESS)
    found: list[str] = []
    at = 0
    while at < len(ipa):
        if pair := _IPA_PAIRS.get(ipa[at : at + 2]):
            found += pair
            at += 2
            continue
        if ipa[at] not in _IPA:
            return ()
        found.append(_IPA[ipa[at]])
        at += 1
    return tuple(PHONE_IDS[phone] for phone in found)


def _parse_phones(word: str, spelled: str) -> tuple[int, ...]:
    phones = [phone.rstrip("012").upper() for phone in spelled.split()]
    for phone in phones:
        if phone not in PHONE_IDS:
            raise UserError(f"pronunciation of '{word}': '{phone}' is no ARPAbet phone.{did_you_mean(phone, PHONES)}")
    if not phones:
        raise UserError(f"pronunciation of '{word}' is empty: give ARPAbet phones, such as 'S IH1 R IY0'.")
    return tuple(PHONE_IDS[phone] for phone in phones)


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
