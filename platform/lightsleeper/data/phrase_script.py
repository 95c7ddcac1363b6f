"""What the spoken-phrase corpus says, and who says it: words, voices and texts of every part, from one seed.

Parts: ``train``; ``val`` and ``test`` with voices and phrases of their own over words that training has;
``unseen_words`` with the test voices and only words that training never has, in sound or in text. The evaluation
parts are made of small families: a keyword phrase, spoken by several voices, and the phrases where one of its words
gives way to that word's nearest words, so that the hard negatives of an episode are as near as the vocabulary allows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lightsleeper.data.corpus_build import Line
from lightsleeper.data.lexicon import Lexicon, NearWords, common_words, near_words
from lightsleeper.data.synthesis import ACCENTS, RATE_WPM, VARIANTS
from lightsleeper.errors import UserError

FAMILY = 4  # phrases: the keyword and its three nearest
KEYWORD_VOICES = 4  # the anchor's and those of three positives
PITCH = (15, 90)  # of espeak's 0..100; beyond, some variants leave the human range
NEIGHBOURS = 20  # kept per word: more than a family needs, because many lie equally near


@dataclass(frozen=True)
class PhraseSpec:
    """All that the corpus depends on; its fields are hashed."""

    train_phrases: int
    vocabulary: int
    max_words: int
    held_out_words: float
    held_out_voices: int
    validation_voices: int
    episodes: int
    validation_episodes: int
    seed: int

    @property
    def clips(self) -> int:
        """Clips of all parts."""
        families = self.validation_episodes + self.episodes * (2 if self.held_out_words else 1)
        return self.train_phrases + self.max_words * families * (KEYWORD_VOICES + FAMILY - 1)


@dataclass(frozen=True)
class Vocabulary:
    """The words of training, and those it never has. No word of one sounds like a word of the other."""

    seen: list[str]
    unseen: list[str]


def split_vocabulary(spec: PhraseSpec) -> Vocabulary:
    """The commonest words, a share of their pronunciations held out."""
    lexicon = Lexicon.default()
    words = common_words(spec.vocabulary, lexicon)
    sounds = sorted({lexicon.word(word) for word in words})
    rng = np.random.default_rng([spec.seed, 10])
    count = round(len(sounds) * spec.held_out_words)
    held_out = {sounds[i] for i in rng.permutation(len(sounds))[:count]}
    unseen = [word for word in words if lexicon.word(word) in held_out]
    return Vocabulary([word for word in words if lexicon.word(word) not in held_out], unseen)


def split_voices(held_out: int, validation: int, seed: int) -> dict[str, list[str]]:
    """Voices of train, val and test. Twins that differ by a number (steph, steph2) stay on one side."""
    families: dict[str, list[str]] = {}
    for voice in VARIANTS:
        stem = voice.rstrip("0123456789").lower()
        families.setdefault(stem if len(stem) > 1 else voice, []).append(voice)  # m1..m8, f1..f5 are unlike each other
    names = sorted(families)
    rng = np.random.default_rng([seed, 11])
    order = [families[names[i]] for i in rng.permutation(len(names))]
    taken: dict[str, list[str]] = {"test": [], "val": [], "train": []}
    room = {"test": held_out, "val": validation, "train": len(VARIANTS)}
    for family in order:
        part = next(part for part in taken if len(taken[part]) + len(family) <= room[part])
        taken[part] += family
    return taken


def write_script(spec: PhraseSpec) -> list[Line]:
    """Every clip of the corpus, part after part. The same spec gives the same script."""
    words = split_vocabulary(spec)
    voices = split_voices(spec.held_out_voices, spec.validation_voices, spec.seed)
    seen_near = near_words(words.seen, NEIGHBOURS)
    pools = {"val": (words.seen, seen_near, spec.validation_episodes), "test": (words.seen, seen_near, spec.episodes)}
    if words.unseen:
        pools["unseen_words"] = (words.unseen, near_words(words.unseen, NEIGHBOURS), spec.episodes)
    reserved: set[str] = set()
    evaluation: list[Line] = []
    for number, (part, (pool, near, episodes)) in enumerate(pools.items()):
        rng = np.random.default_rng([spec.seed, 12, number])
        families = [
            family
            for count in range(1, spec.max_words + 1)
            for family in _families(pool, near, seen_near, count, episodes, reserved, rng)
        ]
        speakers = voices["val" if part == "val" else "test"]
        evaluation += _speak(part, families, speakers, rng)
    rng = np.random.default_rng([spec.seed, 13])
    needed = {word for line in evaluation if line.part != "unseen_words" for word in line.text.split()}
    texts = _training_texts(spec, words.seen, reserved, needed, rng)
    return [draw_line("train", text, _pick(voices["train"], rng), rng) for text in texts] + evaluation


def _families(
    pool: Sequence[str],
    near: NearWords,
    reference: NearWords,
    count: int,
    episodes: int,
    reserved: set[str],
    rng: np.random.Generator,
) -> Iterator[list[str]]:
    """One family of phrases of ``count`` words per episode, the keyword first; their texts join ``reserved``.

    The word that changes is drawn so that its neighbours lie as far as those of a random word of ``reference``: a
    small pool has fewer near neighbours, and would make an easier test.
    """
    spread, target = _spread(near), _spread(reference)
    order = np.argsort(spread, kind="stable")
    made = 0
    for _ in range(200 * episodes):
        if made == episodes:
            return
        wish = target[int(rng.integers(len(target)))]
        first, last = np.searchsorted(spread, [wish - 0.01, wish + 0.01], sorter=order)
        if first == last:  # none lies exactly so far: one of those about there
            first, last = max(first - 10, 0), min(last + 10, len(order))
        changing = near.words[int(order[int(rng.integers(first, last))])]
        alternatives = _nearest(near, changing, rng)
        phrase = [_pick(pool, rng) for _ in range(count)]
        at = int(rng.integers(count))
        family = [" ".join([*phrase[:at], word, *phrase[at + 1 :]]) for word in [changing, *alternatives]]
        if len(family) == FAMILY and not reserved.intersection(family):
            reserved.update(family)
            made += 1
            yield family
    raise UserError(
        f"{len(pool)} words are too few for {episodes} test episodes of {count} word{'s' * (count > 1)}: "
        "raise `vocabulary` or lower the number of episodes."
    )


def _nearest(near: NearWords, word: str, rng: np.random.Generator) -> list[str]:
    """Three nearest words; equally near ones in random order, or the commonest would tell the wrong audio."""
    row = near.words.index(word)
    distances = near.distances[row][near.neighbours[row] >= 0]
    order = np.lexsort((rng.random(len(distances)), distances))
    return [near.of(word)[int(i)] for i in order[: FAMILY - 1]]


def _spread(near: NearWords) -> np.ndarray:
    """Mean distance of each word's nearest three; words with fewer count as far."""
    distances = near.distances[:, : FAMILY - 1].astype(float)
    return np.where(distances < 0, 99.0, distances).mean(axis=1)


