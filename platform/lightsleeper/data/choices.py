"""Multiple-choice items made of text.

An item asks how a passage goes on. Four passages are drawn alike from the same document, apart from each other, and end
in pieces of exactly the same number of bytes, from a blank before a word to the end of a word. One of the four, drawn
last, is asked for; the pieces of all are the choices. So nothing about a choice alone tells whether it is right: not
its length, not its place, not its topic, not its words.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lightsleeper.data.documents import Document
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CHOICES_SET = "choices"
"""Name of a test set of items, in front of its metrics."""
CHOICES = 4
CONTEXT_BYTES = 160
"""Before the choices at most: with one of them they fit a byte model's window of 256 (ours)."""
LEAST_CONTEXT = 64
PIECE_BYTES = range(24, 65)
"""Of a choice; short enough to be read four times, long enough to hold some words (ours)."""
_DRAWS = 30
"""Lengths that are tried for an item: a document of a few lines may have no four pieces of most of them."""

_START = re.compile(rb"(?<=\S) (?=[^\s])")
_WORD_END = re.compile(rb"(?<=\S)(?=\s|\Z)")


@dataclass(frozen=True)
class Item:
    """One question: the choices are what may follow the context, blanks included."""

    context: str
    choices: tuple[str, ...]
    answer: int
    """Of the choices, from 0."""
    group: str
    """What its document is called: items of one group are not independent."""


def continuations(documents: Sequence[Document], count: int, seed: int = 0) -> list[Item]:
    """``count`` items, as evenly from all documents as they allow, the answers in each place equally often.

    The same documents give the same items, whatever their order. Raises UserError where they hold fewer.
    """
    found: list[Item] = []
    writers = [_Passages(document, seed) for document in sorted(documents, key=lambda document: document.digest)]
    while writers and len(found) < count:
        made = [(writer, writer.next()) for writer in writers]
        writers = [writer for writer, item in made if item is not None]
        found += [item for _, item in made if item is not None]
    if len(found) < count:
        raise UserError(
            f"{len(documents)} documents of the test give {len(found)} multiple-choice items, not {count}: ask for "
            "fewer, or give more text."
        )
    return [_placed(item, number % CHOICES) for number, item in enumerate(found[:count])]


def _placed(item: Item, answer: int) -> Item:
    """The same item with the truth in another place."""
    others = [choice for number, choice in enumerate(item.choices) if number != item.answer]
    choices = (*others[:answer], item.choices[item.answer], *others[answer:])
    return Item(item.context, choices, answer, item.group)


class _Passages:
    """Draws the items of one document; no byte is context or truth of two."""

    def __init__(self, document: Document, seed: int) -> None:
        self.document, self.text = document, document.content
        self.random = random.Random(f"{seed} {document.digest}")
        self.ends = {found.start() for found in _WORD_END.finditer(self.text)}
        starts = [found.start() for found in _START.finditer(self.text)]
        self.spans = [(begin, start) for start in starts if start - (begin := self._context(start)) >= LEAST_CONTEXT]
        self.used: list[tuple[int, int]] = []

    def next(self) -> Item | None:
        """Another item; None where the document has no more."""
        for _ in range(_DRAWS):
            length = self.random.choice(PIECE_BYTES)
            drawn = self._passages(length)
            if len(drawn) == CHOICES:
                texts = [self.text[start : start + length].decode() for _, start in drawn]
                truth = self.random.randrange(CHOICES)  # any of the four, whatever it is like
                begin, start = drawn[truth]
                self.used.append((begin, start + length))
                context = self.text[begin:start].decode()
                return Item(context, tuple(texts), truth, self.document.digest[:12])
        return None

    def _passages(self, length: int) -> list[tuple[int, int]]:
        """CHOICES passages or fewer, context and piece, with pieces of ``length`` bytes that differ; none overlap."""
        pieces = [span for span in self.spans if span[1] + length in self.ends]
        self.random.shuffle(pieces)
        chosen: dict[bytes, tuple[int, int]] = {}
        for begin, start in pieces:
            taken = [*self.used, *((low, place + length) for low, place in chosen.values())]
            if all(start + length <= low or begin >= high for low, high in taken):
                chosen.setdefault(self.text[start : start + length], (begin, start))
                if len(chosen) == CHOICES:
                    break
        return list(chosen.values())

    def _context(self, start: int) -> int:
        """Where the context of a piece begins: at a line, else at a word, at most CONTEXT_BYTES before it."""
        if start <= CONTEXT_BYTES:
            return 0
        window = self.text[start - CONTEXT_BYTES : start - LEAST_CONTEXT]
        cut = window.find(b"\n" if b"\n" in window else b" ")
        return start if cut < 0 else start - CONTEXT_BYTES + cut + 1  # without a blank there is no context


def hash_of(items: Sequence[Item]) -> str:
    """Tells one set of items from another."""
    return content_hash([asdict(item) for item in items])
