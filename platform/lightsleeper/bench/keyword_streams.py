"""Validation phrases strung into a stream, with what was said where."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.data.spoken_phrases import SpokenPhrases
from lightsleeper.deploy.keyword import Keyword

GAP_S = (0.1, 1.0)
FLOOR = 1e-3  # of the noise between phrases: no recording is digital silence


@dataclass(frozen=True)
class Line:
    """A phrase of a stream."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class PhraseStream:
    """Phrases one after the other."""

    audio: NDArray[np.float32]
    lines: list[Line]
    others: list[str]
    """Texts of as many words that are not said."""

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE

    @property
    def texts(self) -> list[str]:
        """What is said, each text once, in order."""
        return list(dict.fromkeys(line.text for line in self.lines))


def phrase_stream(seconds: float, seed: int = 0) -> PhraseStream:
    """At least ``seconds`` of validation clips of the default corpus, phrases in their order of drawing; those that are
    said by several voices come about as often."""
    data = SpokenPhrases()
    data.load()
    corpus, rng = data.corpus, np.random.default_rng(seed)
    pieces: list[NDArray[np.float32]] = []
    lines: list[Line] = []
    samples = 0
    texts = np.array(corpus.texts, dtype=object)
    clips = corpus.clips("val")
    often = [clip for clip in clips if (texts[clips] == texts[clip]).sum() > 1]  # keywords: one clip by each voice
    order = [*rng.permutation(often)[: max(4, int(seconds / 8))], *rng.permutation(clips)]
    for clip in order:
        if samples >= seconds * SAMPLE_RATE:
            break
        gap, audio = np.zeros(round(rng.uniform(*GAP_S) * SAMPLE_RATE), np.float32), corpus.audio(int(clip))
        start = samples + len(gap)
        pieces += [gap, audio]
        samples = start + len(audio)
        lines.append(Line(corpus.texts[clip], start / SAMPLE_RATE, samples / SAMPLE_RATE))
    heard = np.concatenate(pieces)
    heard += FLOOR * rng.standard_normal(len(heard), dtype=np.float32)
    said = {line.text for line in lines}
    return PhraseStream(heard, lines, [text for text in dict.fromkeys(texts[clips]) if text not in said])


def keyword_of(text: str) -> Keyword:
    """A keyword by its usual pronunciation."""
    said = Lexicon.default().pronounce(text)
    return Keyword(text, np.array(said.phones), np.array(said.words), tuple(said.spelling))