def _speak(part: str, families: Sequence[Sequence[str]], voices: Sequence[str], rng: np.random.Generator) -> list[Line]:
    if len(voices) < KEYWORD_VOICES:
        raise UserError(f"part '{part}' has {len(voices)} voices; an episode needs {KEYWORD_VOICES}.")
    lines = []
    for family in families:
        for member, text in enumerate(family):
            speakers = rng.permutation(len(voices))[: KEYWORD_VOICES if member == 0 else 1]
            lines += [draw_line(part, text, voices[int(i)], rng) for i in speakers]
    return lines


def _training_texts(
    spec: PhraseSpec, words: Sequence[str], reserved: set[str], needed: set[str], rng: np.random.Generator
) -> list[str]:
    """Random phrases in equal shares of 1, 2, ... words, none reserved, holding every word in ``needed``."""
    texts: list[list[str]] = []
    while len(texts) < spec.train_phrases:
        phrase = [_pick(words, rng) for _ in range(1 + len(texts) % spec.max_words)]
        if " ".join(phrase) not in reserved:
            texts.append(phrase)
    tally = Counter(word for phrase in texts for word in phrase)
    slots = [(phrase, at) for phrase in texts if len(phrase) > 1 for at in range(len(phrase))]
    order = iter(rng.permutation(len(slots)))
    for word in sorted(needed - set(tally)):  # at full size a few of thousands
        for slot in order:
            phrase, at = slots[int(slot)]
            changed = [*phrase[:at], word, *phrase[at + 1 :]]
            spare = phrase[at] not in needed or tally[phrase[at]] > 1
            if spare and " ".join(changed) not in reserved:
                tally[phrase[at]] -= 1
                tally[word] += 1
                phrase[at] = word
                break
        else:
            raise UserError(
                f"train_phrases {spec.train_phrases} cannot hold the {len(needed)} words of the val and test phrases: "
                "raise it, or lower the number of episodes."
            )
    return [" ".join(phrase) for phrase in texts]


def draw_line(part: str, text: str, voice: str, rng: np.random.Generator) -> Line:
    """A clip in a random accent, at a random rate and pitch."""
    return Line(
        part,
        text,
        voice,
        _pick(ACCENTS, rng),
        int(rng.integers(RATE_WPM[0], RATE_WPM[1] + 1)),
        int(rng.integers(PITCH[0], PITCH[1] + 1)),
        int(rng.integers(2**62)),
    )


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
