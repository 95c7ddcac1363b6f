"""Typed keywords on the command line: `--keyword`, their pronunciations, and who gives them."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightsleeper.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lightsleeper.data.arpabet import Arpabet
    from lightsleeper.data.pronunciation import Phonemizer, Pronunciation
    from lightsleeper.deploy.keyword import Keyword

WAY, WORD = ",", "/"  # between pronunciations, between the words of one


def add_keywords(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--keyword",
        action="append",
        default=[],
        metavar="TEXT[=PHONES]",
        help="phrase to look for, perhaps with its pronunciation in ARPAbet: 'siri=S IH1 R IY0', words apart by /, "
        f"several ways to say it by a comma; may be given several times{more}",
    )
    parser.add_argument(
        "--pronounce",
        action="append",
        default=[],
        metavar="[WORD=]PHONES",
        help="ARPAbet for a word of the keywords: siri='S IH1 R IY0'",
    )
    parser.add_argument(
        "--phonemizer", metavar="NAME", help="class that knows another language: my_package.German; default: English"
    )


def read_keywords(args: argparse.Namespace) -> "list[list[Keyword]]":
    """Each keyword by its pronunciations, the likeliest first. One that was only guessed is told. Raises UserError."""
    from lightsleeper.data.pronunciation import load_phonemizer

    phonemizer = load_phonemizer(args.phonemizer)
    texts = [entry.partition("=")[0] for entry in args.keyword]
    words = [word for text in texts for word in phonemizer.split(text)]
    said = pronounced(words, args.pronounce, phonemizer)
    found = []
    for entry in args.keyword:
        text, equals, phones = entry.partition("=")
        own = {**said, **_own(text, phones, phonemizer)} if equals else said
        found.append(keyword(text, phonemizer, own))
    return found


def keyword(text: str, phonemizer: "Phonemizer", own: "Mapping[str, Sequence[Arpabet]]") -> "list[Keyword]":
    """The pronunciations of a typed ``text``; ``own`` are the user's, word by word. Raises UserError."""
    from lightsleeper.data.pronunciation import pronunciations

    ways = pronunciations(text, phonemizer, own)
    for number, (word, engine) in enumerate(zip(ways[0].spelling, ways[0].engines, strict=True)):
        if engine == "neural":
            said = ways[0].of_word(number)
            print(f"note: guessed the pronunciation {word}='{said}'; --pronounce sets it.", file=sys.stderr)
    return [_keyword(text, way) for way in ways]


def _keyword(text: str, way: "Pronunciation") -> "Keyword":
    import numpy as np

    from lightsleeper.deploy.keyword import Keyword

    phones, words = (np.array(values, dtype=np.int64) for values in (way.phones, way.words))
    said = f" {WORD} ".join(way.of_word(number) for number in range(len(way.spelling)))
    return Keyword(text, phones, words, tuple(way.spelling), said, tuple(way.engines))


def pronounced(words: Sequence[str], given: Sequence[str], phonemizer: "Phonemizer") -> "dict[str, list[Arpabet]]":
    """Word -> ARPAbet from `WORD=PHONES`, or from `PHONES` alone where the one keyword is one word.

    Raises UserError for a word that no keyword has.
    """
    found: dict[str, list[Arpabet]] = {}
    for entry in given:
        name, equals, phones = entry.rpartition("=")
        if not equals:
            if len(words) != 1:
                raise UserError(f"--pronounce '{entry}': which of {', '.join(words)}? Expected {words[0]}='{entry}'.")
            name = words[0]
        spelled = phonemizer.split(name)
        if len(spelled) != 1 or spelled[0] not in words:
            raise UserError(f"--pronounce {entry}: no keyword has the word '{name}'.{did_you_mean(name, words)}")
        found.setdefault(spelled[0], []).extend(_ways(spelled[0], phones))
    return found


def _own(text: str, phones: str, phonemizer: "Phonemizer") -> "dict[str, list[Arpabet]]":
    """Word -> ARPAbet from the ``phones`` of a whole keyword, its words apart by a slash."""
    words = phonemizer.split(text)
    ways = [way.split(WORD) for way in phones.split(WAY)]
    for way in ways:
        if len(way) != len(words):
            raise UserError(
                f"--keyword '{text}={phones}': {len(words)} words and {len(way)} pronunciations; expected one a word, "
                f"apart by '{WORD}', such as 'hey siri=HH EY1 / S IH1 R IY0'."
            )
    found: dict[str, list[Arpabet]] = {}
    for number, word in enumerate(words):
        found[word] = list(dict.fromkeys(phones for way in ways for phones in _ways(word, way[number])))
    return found


def _ways(word: str, phones: str) -> "list[Arpabet]":
    from lightsleeper.data.arpabet import parse

    return [parse(word, way) for way in phones.split(WAY)]
