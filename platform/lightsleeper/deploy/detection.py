"""One clip against typed keywords: score, decision, and where each word lies, read off the matcher's partition."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightsleeper.deploy.keyword import Keyword
from lightsleeper.deploy.many_keywords import Enrolled, ManyKeywords
from lightsleeper.deploy.runtime import Matcher, scorers
from lightsleeper.errors import UserError

IMPOSSIBLE = -1e3  # more tokens than frames: matchers answer about -1e4, and their cuts mean nothing then


@dataclass(frozen=True)
class Word:
    """A word of the keyword and the stretch of the file that matched it best."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Detection:
    """What a matcher says about one clip and one keyword."""

    file: str
    keyword: str
    score: float
    threshold: float | None
    detected: bool | None
    """None: no threshold is known."""
    scores: dict[str, float] = field(default_factory=dict)
    """All scorers, the shipped one first."""
    words: list[Word] = field(default_factory=list)
    """Empty where the model has no partition, or the clip is too short for the keyword."""
    duration_s: float = 0.0
    pronunciation: str = ""
    """ARPAbet of the pronunciation that scored highest."""
    engines: tuple[str, ...] = ()
    """What knows each word's pronunciation: lexicon, neural, user."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def detect(
    matcher: Matcher,
    audio: np.ndarray,
    keyword: Keyword,
    file: str = "",
    start_s: float = 0.0,
    threshold: float | None = None,
    file_s: float = math.inf,
) -> Detection:
    """Match ``audio`` (S,) at the model's rate.

    ``start_s``: where it begins in its file of ``file_s`` seconds; times count from there and stay inside.

    ``threshold`` None: the one stored with the model. Raises UserError when the keyword is too long for the model, or
    the model is an encoder alone.
    """
    outputs = matcher.match(audio, keyword.phones, keyword.words)
    scores = matcher.scores(outputs)
    if not scores:
        raise UserError(f"this model scores no keyword: its outputs are {', '.join(matcher.outputs)}.")
    threshold = matcher.threshold if threshold is None else threshold
    return _detection(outputs, scores, keyword, matcher.metadata, len(audio), file, start_s, threshold, file_s)


def detect_all(
    matcher: Matcher | ManyKeywords,
    audio: np.ndarray,
    keywords: Sequence[Sequence[Keyword]],
    file: str = "",
    start_s: float = 0.0,
    threshold: float | None = None,
    file_s: float = math.inf,
) -> list[Detection]:
    """As `detect`, for ``keywords`` given by their pronunciations, of which the best counts.

    The encoder of `ManyKeywords` runs once for all of them.
    """
    if not isinstance(matcher, ManyKeywords):
        tried = ([detect(matcher, audio, way, file, start_s, threshold, file_s) for way in ways] for ways in keywords)
        return [max(found, key=lambda detection: detection.score) for found in tried]
    return detect_enrolled(matcher, audio, matcher.enroll(keywords), file, start_s, threshold, file_s)


def detect_enrolled(
    matcher: ManyKeywords,
    audio: np.ndarray,
    enrolled: Enrolled,
    file: str = "",
    start_s: float = 0.0,
    threshold: float | None = None,
    file_s: float = math.inf,
) -> list[Detection]:
    """As `detect_all`, for keywords that are enrolled."""
    outputs = matcher.match(matcher.encode(audio), enrolled)
    threshold = matcher.threshold if threshold is None else threshold
    found = []
    for row in enrolled.best(outputs["score"]):
        own = {name: value[row : row + 1] for name, value in outputs.items()}
        keyword = enrolled.keywords[row]
        found.append(
            _detection(own, scorers(own), keyword, matcher.metadata, len(audio), file, start_s, threshold, file_s)
        )
    return found


def _detection(
    outputs: Mapping[str, np.ndarray],
    scores: dict[str, float],
    keyword: Keyword,
    metadata: Mapping[str, str],
    samples: int,
    file: str,
    start_s: float,
    threshold: float | None,
    file_s: float,
) -> Detection:
    """What the outputs (1, ...) of one keyword say."""
    score = next(iter(scores.values()))
    solvable = min(scores.values()) > IMPOSSIBLE  # the shipped score may weigh the partition with nothing
    duration_s = samples / float(metadata.get("sample_rate", 16_000))
    return Detection(
        file=file,
        keyword=keyword.text,
        score=score,
        threshold=threshold,
        detected=None if threshold is None else score >= threshold,
        scores=scores,
        words=word_times(outputs, keyword, metadata, duration_s, start_s, file_s) if solvable else [],
        duration_s=duration_s,
        pronunciation=keyword.said,
        engines=keyword.engines,
    )


def word_times(
    outputs: Mapping[str, np.ndarray],
    keyword: Keyword,
    metadata: Mapping[str, str],
    duration_s: float,
    start_s: float = 0.0,
    file_s: float = math.inf,
) -> list[Word]:
    """Word times from the output ``cuts`` (1, max_tokens + 1), in encoder frames of ``frame_ms`` of the metadata.

    Tokens are words or phones, as the metadata's ``token`` says; a word of phone tokens spans its phones' runs. The
    frames are centred in the clip, which unpadded convolutions make a little longer than they are; the first word
    starts and the last one ends with the clip.
    """
    if "cuts" not in outputs:
        return []
    names = keyword.spelling
    owner = keyword.words if metadata.get("token") == "phone" else np.arange(len(names))  # word of each token
    cuts = outputs["cuts"][0][: len(owner) + 1]
    frame_s = float(metadata.get("frame_ms", 40.0)) / 1000
    if len(cuts) <= len(owner) or (np.diff(cuts) <= 0).any():
        return []  # no partition: a clip with fewer frames than the keyword has tokens
    if set(owner) != set(range(len(names))):
        return []
    margin_s = max(0.0, duration_s - int(cuts[-1]) * frame_s) / 2
    ends = [int(cuts[np.flatnonzero(owner == number)[-1] + 1]) for number in range(len(names))]
    times = [0.0, *(margin_s + end * frame_s for end in ends[:-1]), duration_s]
    inside = [min(max(0.0, start_s + time), file_s) for time in times]
    return [Word(name, inside[k], inside[k + 1]) for k, name in enumerate(names)]
