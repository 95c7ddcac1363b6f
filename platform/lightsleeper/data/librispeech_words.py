"""LibriSpeech as running speech to spot words in, with word times of a forced aligner.

The vocabulary is the most frequent words of the training subsets; validation and test are the archive's own subsets,
whose speakers are in no other. A stream is what one speaker reads, utterance after utterance, as it was recorded.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.alignments import SUBSETS, WordTable, check_subset, read_alignments, recording
from lightsleeper.data.clip_cache import OnBadFile
from lightsleeper.data.hub_data import check_dataset
from lightsleeper.data.librispeech_unpack import unpack_librispeech
from lightsleeper.data.ranges import at_least
from lightsleeper.data.running_speech import RunningSpeech
from lightsleeper.data.segments import Segments, refuse
from lightsleeper.data.streams import Event, Joined, Stream
from lightsleeper.data.word_clips import Spoken, UtteranceMix
from lightsleeper.data.word_streams import QUIET, STEP, Keep, StreamPlan, lay_streams
from lightsleeper.data.word_texts import STOP_WORDS, most_frequent
from lightsleeper.errors import UserError, did_you_mean

CATALOG = ("LibriSpeechWords",)


class AlignedWords(Mapping[int, Sequence[Event]]):
    """Events of clip i, utterance i of some word tables laid end to end, read off the tables when asked for."""

    def __init__(self, tables: Sequence[WordTable], vocabulary: Mapping[str, int]) -> None:
        counts = [len(table.utterances) for table in tables]
        utterance = np.concatenate(
            [table.utterance + first for table, first in zip(tables, np.cumsum([0, *counts[:-1]]), strict=True)]
        )
        of_table = [np.array([vocabulary.get(word, -1) for word in (*table.vocabulary, "")]) for table in tables]
        number = np.concatenate([own[table.word] for own, table in zip(of_table, tables, strict=True)])  # -1: the last
        spotted = number >= 0
        self._number = number[spotted]
        self._start, self._end = (
            np.concatenate([getattr(table, side) for table in tables])[spotted] for side in ("start", "end")
        )
        self._edges = np.searchsorted(utterance[spotted], np.arange(sum(counts) + 1))

    def __getitem__(self, clip: int) -> Sequence[Event]:
        if not 0 <= clip < len(self):
            raise KeyError(clip)
        span = slice(*self._edges[clip : clip + 2])
        columns = (self._start[span].tolist(), self._end[span].tolist(), self._number[span].tolist())
        return list(zip(*columns, strict=True))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._edges) - 1


class LibriSpeechWords(RunningSpeech):
    """Read speech of LibriSpeech with the times of its words. For the batches see `RunningSpeech`.

    Two test sets, test-clean (unnamed) and test-other. Words that sound alike (peace, piece) are different classes, as
    published. Boundary conventions of aligners differ by 10 to 20 ms: name the alignments with results.

    Args:
        librispeech: folder that holds the subsets, ``train-clean-100`` and so on; or a data set of the hub with a
            split for each subset, unpacked once into the cache.
        alignments: folder of the word alignments (CSV or .alignment.txt); None: inside ``librispeech``.
        revision: branch, tag or commit of a data set of the hub.
        train_subsets: subsets to train on; None: all 960 hours.
        val_subsets: subsets to validate on; None: dev-clean.
        test_subsets: the test set, and the second one, which is called ``other``.
        vocabulary: words that are spotted, the most frequent of the training subsets.
        words: these instead.
        stop_words: whether words of closed classes (the, of, you) may be among them.
        longest_seconds: longer utterances are not trained on.
        noise: folder of noise recordings, for training clips and streams without speech.
        noise_kinds: kinds of noise; None: all.
        val_speech_minutes: speech to validate on at most, an equal share of every speaker.
        val_quiet_minutes: length of streams of babble, of noise and of silence.
        test_speech_minutes: speech to test on at most; the default is all of either set.
        test_quiet_minutes: length of the streams of babble, of noise and of silence, in the first test set.
        clips_per_epoch: utterances in an epoch. None: all.
        noise_share: share of training clips without speech.
        disturbed: train on speech in rooms, noise and channels. False: as it was recorded.
        snr_db: lowest and highest SNR of training clips.
        gain_db: lowest and highest peak of training clips, dB of full scale.
        chunk_seconds: audio in a batch of validation and test, a multiple of the spotter's slide.
        keep_streams: streams without speech whose audio stays in the cache folder.
        keep_clips: epochs whose training clips are made once and kept; 0: every epoch makes new ones.
        on_bad_file: refuse to start, or skip recordings that cannot be opened.
        batch_size: utterances in a batch.
        workers: processes that prepare batches.
        split_seed: of the streams without speech. Runs of several seeds share it.
        seed: of what training draws. None: the run's seed.

    Example::

        LibriSpeechWords("corpora/LibriSpeech", alignments="corpora/alignments", vocabulary=1000)

    Raises:
        UserError: an argument is out of range; a folder, subset, alignment or recording is missing or unusable.
    """

    def __init__(
        self,
        librispeech: str | Path,
        alignments: str | Path | None = None,
        revision: str | None = None,
        train_subsets: list[str] | None = None,
        val_subsets: list[str] | None = None,
        test_subsets: tuple[str, str] = ("test-clean", "test-other"),
        vocabulary: int = 1000,
        words: list[str] | None = None,
        stop_words: bool = False,
        longest_seconds: float = 17.0,
        noise: str | Path | None = None,
        noise_kinds: list[str] | None = None,
        val_speech_minutes: float = 60.0,
        val_quiet_minutes: float = 5.0,
        test_speech_minutes: float = 600.0,
        test_quiet_minutes: float = 20.0,
        clips_per_epoch: int | None = None,
        noise_share: float = 0.05,
        disturbed: bool = True,
        snr_db: tuple[float, float] = (10.0, 40.0),
        gain_db: tuple[float, float] = (-30.0, 0.0),
        chunk_seconds: float = 9.6,
        keep_streams: Keep = "none",
        keep_clips: int = 0,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 8,
        workers: int = 2,
        split_seed: int = 0,
        seed: int | None = None,
    ) -> None:
        mix = UtteranceMix(noise_share, snr_db, gain_db, disturbed=disturbed)
        plan = StreamPlan(
            (val_speech_minutes, test_speech_minutes), (val_quiet_minutes, test_quiet_minutes), snr_db, (0.5, 0.5),
            round(chunk_seconds * self.sample_rate),
        )  # fmt: skip
        super().__init__(
            mix, plan, noise, noise_kinds, clips_per_epoch, keep_streams, keep_clips, batch_size, workers, split_seed,
            seed,
        )  # fmt: skip
        at_least(1, vocabulary=vocabulary)
        self.subsets = {
            "train": train_subsets or ["train-clean-100", "train-clean-360", "train-other-500"],
            "val": val_subsets or ["dev-clean"],
            "test": [test_subsets[0]],
            "test other": [test_subsets[1]],
        }
        named = [subset for some in self.subsets.values() for subset in some]
        for subset in named:
            if subset not in SUBSETS:
                raise UserError(f"'{subset}' is no subset of LibriSpeech.{did_you_mean(subset, SUBSETS)}")
        if len(set(named)) < len(named):
            raise UserError(f"a subset is in two parts, so its speakers would be known: {', '.join(named)}.")
        if words is not None and (not words or len(set(words)) < len(words)):
            raise UserError(f"words must be different ones, got {words}.")
        self.source, self.revision = str(librispeech), revision
        self.alignments = None if alignments is None else Path(alignments).expanduser()
        self.vocabulary, self.stop_words, self.longest_seconds = vocabulary, stop_words, longest_seconds
        self._asked, self.on_bad_file = words, on_bad_file
        self.test_names = ("", "other")
        self.protocol = (
            f"LibriSpeech, {len(words) if words else vocabulary} words, tested on {' and '.join(test_subsets)}"
        )

    def check(self) -> None:
        """Refuse folders and alignments that are not there; reads none of them."""
        super().check()
        if not Path(self.source).expanduser().is_dir() or self._saved():
            check_dataset(self.source)
            return
        for subset in (subset for some in self.subsets.values() for subset in some):
            check_subset(Path(self.source).expanduser(), subset, self.alignments)

    def _saved(self) -> bool:
        """Whether the folder is a data set as `datasets` writes it."""
        folder = Path(self.source).expanduser()
        return any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))

    @cached_property
    def librispeech(self) -> Path:
        """The folder with the subsets."""
        folder = Path(self.source).expanduser()
        if folder.is_dir() and not self._saved():
            return folder
        named = [subset for some in self.subsets.values() for subset in some]
        return unpack_librispeech(self.source, self.revision, named)

    @cached_property
    def tables(self) -> dict[str, list[WordTable]]:
        """Aligned words by part, subset after subset."""
        return {
            part: [read_alignments(self.librispeech, subset, self.alignments) for subset in subsets]
            for part, subsets in self.subsets.items()
        }

    @cached_property
    def words(self) -> list[str]:
        if self._asked is not None:
            return self._asked
        counts: Counter[str] = Counter()
        for table in self.tables["train"]:
            found = np.bincount(table.word[table.word >= 0], minlength=len(table.vocabulary)).tolist()
            counts.update(dict(zip(table.vocabulary, found, strict=True)))
        return most_frequent(counts, self.vocabulary, stop=() if self.stop_words else STOP_WORDS)

    def collect(self) -> dict[str, Spoken]:
        number = {word: i for i, word in enumerate(self.words)}
        self.speakers = {
            part: [s for table in tables for s in table.speakers()] for part, tables in self.tables.items()
        }
        self.skipped: dict[str, str] = {}
        return {part: self._spoken(part, number) for part in self.subsets}

    def _spoken(self, part: str, number: Mapping[str, int]) -> Spoken:
        tables = self.tables[part]
        files = [
            recording(self.librispeech, subset, name)
            for subset, table in zip(self.subsets[part], tables, strict=True)
            for name in table.utterances
        ]
        ends = np.concatenate([_ends(table) for table in tables])
        source = Segments(files, [0.0] * len(files), ends.tolist())
        bad = source.bad()
        if bad and (self.on_bad_file == "refuse" or len(bad) == len(files)):
            refuse(source, bad)
        self.skipped |= {str(files[clip]): reason for clip, reason in bad.items()}
        clips = [clip for clip in range(len(files)) if clip not in bad]
        if part == "train":
            clips = [clip for clip in clips if ends[clip] <= self.longest_seconds]
            if not clips:
                raise UserError(f"{', '.join(self.subsets[part])}: no utterance of at most {self.longest_seconds} s.")
        else:
            clips = self._limited(part, clips, ends)
        return Spoken(source, clips, AlignedWords(tables, number))

    def _limited(self, part: str, clips: Sequence[int], ends: NDArray[np.float64]) -> list[int]:
        """The first utterances of every speaker, until all together last as long as asked for."""
        speakers = self.speakers[part]
        each = 60 * self.plan.speech_minutes[part != "val"] / len({speakers[clip] for clip in clips})
        spent: Counter[str] = Counter()
        found = []
        for clip in clips:
            if spent[speakers[clip]] < each:
                found.append(clip)
                spent[speakers[clip]] += float(ends[clip])  # type: ignore[assignment]
        return found

    def lay(self, part: str) -> list[Stream]:
        """A stream for each speaker; babble, noise and silence in validation and the first test set."""
        spoken = self.spoken[part]
        by_speaker: dict[str, list[int]] = {}
        for clip in spoken.clips:
            by_speaker.setdefault(self.speakers[part][clip], []).append(clip)
        streams: list[Stream] = [
            Joined(spoken.source, clips, words=spoken.words, step=STEP) for clips in by_speaker.values()
        ]
        if part == "val" or part == "test":
            origin = self._identity(part) if self.keep_streams in ("all", part) else None
            streams += lay_streams(
                spoken, self.noise_source(part), self.plan, part, self.data_seed, origin, contents=QUIET
            )
        return streams

    @cached_property
    def _origin(self) -> str:
        digest = hashlib.sha256()
        for table in (table for tables in self.tables.values() for table in tables):
            digest.update("\n".join([*table.utterances, *table.vocabulary]).encode())
            for column in (table.utterance, table.start, table.end, table.word):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def origin(self) -> Any:
        return [self._origin, sorted(self.skipped), self.longest_seconds]

    def members(self, part: str) -> dict[str, set[str]]:
        names = [name for table in self.tables[part] for name in table.utterances]
        clips = self.spoken[part].clips
        return {
            "speakers": {self.speakers[part][clip] for clip in clips},
            "recordings": {names[clip] for clip in clips},
        }

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "subsets": self.subsets, "skipped": list(self.skipped)}


def _ends(table: WordTable) -> NDArray[np.float64]:
    """When the last word or pause of each utterance ends, seconds."""
    ends = np.zeros(len(table.utterances))
    np.maximum.at(ends, table.utterance, table.end)
    return ends
