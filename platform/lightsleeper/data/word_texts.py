"""What running speech says, and which of its words are spotted.

Sentences are made of English words, or read from a text; none is in two parts. The vocabulary is read off the training
sentences: their most frequent content words. Among made sentences no two words sound alike; of a text, sentences with a
word that sounds like one of the vocabulary are left out, so that what an annotation says is what can be heard.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightsleeper.data.lexicon import Lexicon, common_words
from lightsleeper.errors import UserError

PARTS = ("train", "val", "test")
DIFFERENT_WORDS = 5_000  # that sentences are made of, beside the vocabulary
_TRIES = 50  # for a sentence that has not been said
_COMMON = 0.5  # power of a word's frequency: 1 would say "the" every twentieth word, 0 never

# Closed classes; "them" is missing because the twenty words of SpeechYOLO's MTWV have it.
_CLOSED = """
    a an the and or nor but so if than then as that this these those i me my mine myself you your yours yourself he
    him his himself she her hers herself it its itself we us our ours ourselves they their theirs themselves who whom
    whose which what when where why how am is are was were be been being have has had having do does did doing done will
    would shall should can could may might must ought of in on at by for with from to into onto upon over under about
    above below after before between through during without within against toward towards among around behind beside
    beneath off out up down near since until till while though although because unless whether not no yes too very just
    also there here all each both such same own some other another let got don't i'm it's that's you're can't didn't
    he's she's i'll i've won't we're they're isn't wasn't
