"""A folder of a user's own videos, with a CSV file that says where faces are and who speaks."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightsleeper.data import video
from lightsleeper.data.ava_csv import Rows, read_rows
from lightsleeper.data.clip_tracks import runs_of, tracks_of
from lightsleeper.data.manifest import check_names
from lightsleeper.data.ranges import between
from lightsleeper.data.shards import map_shard, views, write_shard
from lightsleeper.data.speaker_tracks import SpeakerTracks
from lightsleeper.data.track_source import Track, TrackSource
from lightsleeper.data.word_texts import PARTS
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, sha256

CATALOG = ("SpeakerClips",)
_VERSION = 1  # raise when tracks are cut otherwise
_ARRAYS = {
    "faces": np.uint8, "audio": np.float32, "label3": np.int64, "timestamps": np.float64, "face_px": np.float32,
    "speakers": np.int64, "box": np.float64,
}  # fmt: skip
_SCHEMA = pa.schema([("entity", pa.string()), *((name, pa.large_binary()) for name in _ARRAYS)])


class SpeakerClips(SpeakerTracks):
    """Videos and labelled face boxes of one's own. Needs PyAV, the ``video`` extra.

    The CSV file has AVA's columns (see `data.ava_csv`); ``video_id`` is the name of a video without its ending, boxes
    are shares of the picture, SPEAKING_NOT_AUDIBLE is told apart but counts as silent. Videos are decoded once, at 25
    frames a second, and their face crops kept in the cache folder. For the batches see
    `data.speaker_tracks.SpeakerTracks`.

    Args:
        path: folder of videos (mp4, mkv, mov, webm, avi, m4v), searched through.
        faces: the CSV file, from ``path``.
        size: width and height of a face, pixels.
        test_videos: those of the test, by ``video_id``. None: drawn.
        test_fraction: share of videos that is drawn for the test.
        val_fraction: share of the others that validates.
        evaluate_only: whether all of it is test data.
        split_seed: of these draws.
        batch_frames: frames of a training batch, at most.
        augment: flip, crop and turn training tracks, and add other tracks' sound.
        workers: processes that prepare batches.
        seed: of what training draws. None: the run's seed.

    Raises:
        UserError: an argument is out of range; PyAV, the CSV file or a video is missing or damaged.
    """

    protocol = "own clips"

    def __init__(
        self,
        path: str | Path,
        faces: str = "faces.csv",
        size: int = 112,
        test_videos: list[str] | None = None,
        test_fraction: float = 0.3,
        val_fraction: float = 0.2,
        evaluate_only: bool = False,
        split_seed: int = 0,
        batch_frames: int = 2000,
        augment: bool = True,
        workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, batch_frames, augment, workers, seed)
        between(0, 1, test_fraction=test_fraction, val_fraction=val_fraction)
        self.path, self.faces = Path(path).expanduser(), faces
        self.test_videos, self.test_fraction, self.val_fraction = test_videos, test_fraction, val_fraction
        self.evaluate_only, self.split_seed = evaluate_only, split_seed

    @cached_property
    def rows(self) -> Rows:
        """The CSV file."""
        if not self.path.is_dir():
            raise UserError(f"folder of videos {self.path} does not exist.")
        return read_rows(self.path / self.faces)

    def files(self) -> dict[str, Path]:
        """The video of each ``video_id`` that has rows. Raises UserError where one is missing or there are two."""
        found: dict[str, Path] = {}
        for file in sorted(self.path.rglob("*")):
            if file.suffix.lower() in video.SUFFIXES:
                if file.stem in found:
                    raise UserError(f"two videos are called '{file.stem}': {found[file.stem]} and {file}.")
                found[file.stem] = file
        named = sorted(set(self.rows.video.tolist()))
        if missing := [name for name in named if name not in found]:
            some = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
            raise UserError(f"{self.path} lacks {len(missing)} of the {len(named)} videos in {self.faces}: {some}.")
        return {name: found[name] for name in named}

    def check(self) -> None:
        """Refuse, before anything is decoded, what is missing."""
        video.require_av()
        check_names(self.test_videos or (), list(self.files()), "test_videos")

    def collect(self) -> dict[str, TrackSource]:
        self.check()
        files = self.files()
        self.shards = {name: self._shard(file) for name, file in files.items()}
        self.members_of = self._split(list(files))
        return {part: ShardTracks([self.shards[name] for name in names], names, self.size)
                for part, names in self.members_of.items()}  # fmt: skip

    def _split(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Videos by part; a training set keeps one at least."""
        if self.evaluate_only:
            return {"train": [], "val": [], "test": list(names)}
        order = [names[i] for i in np.random.default_rng([self.split_seed, 76]).permutation(len(names))]
        count = max(1, round(self.test_fraction * len(order)))
        test = self.test_videos or order[:count]
        rest = [name for name in order if name not in test]
        held = max(1, round(self.val_fraction * len(rest)))
        found = {"train": sorted(rest[held:]), "val": sorted(rest[:held]), "test": sorted(test)}
        for part in PARTS:
            if not found[part]:
                raise UserError(f"{self.path}: {len(names)} videos leave none for '{part}'; three are the fewest.")
        return found

    def _shard(self, file: Path) -> Path:
        """The tracks of a video as an Arrow file in the cache, cut now where it is missing."""
        stamp = file.stat()
        labels = sha256(self.path / self.faces)
        key = content_hash([_VERSION, str(file.absolute()), stamp.st_size, stamp.st_mtime_ns, labels, self.size])
        shard = cache_folder("clips") / f"{key}.arrow"
        if not shard.exists():
            runs_of(self.rows, file.stem)
            tracks = tracks_of(file, self.rows, self.size)
            if not tracks:
                raise UserError(f"{self.path / self.faces}: no box of '{file.stem}' lies within the video.")
            rows: dict[str, list[Any]] = {"entity": [track.entity for track in tracks]}
            for name, dtype in _ARRAYS.items():
                rows[name] = [np.asarray(getattr(track, name), dtype).tobytes() for track in tracks]
            write_shard(shard, _SCHEMA, rows, rows["faces"])
        return shard

    def origin(self) -> str:
        return content_hash([[shard.stem for shard in self.shards.values()], self.members_of])

    def members(self, part: str) -> dict[str, set[Any]]:
        return {"videos": set(self.members_of[part])}


class ShardTracks:
    """Tracks of some videos, read through memory maps."""

    def __init__(self, shards: Sequence[Path], names: Sequence[str], size: int) -> None:
        self.shards, self.names, self.size = list(shards), list(names), size
        self._open()

    def _open(self) -> None:
        self._rows: list[dict[str, Any]] = []
        for shard, name in zip(self.shards, self.names, strict=True):
            table = map_shard(shard)
            columns = {key: views(table.column(key).chunk(0), dtype) for key, dtype in _ARRAYS.items()}
            for row, entity in enumerate(table.column("entity").to_pylist()):
                arrays = {key: column[row] for key, column in columns.items()}
                self._rows.append({"video": name, "entity": entity, **arrays})

    def __getstate__(self) -> dict[str, Any]:  # memory maps do not travel
        return {"shards": self.shards, "names": self.names, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def frames(self) -> NDArray[np.int64]:
        return np.array([len(row["label3"]) for row in self._rows], np.int64)

    def track(self, number: int) -> Track:
        row = self._rows[number]
        faces, box = row["faces"].reshape(-1, self.size, self.size), row["box"].reshape(-1, 4)
        return Track(**{**row, "faces": faces, "box": box})
