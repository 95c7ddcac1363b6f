"""One phrase to detect: clips to train on, and hours of streams to be judged by.

Training clips hold the phrase somewhere, or nearly it, other speech, or noise; they are put together anew in every
epoch. Validation and test are streams in consecutive chunks, because a detector is judged by false alarms per hour.
Without ``path`` everything is synthesised; with it the phrase's recordings of people train, validate and test, and
synthesised speech may join in: as more training clips, and as hours without the phrase.
"""

import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset

from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.batch import BucketBatchSampler, SharedEpoch
from lightsleeper.data.clip_cache import OnBadFile, cached_clips
from lightsleeper.data.corpus import Corpus, check_buildable, open_or_build, versions
from lightsleeper.data.kept import KeptClips
from lightsleeper.data.lexicon import Lexicon, require_word_list, split_words
from lightsleeper.data.module import DataModule
from lightsleeper.data.noise import DrawnSpeech, NoisePool, NoiseSource, audio_files, divided
from lightsleeper.data.seeds import run_seed
from lightsleeper.data.streams import Clip, Stream, StreamChunks
from lightsleeper.data.wake_arguments import check_arguments
from lightsleeper.data.wake_clips import Mixture, Pieces, WakeClips
from lightsleeper.data.wake_layout import Hours, negative_hours, recorded_streams
from lightsleeper.data.wake_pieces import fitting, recorded_pieces, spoken_pieces
from lightsleeper.data.wake_recordings import (
    Recordings,
    check_takes,
    find_takes,
    read_takes,
    split_takes,
    tested_takes,
)
from lightsleeper.data.wake_script import PARTS, WakeSpec, write_script
from lightsleeper.data.wake_summary import parts
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash

CATALOG = ("WakeWords",)

UTTERANCES_PER_HOUR = 1100  # of running speech in a stream: about as many as are said