"""
STOP_WORDS = frozenset(_CLOSED.split())


@dataclass(frozen=True)
class TextSpec:
    """All that sentences and vocabulary depend on; its fields are hashed."""

    words: int
    """Size of the vocabulary."""
    sentences: tuple[int, int, int]
    """In train, val, test; fewer where a text holds fewer."""
    length: tuple[int, int]
    """Fewest and most words in a sentence."""
    keyword_share: float
    """Of the words of made sentences that are drawn from the vocabulary."""
    min_phones: int
    """Of a word of the vocabulary."""
    text: str | None
    """Digest of the text that is read; None: sentences are made."""
    seed: int


@dataclass(frozen=True)
class Texts:
    """Sentences by part, and the words of the vocabulary, the most frequent first."""

    sentences: dict[str, list[str]]
    words: list[str]


def write_texts(spec: TextSpec, path: Path | None = None, lexicon: Lexicon | None = None) -> Texts:
    """The sentences and the vocabulary of ``spec``; ``path`` is the text whose digest it names.

    Raises:
        UserError: the word list is not installed, or there are too few words or sentences.
    """
    lexicon = lexicon or Lexicon.default()
    parts = _made(spec, lexicon) if path is None else _shared_out(read_sentences(path, spec.length, lexicon), spec)
    counts = Counter(word for sentence in parts["train"] for word in sentence.split())
    words = most_frequent(counts, spec.words, spec.min_phones, lexicon)
    if path is not None:
        sounds = {lexicon.word(word): word for word in words}
        parts = {part: [s for s in some if _plain(s, sounds, lexicon)] for part, some in parts.items()}
        parts = {part: some[:most] for (part, some), most in zip(parts.items(), spec.sentences, strict=True)}
        for part, some in parts.items():
            if not some:
                raise UserError(f"{path} holds too few sentences: none are left for '{part}'.")
    return Texts(parts, words)


def most_frequent(
    counts: Counter[str],
    words: int,
    min_phones: int = 0,
    lexicon: Lexicon | None = None,
    stop: Iterable[str] = STOP_WORDS,
) -> list[str]:
    """The ``words`` most frequent ones that are no ``stop`` words, alphabetical among equals.

    With a lexicon, of words that sound alike the most frequent only, and none shorter than ``min_phones``.

    Raises:
        UserError: there are fewer.
    """
    left_out = set(stop)
    sounds: set[tuple[int, ...]] = set()
    found: list[str] = []
    for word in sorted(counts, key=lambda word: (-counts[word], word)):
        if len(found) == words:
            return found
        if word in left_out:
            continue
        if lexicon is not None:
            phones = lexicon.word(word)
            if len(phones) < min_phones or phones in sounds:
                continue
            sounds.add(phones)
        found.append(word)
    if len(found) < words:
        raise UserError(
            f"a vocabulary of {words} words was asked for; the training texts have {len(found)} of that kind."
        )
    return found


def read_sentences(path: Path, length: tuple[int, int], lexicon: Lexicon) -> list[str]:
    """Different sentences of a text, lower case: between full stops, semicolons, colons or empty lines.

    Those with figures, foreign letters or words that the lexicon does not know are left out, and so are those shorter
    or longer than ``length``.

    Raises:
        UserError: the file cannot be read, or holds no such sentence.
    """
    try:
        text = path.read_text(encoding="utf-8").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"text: cannot read {path}: {error}.") from None
    found: dict[str, None] = {}
    for sentence in re.split(r"[.!?;:]+|\n\s*\n", text.lower()):
        words = [word.strip("'") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", sentence)]
        if length[0] <= len(words) <= length[1] and all(re.fullmatch("[a-z']+", w) and w in lexicon for w in words):
            found[" ".join(words)] = None
    if not found:
        raise UserError(f"text: {path} holds no sentence of {length[0]} to {length[1]} English words.")
    return list(found)


def _made(spec: TextSpec, lexicon: Lexicon) -> dict[str, list[str]]:
    """Runs of words as often as in English (damped), in which the vocabulary is said more often; all different."""
    from wordfreq import word_frequency

    heard: dict[tuple[int, ...], str] = {}
    for word in common_words(DIFFERENT_WORDS + 2 * spec.words, lexicon):
        heard.setdefault(lexicon.word(word), word)
    candidates = list(heard.values())
    content = [word for word in candidates if word not in STOP_WORDS and len(lexicon.word(word)) >= spec.min_phones]
    keywords = content[: spec.words]
    if len(keywords) < spec.words:
        raise UserError(f"words is {spec.words}; sentences can be made with {len(keywords)} at most.")
    chosen = set(keywords)
    others = [word for word in candidates if word not in chosen]
    share = np.array([word_frequency(word, "en") for word in others]) ** _COMMON
    edges = np.cumsum(share / share.sum())
    said: set[str] = set()
    parts: dict[str, list[str]] = {}
    for number, (part, count) in enumerate(zip(PARTS, spec.sentences, strict=True)):
        rng = np.random.default_rng([spec.seed, 80, number])
        parts[part] = []
        for _ in range(_TRIES * count):
            if len(parts[part]) == count:
                break
            size = int(rng.integers(spec.length[0], spec.length[1] + 1))
            own = rng.random(size) < spec.keyword_share
            drawn = np.minimum(np.searchsorted(edges, rng.random(size)), len(others) - 1)
            spotted = rng.integers(len(keywords), size=size)
            words = [keywords[k] if mine else others[o] for mine, k, o in zip(own, spotted, drawn, strict=True)]
            sentence = " ".join(words)
            if sentence not in said:
                said.add(sentence)
                parts[part].append(sentence)
        if len(parts[part]) < count:
            raise UserError(f"there are too few different sentences of {spec.length[0]} to {spec.length[1]} words.")
    return parts


def _shared_out(sentences: Sequence[str], spec: TextSpec) -> dict[str, list[str]]:
    """Sentences of a text by part, in the proportions of ``spec.sentences``."""
    order = np.random.default_rng([spec.seed, 81]).permutation(len(sentences))
    shares = np.cumsum(spec.sentences) / sum(spec.sentences) * len(sentences)
    first, second = round(float(shares[0])), round(float(shares[1]))
    cuts = (order[:first], order[first:second], order[second:])
    return {part: [sentences[i] for i in cut] for part, cut in zip(PARTS, cuts, strict=True)}


def _plain(sentence: str, sounds: dict[tuple[int, ...], str], lexicon: Lexicon) -> bool:
    """Whether no word of the sentence sounds like another word of the vocabulary."""
    return all(sounds.get(lexicon.word(word), word) == word for word in sentence.split())
