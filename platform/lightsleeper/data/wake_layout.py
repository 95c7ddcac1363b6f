"""Streams that a wake word is judged on: synthesised hours, and recordings."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.corpus import Corpus
from lightsleeper.data.kept import KeptStream
from lightsleeper.data.noise import DrawnSpeech, NoiseSource
from lightsleeper.data.rows import ClipSource
from lightsleeper.data.streams import Clip, Joined, Keyword, Scenery, Stream
from lightsleeper.data.wake_script import PARTS

STREAM_HOURS = 1.0  # longest stream: processes of a distributed run share streams
GUARD_S = 1.5  # after a keyword: no negative audio (tolerance and refractory time of the metric's defaults)


@dataclass(frozen=True)
class Hours:
    """What synthesised streams of one part are laid with."""

    part: str
    hours: float
    noise_files: Sequence[Path]
    seed: int
    """Of the corpus."""
    snr_db: tuple[float, float]
    keep: bool
    """Whether their audio stays in the cache folder."""

    def lay(self, corpus: Corpus) -> list[Stream]:
        """Streams of an hour at most, keywords and speech dealt out among them."""
        starts, ends = corpus.column("word_starts_s"), corpus.column("word_ends_s")
        clips = {kind: corpus.clips(f"{self.part} {kind}").tolist() for kind in ("keyword", "speech", "near")}
        keywords = [Keyword(clip, starts[clip][0], ends[clip][-1]) for clip in clips["keyword"]]
        speech, near = clips["speech"], clips["near"]
        count = max(1, math.ceil(self.hours / STREAM_HOURS - 1e-9))
        noise = NoiseSource(DrawnSpeech(corpus, speech), self.noise_files)
        first = 1000 * (self.seed * 10 + PARTS.index(self.part))
        sceneries = [
            Scenery(
                corpus, keywords[i::count], [*speech[i::count], *near[i::count]], noise, self.hours / count * 3600,
                seed=first + i, snr_db=self.snr_db,
            )
            for i in range(count)
        ]  # fmt: skip
        if not self.keep:
            return [*sceneries]
        recorded = None if noise.recorded is None else noise.recorded.hash
        return [KeptStream(scenery, [corpus.key, recorded]) for scenery in sceneries]


def recorded_streams(source: ClipSource, positives: Iterable[int], negatives: Sequence[int]) -> list[Stream]:
    """Each recording of the phrase a stream of its own, the others one."""
    return [*(Clip(source, clip) for clip in positives), *([Joined(source, negatives)] if negatives else [])]


def negative_hours(streams: Iterable[Stream]) -> float:
    """Hours without the phrase, at the metric's default tolerance and refractory time."""
    return sum(
        max(0.0, stream.samples / SAMPLE_RATE - sum(end - begin + GUARD_S for begin, end in stream.events))
        for stream in streams
    ) / 3600  # fmt: skip
