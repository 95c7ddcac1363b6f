"""Streams that a word spotter is judged on, by what they hold: running speech, babble, noise, or next to nothing.

A stream is about a minute long and has one or two speakers, so that intervals over streams mean something. All are
planned from a seed and rendered while they are read (`data.streams`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.kept import KeptStream
from lightsleeper.data.noise import NoiseSource
from lightsleeper.data.streams import Content, Joined, Scenery, Stream
from lightsleeper.data.word_clips import SILENCE_DBFS, Spoken

STREAM_SECONDS = 60.0  # to the nearest chunk
STEP = SAMPLE_RATE * 240 // 1000  # joined recordings are whole multiples of it: the spotter's default slide
QUIET: tuple[Content, ...] = ("babble", "noise", "silence")

Keep = Literal["none", "val", "all"]


@dataclass(frozen=True)
class StreamPlan:
    """How long streams of a part are, and what is heard in them."""

    speech_minutes: tuple[float, float]
    """Of val and test."""
    quiet_minutes: tuple[float, float]
    """Of each of babble, noise and silence, in val and test."""
    snr_db: tuple[float, float]
    gap_s: tuple[float, float]
    """Between two utterances."""
    chunk: int
    """Samples of a batch; streams are whole multiples of it."""


def lay_streams(
    spoken: Spoken,
    noise: NoiseSource,
    plan: StreamPlan,
    part: str,
    seed: int,
    origin: object = None,
    contents: Sequence[Content] = ("speech", *QUIET),
) -> list[Stream]:
    """The streams of a part, and those of what its speakers say beside the vocabulary, as it was recorded.

    ``origin``: JSON-able identity of clips and noise; then rendered audio is kept.
    """
    at = ("val", "test").index(part)
    seconds = max(1, round(STREAM_SECONDS * SAMPLE_RATE / plan.chunk)) * plan.chunk / SAMPLE_RATE
    found: list[Scenery] = []
    for content in contents:
        kind = ("speech", *QUIET).index(content)
        minutes = (plan.quiet_minutes if kind else plan.speech_minutes)[at]
        count = max(1, round(minutes * 60 / seconds)) if minutes > 0 else 0
        for number in range(count):
            speech = content == "speech"
            found.append(
                Scenery(
                    spoken.source, (), _share(spoken.clips, number, count) if speech else (), noise, seconds,
                    seed=((10 * seed + at) * 10 + kind) * 10_000 + number, snr_db=plan.snr_db,
                    words=spoken.words if speech else None, content=content, talk=float(speech), gap_s=plan.gap_s,
                    **_heard(content, noise),
                )
            )  # fmt: skip
    streams: list[Stream] = list(found) if origin is None else [KeptStream(scenery, origin) for scenery in found]
    if spoken.others:
        total = sum(spoken.source.seconds(clip) for clip in spoken.others)
        count = max(1, min(len(spoken.others), round(total / STREAM_SECONDS)))
        streams += [Joined(spoken.source, spoken.others[i::count], step=STEP) for i in range(count)]
    return streams


def by_speaker(clips: Sequence[int], speakers: Sequence[str], seed: int) -> list[int]:
    """Clips speaker after speaker, those of one in random order. ``speakers``: of each clip number."""
    order = np.random.default_rng([seed, 84]).permutation(len(clips))
    return sorted((clips[int(i)] for i in order), key=lambda clip: speakers[clip])


def _share(clips: Sequence[int], number: int, count: int) -> Sequence[int]:
    """What stream ``number`` of ``count`` says: a run of utterances, so that one or two speakers are heard in it."""
    return clips[number * len(clips) // count : (number + 1) * len(clips) // count] or clips


def _heard(content: Content, noise: NoiseSource) -> dict:
    """Kinds and levels of the noise where nobody speaks."""
    if content == "babble":
        return {"kinds": ("babble",)}
    if content == "noise":
        return {"kinds": [kind for kind in noise.kinds if kind != "babble"] or ["pink"]}
    return {"kinds": ("white", "pink"), "quiet_dbfs": SILENCE_DBFS} if content == "silence" else {}
