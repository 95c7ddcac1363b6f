"""What the synthesised wake-word corpus says: the phrase, phrases that nearly are it, and running speech.

Near phrases are made of the commonest words: the phrase with one or two words replaced by near ones, and parts of it.
Those that sound alike are left out, and so is running speech that holds the phrase's sounds. Every part has voices,
near phrases and sentences of its own.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product, zip_longest

import numpy as np

from lightsleeper.data.corpus_build import Line
from lightsleeper.data.distance import nearest
from lightsleeper.data.lexicon import Lexicon, common_words, near_words
from lightsleeper.data.phrase_script import draw_line, split_voices
from lightsleeper.errors import UserError

PARTS = ("train", "val", "test")
NEAR_SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}  # of the near phrases
_VOCABULARY = 20_000  # words that near ones are sought among
_SPOKEN_WORDS = 5_000  # and that running speech is drawn from
_REACH = 40  # near words tried for each word of the phrase
_PAIR_REACH = 8  # and for each of two
_SENTENCE_WORDS = (2, 9)
_COMMON = 0.5  # power of a word's frequency: 1 would say "the" every twentieth word, 0 never


@dataclass(frozen=True)
class WakeSpec:
    """All that the corpus depends on; its fields are hashed."""

    phrase: str
    keywords: tuple[int, int, int]
    """Clips of the phrase in train, val, test."""
    near: tuple[int, int, int]
    """Clips of near phrases."""
    speech: tuple[int, int, int]
    """Clips of running speech."""
    near_phrases: int
    held_out_voices: int
    validation_voices: int
    seed: int

    @property
    def clips(self) -> int:
        return sum((*self.keywords, *self.near, *self.speech))


def require_words() -> None:
    """Raises UserError where the list of common words is not installed."""
    if importlib.util.find_spec("wordfreq") is None:
        raise UserError("the list of common words needs the demo extra: pip install -e '.[demo]'.")


def near_phrases(phrase: str, count: int, lexicon: Lexicon | None = None) -> list[str]:
    """``count`` phrases near to ``phrase`` by phone edit distance, each of other sounds than all before.

    None holds the phrase's sounds in a row: to any detector "smart mirrored" is a "smart mirror". Taken in turn from
    those where the first word changed, the second, two, and from parts of the phrase, the nearest of each first: the
    nearest of all would differ in the shortest word only.
    """
    lexicon = lexicon or Lexicon.default()
    words = phrase.split()
    near = near_words(words, _REACH, common_words(_VOCABULARY, lexicon), lexicon)
    groups = [[[*words[:at], other, *words[at + 1 :]] for other in near.of(words[at])] for at in range(len(words))]
    for at in range(len(words) - 1):
        pairs = product(near.of(words[at])[:_PAIR_REACH], near.of(words[at + 1])[:_PAIR_REACH])
        groups.append([[*words[:at], *pair, *words[at + 2 :]] for pair in pairs])
    sizes = range(1, len(words))
    groups.append([words[at : at + size] for size in sizes for at in range(len(words) - size + 1)])
    own = tuple(lexicon.pronounce(phrase).phones)
    heard, ranked = {own}, []
    for group in groups:
        sounds: dict[tuple[int, ...], str] = {}
        for text in map(" ".join, group):
            sound = tuple(lexicon.pronounce(text).phones)
            if sound not in heard and _key(own) not in _key(sound):
                heard.add(sound)
                sounds[sound] = text
        phones = [list(sound) for sound in sounds]
        if phones:
            order, _ = nearest([list(own)], phones, len(phones))
            ranked.append([list(sounds.values())[i] for i in order[0] if i >= 0])
    turns = zip_longest(*ranked)
    return [text for turn in turns for text in turn if text is not None][:count]


def write_script(spec: WakeSpec) -> list[Line]:
    """Every clip of the corpus, part after part, dry. The same spec gives the same script."""
    lexicon = Lexicon.default()
    voices = split_voices(spec.held_out_voices, spec.validation_voices, spec.seed)
    near = split_near(near_phrases(spec.phrase, spec.near_phrases, lexicon), spec.seed)
    lines: list[Line] = []
    for number, part in enumerate(PARTS):
        rng = np.random.default_rng([spec.seed, 50, number])
        texts = [(f"{part} keyword", spec.phrase)] * spec.keywords[number]
        texts += [(f"{part} near", near[part][i % len(near[part])]) for i in range(spec.near[number])]
        texts += [(f"{part} speech", text) for text in sentences(spec.phrase, spec.speech[number], rng, lexicon)]
        speakers = voices[part]
        for kind, text in texts:
            line = draw_line(kind, text, speakers[int(rng.integers(len(speakers)))], rng)
            lines.append(Line(**{**line.__dict__, "dry": True}))
    return lines


def split_near(phrases: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Near phrases by part, at random: each part has some of the nearest."""
    if len(phrases) < 6:
        raise UserError(f"only {len(phrases)} phrases lie near this one; at least 6 are needed: raise near_phrases.")
    order = np.random.default_rng([seed, 51]).permutation(len(phrases))
    first = round(NEAR_SHARES["train"] * len(phrases))
    second = first + max(1, round(NEAR_SHARES["val"] * len(phrases)))
    cuts = {"train": order[:first], "val": order[first:second], "test": order[second:]}
    return {part: [phrases[i] for i in sorted(chosen)] for part, chosen in cuts.items()}


def sentences(phrase: str, count: int, rng: np.random.Generator, lexicon: Lexicon) -> list[str]:
    """Runs of words as often as in English (damped), none with the sounds of the phrase in a row."""
    require_words()
    from wordfreq import word_frequency

    words = common_words(_SPOKEN_WORDS, lexicon)
    share = np.array([word_frequency(word, "en") for word in words]) ** _COMMON
    share /= share.sum()
    phones = {word: _key(lexicon.word(word)) for word in words}
    own = _key(lexicon.pronounce(phrase).phones)
    found: list[str] = []
    while len(found) < count:
        chosen = [words[i] for i in rng.choice(len(words), size=int(rng.integers(*_SENTENCE_WORDS)), p=share)]
        if own not in "".join(phones[word] for word in chosen):
            found.append(" ".join(chosen))
    return found


def _key(phones: Sequence[int]) -> str:
    """One character a phone, so that a run is a substring."""
    return "".join(chr(64 + phone) for phone in phones)
