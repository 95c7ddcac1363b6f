"""Texts that a training clip does not say but nearly does: one of its words gives way to a near one.

A draw is a pure function of (seed, epoch, clip), so a resumed run sees the texts an uninterrupted one sees. It works on
phone tuples made beforehand and takes some 10 microseconds, because it runs in every training step.
"""

import random
from collections.abc import Collection, Sequence

from lightsleeper.data.lexicon import Lexicon, NearWords
from lightsleeper.phones import CLASSES

Sound = tuple[int, ...]
"""Phone ids of one word."""
REACH = 5  # a near word is one of the nearest five
_TRIES = 100  # a draw fails by meeting a homophone or something kept for the tests; about 1 in 50 does


class HardTexts:
    """Draws negatives for texts over ``near.words``.

    Args:
        near: the words of training and their neighbours among themselves.
        unseen: words that training must not meet, not even as a text.
        reserved: phrases kept for validation and test.
        near_word_share: share of draws that take a real word; the others change one or two phones at random.
    """

    def __init__(
        self, near: NearWords, unseen: Collection[str], reserved: Collection[str], near_word_share: float = 0.6
    ) -> None:
        lexicon = Lexicon.default()
        self._sounds: dict[str, Sound] = {word: lexicon.word(word) for word in near.words}
        self._near = {word: [self._sounds[other] for other in near.of(word)[:REACH]] for word in near.words}
        self._unseen = {lexicon.word(word) for word in unseen}
        self._reserved = {tuple(lexicon.word(word) for word in text.split(" ")) for text in reserved}
        self._near_word_share = near_word_share

    def sounds(self, text: str) -> list[Sound]:
        """The pronunciation of each word."""
        return [self._sounds[word] for word in text.split(" ")]

    def draw(self, text: str, count: int, key: tuple[int, int, int]) -> list[list[Sound]]:
        """``count`` pronunciations, word by word, each unlike that of ``text``. ``key``: seed, epoch, clip."""
        seed, epoch, clip = key
        rng = random.Random((seed << 64) ^ (epoch << 40) ^ clip)
        words = text.split(" ")
        own = [self._sounds[word] for word in words]
        return [self._one(words, own, rng) for _ in range(count)]

    def _one(self, words: Sequence[str], own: list[Sound], rng: random.Random) -> list[Sound]:
        for _ in range(_TRIES):
            place = int(rng.random() * len(words))
            near = self._near[words[place]]
            if near and rng.random() < self._near_word_share:
                other = near[int(rng.random() * len(near))]
            else:
                other = _misheard(own[place], rng)
            changed = [*own[:place], other, *own[place + 1 :]]
            if other != own[place] and other not in self._unseen and tuple(changed) not in self._reserved:
                return changed
        raise RuntimeError(f"no negative text was found for {' '.join(words)!r}")  # the share of bad draws is far lower


def _misheard(sound: Sound, rng: random.Random) -> Sound:
    """One or two phones replaced, added or dropped."""
    phones = list(sound)
    for _ in range(1 + (rng.random() < 0.5)):
        place, chance = int(rng.random() * len(phones)), rng.random()
        phone = 1 + int(rng.random() * (CLASSES - 1))
        if chance < 0.6:
            phones[place] = phone
        elif chance < 0.8 or len(phones) < 2:
            phones.insert(place, phone)
        else:
            del phones[place]
    return tuple(phones)


def flatten(sounds: Sequence[Sound]) -> tuple[list[int], list[int]]:
    """Phones of all words in a row, and the 0-based word number of each."""
    phones = [phone for sound in sounds for phone in sound]
    words = [number for number, sound in enumerate(sounds) for _ in sound]
    return phones, words
