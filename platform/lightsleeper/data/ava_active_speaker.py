"""AVA-ActiveSpeaker as TalkNet and Light-ASD prepare it: a CSV file per part, face crops, the sound of each track.

    csv/train_orig.csv, csv/val_orig.csv        or train.csv, val.csv, or folders of those names; see `ava_csv`
    clips_videos/<part>/<video>/<entity>/<timestamp>.jpg
    clips_audios/<part>/<video>/<entity>.wav

A colon in an entity's name may be an underscore on disk. Crops are read when they are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from lightsleeper.data.audio import SAMPLE_RATE, opened
from lightsleeper.data.ava_csv import Rows, read_rows
from lightsleeper.data.clip_cache import OnBadFile
from lightsleeper.data.mfcc import FPS
from lightsleeper.data.ranges import at_least
from lightsleeper.data.speaker_tracks import SpeakerTracks
from lightsleeper.data.track_source import Track, TrackSource
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash, sha256

CATALOG = ("AVAActiveSpeaker",)
_NAMES = ("{part}_orig.csv", "{part}.csv", "{part}")  # of labels, in csv/ or beside it
_LONGEST_S = 0.1  # between two frames of a track that follow each other


@dataclass(frozen=True)
class Entity:
    """A track: its rows in the CSV file, by time, and its files."""

    name: str
    video: str
    rows: NDArray[np.int64]
    crops: Path
    sound: Path


class AVAActiveSpeaker(SpeakerTracks):
    """Face tracks of films, of which users prepare 300 GB themselves (TalkNet's preparation script).

    What papers report is measured on AVA's validation videos, also here: they are the test. Epochs are compared on
    ``validation_videos`` of the training videos; published code compares them on the test itself. For the batches see
    `data.speaker_tracks.SpeakerTracks`; pictures and sound keep their own frame rate.

    Args:
        path: the prepared folder.
        size: width and height of a face, pixels. Published: 112.
        validation_videos: training videos that choose the epoch and the threshold. 0: AVA's validation videos, as in
            published code.
        max_tracks: tracks of each part at most, drawn, for a quick look. None: all.
        split_seed: of these draws.
        batch_frames: frames of a training batch, at most.
        augment: flip, crop and turn training tracks, and add other tracks' sound.
        on_bad_file: refuse to start, or leave out tracks whose files are missing.
        workers: processes that read crops.
        seed: of what training draws. None: the run's seed.

    Raises:
        UserError: an argument is out of range; files are missing or no CSV files; later, a crop cannot be read.
    """

    protocol = "AVA-ActiveSpeaker, test: its validation videos"

    def __init__(
        self,
        path: str | Path,
        size: int = 112,
        validation_videos: int = 12,
        max_tracks: int | None = None,
        split_seed: int = 0,
        batch_frames: int = 2000,
        augment: bool = True,
        on_bad_file: OnBadFile = "refuse",
        workers: int = 4,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, batch_frames, augment, workers, seed)
        at_least(0, validation_videos=validation_videos)
        at_least(1, max_tracks=max_tracks)
        self.path = Path(path).expanduser()
        self.validation_videos, self.max_tracks, self.split_seed = validation_videos, max_tracks, split_seed
        self.on_bad_file = on_bad_file
        self.left_out: list[str] = []

    def check(self) -> None:
        """Refuse, before anything is read, folders and label files that are not there."""
        for part in ("train", "val"):
            self._labels(part)
            for folder in ("clips_videos", "clips_audios"):
                if not (self.path / folder / part).is_dir():
                    raise UserError(f"{self.path / folder / part} is missing: see the layout in `AVAActiveSpeaker`.")

    def _labels(self, part: str) -> Path:
        if not self.path.is_dir():
            raise UserError(f"folder {self.path} does not exist.")
        tried = [self.path / place / name.format(part=part) for place in ("csv", "") for name in _NAMES]
        for file in tried:
            if file.exists():
                return file
        raise UserError(f"{self.path} has no labels of '{part}': expected csv/{part}_orig.csv.")

    def collect(self) -> dict[str, TrackSource]:
        self.check()
        rng = np.random.default_rng([self.split_seed, 75])
        found = {part: self._entities(part) for part in ("train", "val")}
        videos = sorted({entity.video for entity in found["train"][1]})
        if self.validation_videos >= len(videos):
            raise UserError(f"validation_videos {self.validation_videos}: there are {len(videos)} training videos.")
        apart = {videos[i] for i in rng.permutation(len(videos))[: self.validation_videos]}
        rows, entities = found["train"]
        chosen = {
            "train": (rows, [entity for entity in entities if entity.video not in apart]),
            "val": (rows, [entity for entity in entities if entity.video in apart]) if apart else found["val"],
            "test": found["val"],
        }
        return {part: EntityTracks(rows, self._some(some, rng), self.size) for part, (rows, some) in chosen.items()}

    def _some(self, entities: list[Entity], rng: np.random.Generator) -> list[Entity]:
        if self.max_tracks is None or len(entities) <= self.max_tracks:
            return entities
        return [entities[i] for i in sorted(rng.permutation(len(entities))[: self.max_tracks])]

    def _entities(self, part: str) -> tuple[Rows, list[Entity]]:
        """The labelled rows of a part, and its tracks; those without files are refused or left out."""
        rows = read_rows(self._labels(part))
        order = np.lexsort([rows.timestamp, rows.entity, rows.video])
        names = np.char.add(np.char.add(rows.video, "/"), rows.entity)[order]
        starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
        good, bad = [], []
        for group in np.split(order, starts[1:]):
            name, video = str(rows.entity[group[0]]), str(rows.video[group[0]])
            crops = _either(self.path / "clips_videos" / part / video, name)
            sound = _either(self.path / "clips_audios" / part / video, f"{name}.wav")
            if crops is None or sound is None:
                bad.append(name)
            else:
                good.append(Entity(name, video, group, crops, sound))
        self._judge(part, good, bad)
        return rows, good

    def _judge(self, part: str, good: Sequence[Entity], bad: Sequence[str]) -> None:
        self.left_out += bad
        if not bad or (good and self.on_bad_file == "skip"):
            return
        some = ", ".join(bad[:3]) + (" ..." if len(bad) > 3 else "")
        hint = " Prepare them, or set on_bad_file to skip." if good else ""
        raise UserError(
            f"{len(bad)} of {len(bad) + len(good)} tracks of '{part}' lack crops or sound in {self.path}: {some}.{hint}"
        )

    def origin(self) -> str:
        labels = [sha256(file) for part in ("train", "val") for file in _files(self._labels(part))]
        names = {part: [entity.name for entity in source.entities] for part, source in self._sources().items()}
        return content_hash([labels, names, self.size])

    def members(self, part: str) -> dict[str, set[Any]]:
        entities = self._sources()[part].entities
        return {"videos": {entity.video for entity in entities}, "entities": {entity.name for entity in entities}}

    def _sources(self) -> dict[str, "EntityTracks"]:
        return self.parts  # type: ignore[return-value]

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "skipped": sorted(set(self.left_out))}


class EntityTracks:
    """Tracks of one part; crops and sound are read when asked for."""

    def __init__(self, rows: Rows, entities: Sequence[Entity], size: int) -> None:
        self.rows, self.entities, self.size = rows, entities, size
        self._together = rows.faces_in_frame()

    @property
    def frames(self) -> NDArray[np.int64]:
        return np.array([len(entity.rows) for entity in self.entities], np.int64)

    def track(self, number: int) -> Track:
        """Raises UserError where a crop or the sound is missing or damaged."""
        entity = self.entities[number]
        times = self.rows.timestamp[entity.rows]
        crops = [read_crop(file, self.size) for file in crop_files(entity.crops, times)]
        return Track(
            faces=np.stack([crop for crop, _ in crops]),
            audio=_sound(entity.sound),
            label3=self.rows.label[entity.rows],
            timestamps=times,
            face_px=np.array([px for _, px in crops], np.float32),
            speakers=self._together[entity.rows],
            entity=entity.name,
            video=entity.video,
            fps=frame_rate(times),
            box=self.rows.box[entity.rows],
        )


def _sound(path: Path) -> NDArray[np.float32]:
    """Mono, 16 kHz, however short: some faces are seen for one frame. Raises AudioError."""
    with opened(path) as file:
        mono = file.read(dtype="float32", always_2d=True).mean(1)
        rate = file.samplerate
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)


def frame_rate(times_s: NDArray[np.float64]) -> float:
    """Frames a second of a track (T,), from the mean distance of two that follow each other; 25 for a single frame.

    Times in the files have two decimals, so a single distance tells little.
    """
    distances = np.diff(times_s)
    distances = distances[(distances > 0) & (distances <= _LONGEST_S)]
    return FPS if not len(distances) else 1 / float(distances.mean())


def crop_files(folder: Path, times_s: NDArray[np.float64]) -> list[Path]:
    """The crop of each time: files are named by it, with two decimals. Raises UserError for one that is missing."""
    found = {}
    for file in folder.glob("*.jpg"):
        try:
            found[round(float(file.stem), 2)] = file
        except ValueError:
            continue
    missing = [time for time in times_s if round(float(time), 2) not in found]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(times_s)} crops are missing (first: {missing[0]:.2f}.jpg).")
    return [found[round(float(time), 2)] for time in times_s]


def read_crop(file: Path, size: int) -> tuple[NDArray[np.uint8], int]:
    """A crop (size, size) in grey, and its width in the film. Raises UserError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            grey = np.asarray(image.convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"face crop {file} cannot be read: {error}.") from None
    return resized(grey, size), grey.shape[1]


def resized(grey: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (H, W) as (size, size), bilinear without smoothing before: what OpenCV does in published code."""
    import torch

    picture = torch.from_numpy(grey.copy())[None, None].float()
    found = torch.nn.functional.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False)
    return found[0, 0].round().to(torch.uint8).numpy()


def _either(folder: Path, name: str) -> Path | None:
    """The file or folder of that name, a colon in it perhaps an underscore."""
    return next((p for p in (folder / name, folder / name.replace(":", "_")) if p.exists()), None)


def _files(labels: Path) -> list[Path]:
    return sorted(labels.glob("*.csv")) if labels.is_dir() else [labels]
