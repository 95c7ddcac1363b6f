"""What the corpus of keywords says: few phrases, each by many voices, where the phrase corpus has many phrases once."""

from collections.abc import Collection, Sequence

import numpy as np

from lightsleeper.data.corpus_build import Line
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.phrase_script import draw_line
from lightsleeper.errors import UserError

_TRIES = 50  # draws for each phrase wanted


def write_keywords(
    words: Sequence[str],
    voices: Sequence[str],
    reserved: Collection[str],
    phrases: int,
    recordings: int,
    max_words: int,
    seed: int,
) -> list[Line]:
    """``recordings`` lines of each of ``phrases`` texts, in equal shares of 1, 2, ... ``max_words`` words.

    No text is ``reserved`` or sounds like another one. Voices differ as far as there are enough of them.

    Raises:
        UserError: there are too few words for so many phrases.
    """
    lexicon = Lexicon.default()
    rng = np.random.default_rng([seed, 14])
    kept_apart = {_sound(text, lexicon) for text in reserved}
    taken: dict[tuple[int, ...], str] = {}
    for _ in range(_TRIES * phrases):
        if len(taken) == phrases:
            break
        count = 1 + len(taken) % max_words
        text = " ".join(words[int(rng.integers(len(words)))] for _ in range(count))
        sound = _sound(text, lexicon)
        if sound not in kept_apart:
            taken.setdefault(sound, text)
    else:
        raise UserError(f"{len(words)} words are too few for {phrases} keywords: raise `vocabulary`, lower `phrases`.")
    lines = []
    for text in taken.values():
        rounds = -(-recordings // len(voices))
        order = np.concatenate([rng.permutation(len(voices)) for _ in range(rounds)])[:recordings]
        lines += [draw_line("train", text, voices[int(voice)], rng) for voice in order]
    return lines


def _sound(text: str, lexicon: Lexicon) -> tuple[int, ...]:
    return tuple(phone for word in text.split(" ") for phone in lexicon.word(word))
