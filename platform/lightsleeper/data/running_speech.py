"""What the data modules of word spotters share: training clips, streams by content, the record's summary.

A data module says which words are spotted, who says what in which part (`Spoken`), and what the parts share.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch
from lightsleeper.data.clip_cache import cached_clips
from lightsleeper.data.kept import KeptUtterances
from lightsleeper.data.module import DataModule
from lightsleeper.data.noise import DrawnSpeech, NoisePool, NoiseSource, audio_files, divided
from lightsleeper.data.ranges import at_least
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.streams import HOP, Event, Stream, StreamChunks
from lightsleeper.data.word_clips import Spoken, UtteranceClips, UtteranceMix, collate_words
from lightsleeper.data.word_streams import Keep, StreamPlan, lay_streams
from lightsleeper.data.word_texts import PARTS
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash


class RunningSpeech(DataModule):
    """Base of the data modules for word spotters.

    Training batches: ``audio`` (B, S), 16 kHz in [-1, 1], 0-padded; ``samples`` (B,); ``word`` (B, E) numbers in
    ``words``, -1-padded; ``begin_s``, ``end_s`` (B, E), nan-padded; ``clip`` (B,). Only words of the vocabulary are
    listed. Batches of validation and test are chunks of one stream (`data.streams.StreamChunks`), whose ``events`` are
    (begin_s, end_s, word) and whose ``content`` is speech, negatives, babble, noise or silence.

    Raises:
        UserError: an argument is out of range.
    """

    protocol: str

    def __init__(
        self,
        mix: UtteranceMix,
        plan: StreamPlan,
        noise: str | Path | None,
        noise_kinds: list[str] | None,
        clips_per_epoch: int | None,
        keep_streams: Keep,
        keep_clips: int,
        batch_size: int,
        workers: int,
        data_seed: int,
        seed: int | None,
    ) -> None:
        super().__init__()
        at_least(1, clips_per_epoch=clips_per_epoch, batch_size=batch_size)
        at_least(0, keep_clips=keep_clips, workers=workers)
        if not 0 <= mix.noise_share < 1:
            raise UserError(f"noise_share is {mix.noise_share}; it must lie between 0 and 1.")
        pairs = {"snr_db": mix.snr_db, "gain_db": mix.gain_db, "stream_snr_db": plan.snr_db, "gap_s": plan.gap_s}
        for name, pair in pairs.items():
            if pair[0] > pair[1]:
                raise UserError(f"{name} must be a lowest and a highest value, got {list(pair)}.")
        if plan.chunk < HOP or plan.chunk % HOP:
            raise UserError(f"chunk_seconds must be a multiple of 0.02, got {plan.chunk / SAMPLE_RATE:g}.")
        for name, pair in (("speech", plan.speech_minutes), ("quiet", plan.quiet_minutes)):
            for part, minutes in zip(PARTS[1:], pair, strict=True):
                if minutes < 0 or (name == "speech" and not minutes):
                    least = "above 0" if name == "speech" else "at least 0"
                    raise UserError(f"{part}_{name}_minutes must be {least}, got {minutes}.")
        self.mix, self.plan = mix, plan
        self.noise_folder = None if noise is None else Path(noise).expanduser()
        self.noise_kinds = noise_kinds
        self.clips_per_epoch, self.keep_streams, self.keep_clips = clips_per_epoch, keep_streams, keep_clips
        self.batch_size, self.workers, self.data_seed, self._seed = batch_size, workers, data_seed, seed

    # What a data module gives.

    @property
    def words(self) -> list[str]:
        """Names of the classes, by number."""
        raise NotImplementedError

    def collect(self) -> dict[str, Spoken]:
        """What is said, by part: train, val, test."""
        raise NotImplementedError

    def origin(self) -> Any:
        """JSON-able identity of all recordings and texts."""
        raise NotImplementedError

    def members(self, part: str) -> dict[str, set[str]]:
        """What must not be in two parts, by what it is: voices, sentences, recordings."""
        raise NotImplementedError

    def lay(self, part: str) -> list[Stream]:
        """The streams of a part other than ``train``."""
        kept = self.keep_streams == "all" or self.keep_streams == part
        origin = self._identity(part) if kept else None
        return lay_streams(self.spoken[part], self.noise_source(part), self.plan, part, self.data_seed, origin)

    # Lightning's hooks.

    def check(self) -> None:
        """Refuse, before anything is read or built, what certainly fails later."""
        if self.noise_folder is not None:
            audio_files(self.noise_folder)

    def load(self) -> None:
        """Build the corpus, or decode the recordings, where the cache does not hold them; lay the streams."""
        self.seed = run_seed(self._seed)
        self.noise_files = divided([] if self.noise_folder is None else audio_files(self.noise_folder), PARTS)
        self.spoken = self.collect()
        self._streams: dict[str, dict[int, Stream]] = {}
        first = 0
        for part in ("val", *(f"test {name}".strip() for name in self.test_names)):
            streams = self.lay(part)
            self._streams[part] = dict(enumerate(streams, start=first))
            first += len(streams)

    def noise_source(self, part: str) -> NoiseSource:
        """The noise of a part; its babble is of the part's own speech."""
        said = self.spoken[part]
        return NoiseSource(DrawnSpeech(said.source, said.clips), self.noise_files[part], self.noise_kinds)

    def train_dataloader(self) -> DataLoader:
        epoch = SharedEpoch()
        pool = NoisePool(self.noise_source("train"), self.seed)
        fresh = UtteranceClips(self.spoken["train"], pool, self.mix, self.clips_per_epoch, self.seed, epoch)
        rows: Dataset = KeptUtterances(fresh, self.keep_clips, self._identity("train")) if self.keep_clips else fresh
        sampler = BucketBatchSampler(fresh.seconds(), self.batch_size, self.seed, epoch=epoch)
        return DataLoader(
            rows, batch_sampler=sampler, collate_fn=collate_words, num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader:
        return self._chunks("val")

    def test_dataloader(self) -> list[DataLoader]:
        return [self._chunks(f"test {name}".strip()) for name in self.test_names]

    def _chunks(self, part: str) -> DataLoader:
        chunks = StreamChunks(self._streams[part], self.plan.chunk)
        # Lightning fears that several workers would each give all of it; here there is one at most.
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        return DataLoader(chunks, batch_size=None, collate_fn=_as_it_is, num_workers=min(self.workers, 1))

    def streams(self, part: str) -> dict[int, Stream]:
        """The streams of ``val`` or ``test`` by number; no number is in both."""
        return dict(self._streams[part])

    def stream_events(self, stream: int) -> list[Event]:
        """Begin, end and number of each word in a stream."""
        return next(streams[stream] for streams in self._streams.values() if stream in streams).events

    # The record.

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, vocabulary, sizes, and what the parts share."""
        self.setup()
        members = {part: self.members(part) | self._noise_members(part) for part in self.spoken}
        counts: dict[str, Any] = {}
        said: dict[str, Counter[int]] = {}
        for part, spoken in self.spoken.items():
            clips = [*spoken.clips, *spoken.others]
            said[part] = Counter(int(word) for clip in clips for _, _, word in spoken.words.get(clip, ()))
            counts[part] = {
                "utterances": len(clips),
                "hours": round(sum(spoken.source.seconds(clip) for clip in clips) / 3600, 3),
                "words of the vocabulary": said[part].total(),
                **{kind: len(names) for kind, names in members[part].items()},
            }
            counts[part] |= _stream_counts(self._streams.get(part, {}))
        return {
            "hash": self._hash(),
            "protocol": self.protocol,
            "counts": counts,
            "overlap": {
                f"{a}/{b}": {kind: len(members[a][kind] & members[b].get(kind, set())) for kind in members[a]}
                for a, b in combinations(self.spoken, 2)
            },
            "vocabulary": {
                name: [said[part][number] for part in self.spoken] for number, name in enumerate(self.words)
            },
        }

    def _noise_members(self, part: str) -> dict[str, set[str]]:
        files = self.noise_files[part.split()[0]]
        return {"noise recordings": {str(file) for file in files}} if files else {}

    def _noise_hash(self, part: str) -> Any:
        files = self.noise_files[part]
        return [self.noise_kinds, cached_clips(files, trim=False, on_bad_file="refuse").hash if files else None]

    def _identity(self, part: str) -> Any:
        """What rendered audio of a part depends on, beside its plan."""
        return [self.origin(), self.words, self._noise_hash(part)]

    def _hash(self) -> str:
        identity = [self._identity(part) for part in PARTS]
        return content_hash([identity, asdict(self.mix), asdict(self.plan), self.data_seed])


def _stream_counts(streams: Mapping[int, Stream]) -> dict[str, Any]:
    minutes: Counter[str] = Counter()
    for stream in streams.values():
        minutes[stream.content] += stream.samples / SAMPLE_RATE / 60  # type: ignore[assignment]
    found: dict[str, Any] = {f"minutes of {content}": round(value, 2) for content, value in minutes.items()}
    return {**found, "placed words": sum(len(stream.events) for stream in streams.values())} if streams else {}


def _as_it_is(item: Any) -> Any:
    return item
