"""How a typed text is said: the interface of a language's phonemiser, and a text's pronunciations, the likeliest first.

`Lexicon` is the phonemiser of English. Another language needs a class with its two methods, whose phones are those of
the models (39 ARPAbet symbols, stress digits optional); `lightning detect` and `listen` take it by its dotted name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import Any, Protocol

from lightsleeper.data.arpabet import Arpabet, ids
from lightsleeper.errors import UserError
from lightsleeper.phones import PHONES

MOST = 8  # pronunciations of a text: three words of two each


@dataclass(frozen=True)
class Spoken:
    """One way to say one word."""

    arpabet: Arpabet
    engine: str
    """What knows it: lexicon, neural, user, or what another phonemiser calls itself."""


class Phonemizer(Protocol):
    """The words of a language and how they are said."""

    def split(self, text: str, /) -> list[str]:
        """The words of a typed text, as ``variants`` takes them. Raises UserError where there is none."""
        ...

    def variants(self, word: str, /) -> Sequence[Spoken]:
        """Ways to say ``word``, the likeliest first. Raises UserError where none is known."""
        ...


@dataclass(frozen=True)
class Pronunciation:
    """A text as phones. ``words`` holds the 0-based word number of each phone."""

    phones: list[int]
    words: list[int]
    engines: list[str]
    """Where each word's pronunciation comes from."""
    spelling: list[str]
    """The words as they were looked up: lower case, no punctuation."""
    arpabet: list[str] = field(default_factory=list)
    """The phones with stress digits, as far as the engine knows them."""

    @property
    def joined(self) -> str:
        """Phone symbols as one string, a blank between words: what ``libriphrase_distance`` compares."""
        parts = [""] * len(self.spelling)
        for phone, word in zip(self.phones, self.words, strict=True):
            parts[word] += PHONES[phone - 1]
        return " ".join(parts)

    def of_word(self, number: int) -> str:
        """ARPAbet of one word, such as ``"S IH1 R IY0"``."""
        return " ".join(p for p, word in zip(self.arpabet, self.words, strict=True) if word == number)


def assemble(spelling: Sequence[str], spoken: Sequence[Spoken]) -> Pronunciation:
    """A text's pronunciation from those of its words."""
    arpabet = [phone for said in spoken for phone in said.arpabet]
    words = [number for number, said in enumerate(spoken) for _ in said.arpabet]
    return Pronunciation(list(ids(arpabet)), words, [said.engine for said in spoken], list(spelling), arpabet)


def pronunciations(
    text: str,
    phonemizer: Phonemizer,
    own: Mapping[str, Sequence[Arpabet]] | None = None,
    most: int = MOST,
) -> list[Pronunciation]:
    """At most ``most`` different ways to say ``text``, the likeliest first.

    ``own``: words and the pronunciations that the user gave them, which replace the phonemiser's.

    Raises:
        UserError: the text is empty, or has a word that cannot be said.
    """
    own = own or {}
    spelling = phonemizer.split(text)
    ways = [
        [Spoken(phones, "user") for phones in own[word]] if word in own else list(phonemizer.variants(word))
        for word in spelling
    ]
    ranked = sorted(product(*map(enumerate, ways)), key=lambda choice: sum(rank for rank, _ in choice))
    found: dict[tuple[int, ...], Pronunciation] = {}
    for choice in ranked:
        said = assemble(spelling, [spoken for _, spoken in choice])
        found.setdefault(tuple(said.phones), said)
        if len(found) == most:
            break
    return list(found.values())


def load_phonemizer(name: str | None) -> Phonemizer:
    """The phonemiser of English, or the class or object of a dotted ``name`` such as ``my_package.German``.

    Raises:
        UserError: there is none of that name, or it lacks a method.
    """
    if name is None:
        from lightsleeper.data.lexicon import Lexicon

        return Lexicon.default()
    module, _, attribute = name.rpartition(".")
    try:
        found: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--phonemizer {name}: {error}; expected a class as my_package.German.") from error
    made = found() if isinstance(found, type) else found
    for method in ("split", "variants"):
        if not callable(getattr(made, method, None)):
            raise UserError(f"--phonemizer {name} has no method {method}(): see data/pronunciation.py.")
    return made
