"""ARPAbet with stress digits, as lexicons write it and users type it, and the 39 phone ids without stress."""

from collections.abc import Iterable

from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.phones import PHONE_IDS, PHONES

Arpabet = tuple[str, ...]
"""Phones of one word, vowels with a stress digit where it is known: ``("S", "IH1", "R", "IY0")``."""

VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])

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
_STRESS = {"ˈ": "1", "ˌ": "2"}


def from_ipa(ipa: str) -> Arpabet:
    """An entry of misaki's lexicon, in its compact IPA; () where it holds an unknown symbol."""
    found: list[str] = []
    stress = "0"
    at = 0
    while at < len(ipa):
        if ipa[at] in _STRESS:
            stress = _STRESS[ipa[at]]
            at += 1
            continue
        pair = _IPA_PAIRS.get(ipa[at : at + 2])
        if pair is None and ipa[at] not in _IPA:
            return ()
        for phone in pair or (_IPA[ipa[at]],):
            found.append(phone + stress if phone in VOWELS else phone)
            stress = "0" if phone in VOWELS else stress
        at += 1 if pair is None else 2
    return tuple(found)


def parse(word: str, spelled: str) -> Arpabet:
    """Phones that a user gave for ``word``, such as ``"S IH1 R IY0"``; raises UserError for what is none."""
    phones = tuple(spelled.upper().split())
    for phone in phones:
        if (plain := phone.rstrip("012")) not in PHONE_IDS:
            raise UserError(f"pronunciation of '{word}': '{plain}' is no ARPAbet phone.{did_you_mean(plain, PHONES)}")
    if not phones:
        raise UserError(f"pronunciation of '{word}' is empty: give ARPAbet phones, such as 'S IH1 R IY0'.")
    return phones


def ids(phones: Iterable[str]) -> tuple[int, ...]:
    """Phone ids, 1 to 39; stress is dropped."""
    return tuple(PHONE_IDS[phone.rstrip("012")] for phone in phones)