class WakeWords(DataModule):
    """Clips with and without a phrase, and streams to detect it in. Synthesis needs the ``demo`` extra.

    The corpus is built once, 10 ms a clip on one core (22,000 clips by default, about 1.2 GB), and kept in the cache
    folder. Streams are made while they are read, some 600 times faster than real time.

    Training batches: ``audio`` (B, S), 16 kHz in [-1, 1]; ``keyword`` (B,) 1 where the clip holds the whole phrase;
    ``begin_s``, ``end_s`` (B,) of it, else nan; ``phones`` (B, S / 160), every 10 ms the phone, 0 silence, -1 unknown;
    ``clip`` (B,). Batches of validation and test are chunks of one stream (`data.streams.StreamChunks`).

    Args:
        phrase: what is detected, in words.
        path: folder of recordings with a manifest (``path,text[,speaker]``): rows of the phrase are positives, the
            others negatives. None: synthesised speech only.
        manifest: name of the manifest in ``path``.
        negatives: folders of recordings without the phrase.
        folds: parts that the recordings are divided into, by speaker where all are named, else by clip.
        fold: the part that is tested, from 0. The division does not depend on the run's seed.
        val_fraction: share of the remaining speakers or clips used for validation.
        evaluate_only: all recordings are the test; training and validation are synthesised.
        synthesis: use synthesised speech. False: recordings only, which then need negatives.
        synthetic_share: share of training clips from synthesis where there are recordings too.
        noise: folder of noise recordings, added to the generated kinds; three or more are divided, so that the
            streams are heard through others than training.
        train_keywords: synthesised clips of the phrase for training.
        train_near: the same of near phrases.
        train_speech: the same of running speech, about two seconds each.
        val_keywords: synthesised clips of the phrase in validation streams; none where recordings validate.
        val_hours: length of all synthesised validation streams. Below two hours without the phrase, a target of
            0.5 false alarms per hour means none at all.
        test_keywords: clips of the phrase in test streams; none where recordings test.
        test_hours: length of all synthesised test streams. For a claim of 0.5 false alarms per hour 6 hours without
            one are needed (95 %).
        near_phrases: phrases near to this one, divided among training, validation and test.
        near_per_hour: how often one of them is said in a stream.
        held_out_voices: voices (of 89) that only the test has.
        validation_voices: voices that only the validation set has.
        corpus_seed: of voices, texts and streams.
        clip_seconds: length of training clips; longer takes of the phrase are left out.
        clips_per_epoch: training clips in an epoch. None: as many as it takes to hear each take of the phrase once.
        positive_share: share of training clips with the phrase.
        near_share: share with a near phrase.
        noise_share: share with noise alone; running speech fills the rest.
        snr_db: lowest and highest SNR of training clips.
        gain_db: lowest and highest peak of training clips, dB of full scale; above 0 they clip.
        stream_snr_db: lowest and highest SNR of keywords in streams.
        chunk_seconds: audio in a batch of validation and test, a multiple of 20 ms.
        keep_streams: synthesised streams whose audio stays in the cache folder (115 MB an hour): validation is
            rendered once and not in every epoch. The samples are the same either way.
        keep_clips: epochs whose training clips are made once and kept (0.4 GB each for 5,000 clips); later epochs,
            and other runs with the same ``seed``, hear them again. 0: every epoch makes new ones.
        on_bad_file: refuse to start, or skip recordings that cannot be read.
        batch_size: training clips in a batch.
        workers: processes that prepare training batches; 0: the training process, 3 to 4 ms a clip.
        build_workers: processes that build the corpus. None: one per core.
        seed: of what training draws. None: the run's seed.

    Example::

        data = WakeWords("hey firefly", test_hours=2, test_keywords=200)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))

    Raises:
        UserError: an argument is out of range; espeak-ng, a folder, the phrase or a recording is missing.
    """

    def __init__(
        self,
        phrase: str = "hey firefly",
        path: str | Path | None = None,
        manifest: str = "manifest.csv",
        negatives: list[str] | None = None,
        folds: int = 5,
        fold: int = 0,
        val_fraction: float = 0.15,
        evaluate_only: bool = False,
        synthesis: bool = True,
        synthetic_share: float = 0.5,
        noise: str | Path | None = None,
        train_keywords: int = 1500,
        train_near: int = 1500,
        train_speech: int = 3000,
        val_keywords: int = 200,
        val_hours: float = 2.25,
        test_keywords: int = 1000,
        test_hours: float = 11.0,
        near_phrases: int = 80,
        near_per_hour: float = 2.0,
        held_out_voices: int = 18,
        validation_voices: int = 9,
        corpus_seed: int = 0,
        clip_seconds: float = 2.4,
        clips_per_epoch: int | None = None,
        positive_share: float = 0.3,
        near_share: float = 0.2,
        noise_share: float = 0.05,
        snr_db: tuple[float, float] = (0.0, 30.0),
        gain_db: tuple[float, float] = (-30.0, 0.0),
        stream_snr_db: tuple[float, float] = (5.0, 30.0),
        chunk_seconds: float = 10.0,
        keep_streams: Literal["none", "val", "all"] = "val",
        keep_clips: int = 0,
        on_bad_file: OnBadFile = "refuse",
        batch_size: int = 64,
        workers: int = 0,
        build_workers: int | None = None,
        seed: int | None = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        self.phrase = " ".join(split_words(phrase))
        self.path = None if path is None else Path(path).expanduser()
        self.negatives = [Path(folder).expanduser() for folder in negatives or ()]
        self.noise_folder = None if noise is None else Path(noise).expanduser()
        self.manifest, self.on_bad_file = manifest, on_bad_file
        self.folds, self.fold, self.val_fraction, self.evaluate_only = folds, fold, val_fraction, evaluate_only
        self.synthesis, self.synthetic_share = synthesis, synthetic_share
        self.hours = {"val": val_hours, "test": test_hours}
        self.corpus_seed, self.stream_snr_db, self.clips_per_epoch = corpus_seed, stream_snr_db, clips_per_epoch
        self.batch_size, self.workers, self.build_workers, self._seed = batch_size, workers, build_workers, seed
        self.keep_streams, self.keep_clips = keep_streams, keep_clips
        self.chunk = round(chunk_seconds * SAMPLE_RATE)
        samples = round(clip_seconds * 100) * (SAMPLE_RATE // 100)
        self.mixture = Mixture(samples, positive_share, near_share, noise_share, snr_db, gain_db)
        # Recordings take the place of synthesised keywords where they validate or test.
        keywords = (train_keywords, 0 if self._people("val") else val_keywords, 0 if self.path else test_keywords)
        near = [round(hours * near_per_hour) for hours in self.hours.values()]
        voiced = [math.ceil(hours * UTTERANCES_PER_HOUR) for hours in self.hours.values()]
        self.spec = WakeSpec(
            self.phrase, keywords, (train_near, near[0], near[1]), (train_speech, voiced[0], voiced[1]),
            near_phrases, held_out_voices, validation_voices, corpus_seed,
        )  # fmt: skip

    def _people(self, part: str) -> bool:
        """Whether recordings of people are in a part."""
        return self.path is not None and (part == "test" or not self.evaluate_only)

    def check(self) -> None:
        """Refuse, before anything is read or built, what certainly fails later."""
        Lexicon.default().pronounce(self.phrase)
        if self.noise_folder is not None:
            audio_files(self.noise_folder)
        if self.path is not None:
            takes = find_takes(self.phrase, self.path, self.manifest, self.negatives)
            check_takes(takes, self.on_bad_file)
            if not self.synthesis and all(take.positive for take in takes):
                raise UserError(
                    "every recording is the phrase: name folders without it in negatives, or use synthesis."
                )
            if not self.evaluate_only:
                split_takes(takes, range(len(takes)), self.folds, self.fold, self.val_fraction, self.corpus_seed)
        if self.synthesis:
            require_word_list()
            check_buildable(self._corpus_spec, self.spec.clips)
        for part, hours in self.hours.items():
            keywords = self.spec.keywords[PARTS.index(part)]
            if keywords > hours * 360:
                raise UserError(
                    f"{part}_keywords {keywords} do not fit into {part}_hours {hours}: at most 360 an hour, so that "
                    "there is negative audio between them."
                )

    def load(self) -> None:
        """Build the corpus, or decode the recordings, where the cache does not hold them."""
        self.seed = run_seed(self._seed)
        files = [] if self.noise_folder is None else audio_files(self.noise_folder)
        self.noise_files = divided(files, PARTS)
        self.corpus: Corpus | None = None
        if self.synthesis:
            self.corpus = open_or_build(self._corpus_spec(), lambda: write_script(self.spec), self.build_workers)
        self.recordings = None if self.path is None else self._read_recordings(self.path)
        self._cut_pieces()
        self._streams = self._lay_streams()

    def _corpus_spec(self) -> dict[str, Any]:
        packages = versions("espeakng-loader", "wordfreq", "misaki")
        return {"kind": "WakeWords", **asdict(self.spec), "packages": packages}

    def _read_recordings(self, folder: Path) -> Recordings:
        takes = find_takes(self.phrase, folder, self.manifest, self.negatives)
        clips = read_takes(takes, self.on_bad_file)
        usable = [int(clip) for clip in np.flatnonzero(clips.ok)]
        if self.evaluate_only:
            return Recordings(takes, clips, *tested_takes(takes, usable))
        split = split_takes(takes, usable, self.folds, self.fold, self.val_fraction, self.corpus_seed)
        return Recordings(takes, clips, *split)

    def _cut_pieces(self) -> None:
        """What training clips are put together from."""
        origins: list[Pieces] = []
        self.weights: list[float] = []
        if self.corpus is not None:
            origins.append(spoken_pieces(self.corpus))
            self.weights.append(self.synthetic_share if self._people("train") else 1.0)
        if self.recordings is not None and self._people("train"):
            origins.append(recorded_pieces(self.recordings))
            self.weights.append(1 - self.synthetic_share if self.synthesis else 1.0)
        self.origins, self.left_out = fitting(origins, self.mixture.samples / SAMPLE_RATE, self.phrase)

    def _lay_streams(self) -> dict[str, dict[int, Stream]]:
        """Streams of each part by number: synthesised ones, then recordings."""
        laid: dict[str, dict[int, Stream]] = {}
        first = 0
        for part, hours in self.hours.items():
            streams: list[Stream] = []
            if self.corpus is not None and hours > 0:
                keep = self.keep_streams in ("all", part)
                plan = Hours(part, hours, self.noise_files[part], self.corpus_seed, self.stream_snr_db, keep)
                streams += plan.lay(self.corpus)
            if self.recordings is not None and self._people(part):
                found = self.recordings
                streams += recorded_streams(found.clips, found.positives[part], found.negatives[part])
            laid[part] = dict(enumerate(streams, start=first))
            first += len(streams)
        return laid

    @property
    def phrase_phones(self) -> list[int]:
        """Phone ids of the phrase."""
        return Lexicon.default().pronounce(self.phrase).phones

    def train_dataloader(self) -> DataLoader:
        epoch = SharedEpoch()
        takes = sum(len(origin.keywords) for origin in self.origins)
        clips = self.clips_per_epoch or math.ceil(takes / self.mixture.positive_share)
        babble = next((o.speech for o in self.origins if o.speech), ())
        speech = DrawnSpeech(babble[0].source, [piece.clip for piece in babble]) if babble else None
        pool = NoisePool(NoiseSource(speech, self.noise_files["train"]), self.seed)
        fresh = WakeClips(self.origins, self.weights, pool, self.mixture, clips, self.seed, epoch)
        rows: Dataset = KeptClips(fresh, self.keep_clips, self._hash()) if self.keep_clips else fresh
        sampler = BucketBatchSampler(np.zeros(clips), self.batch_size, self.seed, epoch=epoch)
        return DataLoader(rows, batch_sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0)

    def val_dataloader(self) -> DataLoader:
        return self._chunks("val")

    def test_dataloader(self) -> list[DataLoader]:
        return [self._chunks("test")]

    def _chunks(self, part: str) -> DataLoader:
        chunks = StreamChunks(self._streams[part], self.chunk)
        # Lightning fears that several workers would each give all of it; here there is one at most.
        warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
        return DataLoader(chunks, batch_size=None, collate_fn=_as_it_is, num_workers=min(self.workers, 1))

    def streams(self, part: str) -> dict[int, Stream]:
        """The streams of ``val`` or ``test`` by number; no number is in both."""
        return dict(self._streams[part])

    def recording(self, stream: int) -> Path | None:
        """The file behind a stream that is one recording of the phrase: outcomes of two detectors are paired by it."""
        found = next(streams[stream] for streams in self._streams.values() if stream in streams)
        return self.recordings.takes[found.clip].file if self.recordings and isinstance(found, Clip) else None

    @property
    def negative_hours(self) -> dict[str, float]:
        """Hours without the phrase by part, at the metric's default tolerance and refractory time."""
        return {part: negative_hours(streams.values()) for part, streams in self._streams.items()}

    def summary(self) -> dict[str, Any]:
        """What the record says of the data: identity, sizes, negative hours, and what the parts share."""
        self.setup()
        recorded = {part: self.recordings for part in PARTS if self.recordings is not None and self._people(part)}
        result = {
            "hash": self._hash(),
            "protocol": f"wake word '{self.phrase}'",
            **parts(self.corpus, recorded, self.noise_files, self._streams),
            "left out of training for their length": self.left_out,
        }
        if self.recordings is not None:
            result |= {"split by": self.recordings.split_by, "folds": self.folds, "fold": self.fold}
            result["skipped"] = self.recordings.skipped
        return result

    def _hash(self) -> str:
        content: list[Any] = [asdict(self.mixture), self.stream_snr_db, *self.hours.values()]
        if self.corpus is not None:
            content.append(self.corpus.key)
        if self.recordings is not None:
            sides = (self.recordings.positives, self.recordings.negatives)
            content += [self.recordings.clips.hash, *([clips[part] for part in PARTS] for clips in sides)]
        for part in PARTS if self.noise_folder is not None else ():
            content.append(cached_clips(self.noise_files[part], trim=False, on_bad_file="refuse").hash)
        return content_hash(content)


def _as_it_is(item: Any) -> Any:
    return item
