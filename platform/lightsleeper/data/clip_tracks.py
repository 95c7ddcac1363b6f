"""Face tracks of a video and a CSV file of boxes: crops and labels on a grid of 25 frames a second.

Boxes may be given for other times than those of the grid: between two rows of a face at most half a second apart they
move evenly. A longer gap ends a track, and a new one begins after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data import video
from lightsleeper.data.ava_csv import Rows
from lightsleeper.data.mfcc import FPS
from lightsleeper.data.track_source import Track
from lightsleeper.errors import UserError

LONGEST_GAP_S = 0.5
_SAMPLES = video.SAMPLE_RATE // int(FPS)  # on a frame
_HAIR_S = 1e-3  # by which times of a CSV file are rounded


@dataclass(frozen=True)
class Run:
    """A face without a gap: its rows in the CSV file by time, and its first and last frame on the grid."""

    name: str
    entity: str
    times: NDArray[np.float64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    first: int
    last: int
    """Inclusive."""

    def box(self, frame: int) -> NDArray[np.float64]:
        """Left, top, right, bottom at a frame of the grid, shares of the picture."""
        return np.array([np.interp(frame / FPS, self.times, side) for side in self.boxes.T])

    def label(self, frame: int) -> int:
        """Of the row that is nearest in time."""
        return int(self.labels[np.abs(self.times - frame / FPS).argmin()])


def runs_of(rows: Rows, name: str) -> list[Run]:
    """The tracks of the video ``name``, in the order of their beginnings. Raises UserError where it has no row."""
    chosen = np.flatnonzero(rows.video == name)
    if not len(chosen):
        known = sorted(set(rows.video.tolist()))
        listed = ", ".join(known[:3]) + (" ..." if len(known) > 3 else "")
        raise UserError(f"{rows.path} has no face of '{name}'; its videos: {listed}.")
    found = []
    for entity in np.unique(rows.entity[chosen]).tolist():
        own = chosen[rows.entity[chosen] == entity]
        own = own[np.argsort(rows.timestamp[own], kind="stable")]
        cuts = np.flatnonzero(np.diff(rows.timestamp[own]) > LONGEST_GAP_S) + 1
        for number, part in enumerate(np.split(own, cuts)):
            times = rows.timestamp[part]
            first, last = int(np.ceil((times[0] - _HAIR_S) * FPS)), int(np.floor((times[-1] + _HAIR_S) * FPS))
            if first <= last:
                label = entity if len(cuts) == 0 else f"{entity} {number + 1}"
                found.append(Run(label, entity, times, rows.box[part], rows.label[part], first, last))
    return sorted(found, key=lambda run: (run.first, run.name))


def grid(path: Path, colour: str = "gray") -> Iterator[NDArray[np.uint8]]:
    """The pictures of a video at 25 frames a second: at each moment the newest there is."""
    newest, due = None, 0
    for time, picture in video.pictures(path, colour):
        while newest is not None and due / FPS + _HAIR_S < time:
            yield newest
            due += 1
        newest = picture
    if newest is not None:
        yield newest


def cut_face(picture: NDArray[np.uint8], box: NDArray[np.float64], size: int) -> tuple[NDArray[np.uint8], int]:
    """The face (size, size) of a grey picture (H, W), and its width in pixels; a box beyond the picture is cut off."""
    from lightsleeper.data.ava_active_speaker import resized

    height, width = picture.shape
    left, right = (int(round(float(np.clip(x, 0, 1)) * width)) for x in (box[0], box[2]))
    top, bottom = (int(round(float(np.clip(y, 0, 1)) * height)) for y in (box[1], box[3]))
    left, top = min(left, width - 1), min(top, height - 1)
    crop = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
    return resized(crop, size), crop.shape[1]


def tracks_of(path: Path, rows: Rows, size: int) -> list[Track]:
    """All tracks of a video whose file name, without its ending, is the ``video_id`` of the rows.

    Raises:
        UserError: the video is missing, damaged, has no sound, or no row.
    """
    name = path.stem
    runs = runs_of(rows, name)
    heard = video.sound(path)
    crops: dict[str, list[tuple[NDArray[np.uint8], int, int]]] = {run.name: [] for run in runs}
    for frame, picture in enumerate(grid(path)):
        there = [run for run in runs if run.first <= frame <= run.last]
        for run in there:
            crops[run.name].append((*cut_face(picture, run.box(frame), size), len(there)))
    found = []
    for run in runs:
        if not crops[run.name]:
            continue  # boxes beyond the end of the video
        faces, px, people = zip(*crops[run.name], strict=True)
        frames = np.arange(run.first, run.first + len(faces))
        first, end = frames[0] * _SAMPLES, (frames[-1] + 2) * _SAMPLES  # the last windows reach into the next frame
        found.append(
            Track(
                faces=np.stack(faces),
                audio=heard[first:end],
                label3=np.array([run.label(int(frame)) for frame in frames], np.int64),
                timestamps=frames / FPS,
                face_px=np.array(px, np.float32),
                speakers=np.array(people, np.int64),
                entity=run.name,
                video=name,
                box=np.stack([run.box(int(frame)) for frame in frames]),
            )
        )
    return found
