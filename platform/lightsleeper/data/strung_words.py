"""Recordings of single words strung into running speech: Speech Commands on babble, spoken digits of people.

Two layouts are read: a folder with a manifest (``path,text[,speaker]``), divided by speaker, and Speech Commands' own,
divided by its lists. A word's times are those of the loudest stretch of its recording (`data.audio.trim_silence`): no
alignment says more of a single word.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from lightsleeper.data.audio import SAMPLE_RATE, trim_silence
from lightsleeper.data.augment import Audio
from lightsleeper.data.clip_cache import ClipCache, OnBadFile, cached_clips, check_files
from lightsleeper.data.manifest import Recording, check_names, read_manifest
from lightsleeper.data.noise import audio_files, divided
from lightsleeper.data.ranges import between
from lightsleeper.data.rows import ClipSource
from lightsleeper.data.running_speech import RunningSpeech
from lightsleeper.data.speaker_split import split_by_speaker
from lightsleeper.data.speech_commands import split_files, word_files
from lightsleeper.data.streams import Event
from lightsleeper.data.word_clips import Spoken, UtteranceMix
from lightsleeper.data.word_streams import Keep, StreamPlan, by_speaker
from lightsleeper.data.word_texts import PARTS
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("StrungWords",)


@dataclass(frozen=True)
class Narrowed:
    """Clips as if all had been recorded at ``rate_hz``: a spotter must not tell two sources by their bandwidth."""

    source: ClipSource
    rate_hz: int

    def audio(self, clip: int) -> Audio:
        sound = self.source.audio(clip)
        narrow = soxr.resample(soxr.resample(sound, SAMPLE_RATE, self.rate_hz), self.rate_hz, SAMPLE_RATE)
        return (
            np.resize(narrow, len(sound))
            if len(narrow) >= len(sound)
            else np.pad(narrow, (0, len(sound) - len(narrow)))
        )

    def seconds(self, clip: int) -> float:
        return self.source.seconds(clip)


class StrungWords(RunningSpeech):
    """Single words, placed one after the other on noise. For the batches see `data.running_speech.RunningSpeech`.

    Words of the recordings that are not in ``words`` are placed like the others and are no events. Recordings of
    ``negatives`` train too, and make streams of their own, as they were recorded; where their manifest names speakers
    nobody is in two parts, else somebody may be.

    Args:
        path: folder with a manifest, or in the layout of Speech Commands.
        words: what is spotted, in the order of the model's classes. None: every text, in alphabetical order.
        manifest: name of the manifest in ``path``.
        negatives: folders of speech without these words. Recordings whose manifest says otherwise (columns ``text``
            or ``contains``) are left out.
        bandwidth_hz: sampling rate that all speech is reduced to, that of the narrowest recordings. None: as it is.
        noise: folder of noise recordings, added to the generated kinds; three or more are divided, so that the
            streams are heard through others than training.
        noise_kinds: kinds of noise that speech is heard through; None: all.
        test_speakers: speakers of a manifest that are tested; None: drawn, ``test_fraction`` of them.
        test_fraction: share of speakers (of clips, where none are named) in the test.
        val_fraction: share of the remaining ones used for validation.
        split_seed: of that draw, and of the streams. Runs of several seeds share it.
        val_speech_minutes: length of all validation streams of words.
        val_quiet_minutes: length of those of babble, of noise and of silence.
        test_speech_minutes: length of all test streams of words.
        test_quiet_minutes: length of those of babble, of noise and of silence.
        clips_per_epoch: training clips with speech in an epoch. None: every recording is the first of one.
        words_per_clip: fewest and most words in a training clip.
        noise_share: share of training clips without speech.
        snr_db: lowest and highest SNR of training clips.
        gain_db: lowest and highest peak of training clips, dB of full scale.
        stream_snr_db: lowest and highest SNR of words in streams.
        gap_s: shortest and longest pause between two recordings, in training clips and streams.
        chunk_seconds: audio in a batch of validation and test, a multiple of the spotter's slide.
        keep_streams: streams whose audio stays in the cache folder (2 MB a minute).
        keep_clips: epochs whose training clips are made once and kept; 0: every epoch makes new ones.
        on_bad_file: refuse to start, or skip recordings that cannot be read.
        batch_size: training clips in a batch.
        workers: processes that prepare training batches.
        seed: of what training draws. None: the run's seed.

    Example::

        data = StrungWords("speech_commands_v0.02", noise_kinds=["babble"])
        data.setup("fit")

    Raises:
        UserError: an argument is out of range; a folder, word, speaker or recording is missing or unusable.
    """

    def __init__(
        self,
        path: str | Path,
        words: list[str] | None = None,
        manifest: str = "manifest.csv",
        negatives: list[str] | None = None,
        bandwidth_hz: int | None = None,
        noise: str | Path | None = None,
        noise_kinds: list[str] | None = None,
        test_speakers: list[str] | None = None,
        test_fraction: float = 0.34,
        val_fraction: float = 0.25,
        split_seed: int = 0,
        val_speech_minutes: float = 5.0,
        val_quiet_minutes: float = 2.0,
        test_speech_minutes: float = 15.0,
        test_quiet_minutes: float = 10.0,
        clips_per_epoch: int | None = None,
        words_per_clip: tuple[int, int] = (1, 4),
        noise_share: float = 0.1,
        snr_db: tuple[float, float] = (0.0, 40.0),
        gain_db: tuple[float, float] = (-30.0, 0.0),
        stream_snr_db: tuple[float, float] = (10.0, 40.0),
        gap_s: tuple[float, float] = (0.1, 1.2),
        chunk_seconds: float = 9.6,
        keep_streams: Keep = "val",
        keep_clips: int = 0,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 32,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        mix = UtteranceMix(noise_share, snr_db, gain_db, words_per_clip, gap_s)
        plan = StreamPlan(
            (val_speech_minutes, test_speech_minutes), (val_quiet_minutes, test_quiet_minutes), stream_snr_db, gap_s,
            round(chunk_seconds * self.sample_rate),
        )  # fmt: skip
        super().__init__(
            mix, plan, noise, noise_kinds, clips_per_epoch, keep_streams, keep_clips, batch_size, workers, split_seed,
            seed,
        )  # fmt: skip
        between(0, 1, test_fraction=test_fraction, val_fraction=val_fraction)
        if not 1 <= words_per_clip[0] <= words_per_clip[1]:
            raise UserError(f"words_per_clip must be a fewest and a most number, got {list(words_per_clip)}.")
        if words is not None and (not words or len(set(words)) < len(words)):
            raise UserError(f"words must be different ones, got {words}.")
        if bandwidth_hz is not None and not 4000 <= bandwidth_hz <= SAMPLE_RATE:
            raise UserError(f"bandwidth_hz must lie between 4000 and {SAMPLE_RATE}, got {bandwidth_hz}.")
        self.path, self.manifest, self.on_bad_file = Path(path).expanduser(), manifest, on_bad_file
        self.negatives = [Path(folder).expanduser() for folder in negatives or ()]
        self.bandwidth_hz = bandwidth_hz
        self.test_speakers, self.test_fraction, self.val_fraction = test_speakers, test_fraction, val_fraction
        self._asked = words
        self._found: list[Recording] | None = None
        self._parts: dict[str, dict[str, list[Path]]] | None = None
        self.protocol = "single words strung into streams"

    def _recordings(self) -> list[Recording]:
        """Every recording of a word; with Speech Commands, ``_parts`` says where it belongs."""
        if self._found is None:
            if not self.path.is_dir():
                raise UserError(f"folder of recordings {self.path} does not exist.")
            if (self.path / self.manifest).is_file():
                self._found = read_manifest(self.path, self.manifest)
            else:
                found = word_files(self.path)
                self._parts, by = split_files(self.path, found)
                self.protocol += f", Speech Commands split by {by}"
                self._found = [
                    Recording(file, word, re.sub(r"_nohash_.*$", "", file.stem) if "_nohash_" in file.name else "")
                    for word, files in found.items()
                    for file in files
                ]
        return self._found

    @property
    def words(self) -> list[str]:
        return self._asked if self._asked is not None else sorted({row.text for row in self._recordings()})

    def check(self) -> None:
        """Refuse, before anything is decoded, folders, words and speakers that are not there."""
        super().check()
        rows = self._recordings()
        check_names(self.words, sorted({row.text for row in rows}), "words")
        check_names(self.test_speakers or (), sorted({row.speaker for row in rows} - {""}), "test_speakers")
        check_files([row.file for row in rows], self.on_bad_file)
        for folder in self.negatives:
            audio_files(folder)

    def collect(self) -> dict[str, Spoken]:
        rows = self._recordings()
        self.check()
        others, self.left_out = without_words(self.negatives, self.words)
        self.unnamed = sum(not speaker for speaker in others.values())
        self.files = [*(row.file for row in rows), *others]
        self.clips: ClipCache = cached_clips(self.files, trim=False, on_bad_file=self.on_bad_file)
        usable = [clip for clip in range(len(rows)) if clip not in self.clips.bad]
        self.speakers = [*(row.speaker for row in rows), *others.values()]
        part_of = self._split(rows, usable)
        heard = {self.speakers[clip]: part for part, clips in part_of.items() for clip in clips}
        sides = divided_by_speaker(others, heard)
        number = {word: i for i, word in enumerate(self.words)}
        words: dict[int, list[Event]] = {}
        for clip in usable:
            if rows[clip].text in number:
                first, last = trim_silence(self.clips.audio(clip), margin_s=0.0)
                words[clip] = [(first / SAMPLE_RATE, last / SAMPLE_RATE, number[rows[clip].text])]
        source: ClipSource = self.clips if self.bandwidth_hz is None else Narrowed(self.clips, self.bandwidth_hz)
        spoken = {}
        for part in PARTS:
            apart = [
                clip for clip in range(len(rows), len(self.files))
                if clip not in self.clips.bad and part in sides[self.files[clip]]
            ]  # fmt: skip
            own = by_speaker(part_of[part], self.speakers, self.data_seed)
            spoken[part] = Spoken(source, own, words, apart)
            if not spoken[part].clips:
                raise UserError(f"{self.path} has no recording for '{part}'.")
        return spoken

    def _split(self, rows: Sequence[Recording], usable: Sequence[int]) -> dict[str, list[int]]:
        if self._parts is not None:
            part_of = {file: part for part, words in self._parts.items() for files in words.values() for file in files}
            return {part: [clip for clip in usable if part_of[rows[clip].file] == part] for part in PARTS}
        rng = np.random.default_rng([self.data_seed, 83])
        found = split_by_speaker(rows, usable, rng, self.test_speakers, self.test_fraction, self.val_fraction)
        return {part: found[part] for part in PARTS}

    def origin(self) -> Any:
        parts = [[list(spoken.clips), list(spoken.others)] for spoken in self.spoken.values()]
        return [self.clips.hash, self.bandwidth_hz, parts]

    def members(self, part: str) -> dict[str, set[str]]:
        clips = [*self.spoken[part].clips, *self.spoken[part].others]
        return {
            "speakers": {self.speakers[clip] for clip in clips} - {""},
            "recordings": {str(self.files[clip]) for clip in clips},
        }

    def summary(self) -> dict[str, Any]:
        found = super().summary()
        if self.negatives:
            found["negatives left out for a word of the vocabulary"] = self.left_out
            found["negatives whose speaker is not named"] = self.unnamed
        return {**found, "skipped": [str(self.files[clip]) for clip in self.clips.bad]}


def divided_by_speaker(others: Mapping[Path, str], heard: Mapping[str, str]) -> dict[Path, set[str]]:
    """Parts of each recording of ``others`` (its speaker, or ""): nobody who is named is in two of them.

    Who says words, too, stays in the part that ``heard`` tells. Of further speakers the first trains, the second is
    tested, and from three on they are divided like noise files, as are recordings without a speaker, one by one.
    """
    strangers = sorted({speaker for speaker in others.values() if speaker} - heard.keys(), key=content_hash)
    if len(strangers) < len(PARTS):
        drawn = dict(zip(strangers, ("train", "test"), strict=False))
    else:
        names = {Path(content_hash(speaker)): speaker for speaker in strangers}
        drawn = {names[path]: part for part, paths in divided(list(names), PARTS).items() for path in paths}
    sides = {file: {heard.get(speaker) or drawn[speaker]} for file, speaker in others.items() if speaker}
    for part, files in divided([file for file, speaker in others.items() if not speaker], PARTS).items():
        for file in files:
            sides.setdefault(file, set()).add(part)
    return sides


def without_words(folders: Sequence[Path], words: Sequence[str]) -> tuple[dict[Path, str], int]:
    """Recordings below the folders that say none of the words as far as their manifests tell, each with its speaker
    ("": not named), and how many say one."""
    found: dict[Path, str] = {}
    left_out = 0
    for folder in folders:
        said: dict[Path, str] = {}
        by: dict[Path, str] = {}
        if (folder / "manifest.csv").is_file():
            with (folder / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    said[folder / (row.get("path") or "")] = f"{row.get('text') or ''} {row.get('contains') or ''}"
                    by[folder / (row.get("path") or "")] = row.get("speaker") or ""
        for path in audio_files(folder):
            if set(words) & set(re.findall(r"[^\W_]+(?:'[^\W_]+)*", said.get(path, "").lower())):
                left_out += 1
            else:
                found[path] = by.get(path, "")
    return found, left_out
